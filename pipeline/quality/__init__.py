"""Data quality: suites, the checks that every job has, guards, quarantine, history, Data Docs: docs/quality.md."""
