"""SQL over the history: the views, queries in a sandbox, and the catalog for other clients."""
