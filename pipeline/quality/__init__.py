"""Data quality: suites, built-in checks, guards, quarantine and history. See docs/quality.md."""
