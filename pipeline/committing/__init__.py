"""Commits what a run has staged, exactly once, if every row adds up."""
