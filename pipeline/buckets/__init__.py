"""Scores a day in buckets of keys, each of which is a small day: in several processes, or on several machines."""
