"""The command line: one module for each group of commands, no work of its own."""
