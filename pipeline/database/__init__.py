"""DuckDB: connections, reading files, translating its errors, keys, and the SELECTs in `sql/`."""
