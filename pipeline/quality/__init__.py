"""Data quality: suites, the checks that every job has, guards, quarantine, history and Data Docs. See docs/quality.md."""
