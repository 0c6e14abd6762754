"""The list of stages, and running them for a day."""
