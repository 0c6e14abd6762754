"""The command line: one module per group of commands. The work itself is done in other rooms."""
