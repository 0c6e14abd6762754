"""Most of what a file is read for is an import: its fixtures."""

from tests.ingest.conftest import bring, job_reading, lake

__all__ = ["bring", "job_reading", "lake"]
