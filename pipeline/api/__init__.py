"""For programs in Python: scoring tables, and reading a lake. `pipeline/__init__.py` lists the public names."""
