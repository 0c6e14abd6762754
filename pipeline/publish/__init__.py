"""Handing committed predictions on: delivery records (`delivery.py`), the stage (`stage.py`), and a sender per kind."""
