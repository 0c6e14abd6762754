"""Maintenance of a lake: roll back a run, verify stored data, clean up, erase a key."""
