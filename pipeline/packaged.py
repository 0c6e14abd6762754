"""Locates the files that ship with the package: the SELECTs in `sql/` and the default job in `dags/jobs/`."""

from __future__ import annotations

from pathlib import Path


def resources() -> Path:
    """Returns the folder that holds `sql/` and `dags/`: the installed package, or the checkout around it."""
    package = Path(__file__).parent
    return package if (package / "sql").is_dir() else package.parent
