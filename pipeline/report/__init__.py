"""Static HTML pages: one per run, and an index of the lake. Built from what runs have stored, never from input rows."""
