"""Suites: their expectations, read from files, and their row rules as SQL. quality/ applies them."""
