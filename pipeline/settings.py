"""Machine-specific settings, such as paths and resource limits, read once from environment variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UsageError


@dataclass(frozen=True)
class Settings:
    """Each field can be set by an environment variable: `LAKESCORE_` plus the field's name in upper case.

    `device`, `memory_limit` and `threads` override the job's `[engine]` table, because they belong to the machine.
    """

    lake: str = "lake"
    jobs: Path = Path("dags/jobs")
    models: str = "models"
    job: str | None = None
    """The job that commands mean without `--job`: its name, or the path of its folder."""
    device: str | None = None
    memory_limit: str | None = None
    """Memory limit of DuckDB, such as `500MB`. Torch, Arrow and the interpreter need about 350 MB in addition.
    By default it follows columns, cores and memory, see `database/resources.py`."""
    threads: int | None = None
    spark: str | None = None
    """Address of a Spark master or Connect server, for jobs with `name = "spark"` under [engine]; may hold a token."""

    pages: str | None = None
    """Address at which a web server shows the lake's pages; overrides `address` in the job's `[report]` table."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Raises UsageError if LAKESCORE_THREADS is not a positive integer."""
        threads = environ.get("LAKESCORE_THREADS")
        if threads is not None and not (threads.isdecimal() and int(threads) > 0):
            raise UsageError("LAKESCORE_THREADS is not a number of threads", expected="1 or more", got=repr(threads))
        return cls(
            lake=environ.get("LAKESCORE_LAKE", cls.lake),
            jobs=Path(environ.get("LAKESCORE_JOBS", str(cls.jobs))),
            models=environ.get("LAKESCORE_MODELS", cls.models),
            job=environ.get("LAKESCORE_JOB") or None,
            device=environ.get("LAKESCORE_DEVICE"),
            memory_limit=environ.get("LAKESCORE_MEMORY_LIMIT"),
            threads=int(threads) if threads else None,
            spark=environ.get("LAKESCORE_SPARK"),
            pages=environ.get("LAKESCORE_PAGES") or None,
        )
