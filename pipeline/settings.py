"""What differs between machines: where things lie and what the machine has. From the environment, read once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UsageError


@dataclass(frozen=True)
class Settings:
    """Each field can be set by an environment variable, `LAKESCORE_` and the field's name in capitals.

    The engine's settings override those of the job: they belong to the machine.
    """

    lake: str = "lake"
    jobs: Path = Path("dags/jobs")
    models: str = "models"
    device: str | None = None
    memory_limit: str | None = None
    """DuckDB's, such as `500MB`. Torch, Arrow and the interpreter come on top of it (about 350 MB)."""
    threads: int | None = None

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Raises UsageError for a number of threads that is not a positive number."""
        threads = environ.get("LAKESCORE_THREADS")
        if threads is not None and not (threads.isdecimal() and int(threads) > 0):
            raise UsageError("LAKESCORE_THREADS is not a number of threads", expected="1 or more", got=repr(threads))
        return cls(
            lake=environ.get("LAKESCORE_LAKE", cls.lake),
            jobs=Path(environ.get("LAKESCORE_JOBS", str(cls.jobs))),
            models=environ.get("LAKESCORE_MODELS", cls.models),
            device=environ.get("LAKESCORE_DEVICE"),
            memory_limit=environ.get("LAKESCORE_MEMORY_LIMIT"),
            threads=int(threads) if threads else None,
        )
