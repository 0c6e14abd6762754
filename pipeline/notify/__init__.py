"""Telling people how a run ended: the message (`message.py`), and the ways it goes out (`channels.py`)."""
