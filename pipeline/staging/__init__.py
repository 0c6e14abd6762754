"""Predictions that are written but not committed yet."""
