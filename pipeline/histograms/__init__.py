"""Histograms: counting values by bins, shared by profiles, drift, the training baseline and the report."""
