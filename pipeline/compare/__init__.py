"""Compares two model versions, which score the same rows: what changes, and for which segments."""
