"""The same day scored with other tools, each as its documentation recommends: a script each, a whole process each.

Each reads the day's input, leaves out the keys that have a prediction, runs the same network, and writes Parquet with
the same outputs. None of them proves that keys are unique, hashes rows, counts a ledger or survives a crash.
"""
