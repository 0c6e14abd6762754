"""The layout of a lake, and its run records."""
