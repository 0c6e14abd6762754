"""Notifications about the end of a run: the message (`message.py`) and its delivery (`channels.py`)."""
