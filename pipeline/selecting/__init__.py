"""Selects the rows of a run: the input, what is stored, which rows need a score, and why."""
