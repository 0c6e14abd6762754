"""Drift: how a day's profile differs from training and from earlier days; and performance, once labels arrive."""
