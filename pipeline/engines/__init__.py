"""Maps one function over many tasks: in threads, in processes, or on a Spark cluster."""
