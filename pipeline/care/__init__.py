"""Care of a lake: take a run back, look for damage, clear away, erase a key."""
