"""Pages for anybody to open: one for each run, and an index of the lake. Made of what runs stored, never of rows."""
