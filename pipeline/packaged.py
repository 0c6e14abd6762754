"""Locates the files that ship with the package: the SELECTs in `sql/`, and DAG, default job and examples in `dags/`."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path


def resources() -> Path:
    """Returns the folder that holds `sql/` and `dags/`: the installed package, or the checkout around it."""
    package = Path(__file__).parent
    return package if (package / "sql").is_dir() else package.parent


def examples() -> dict[str, Path]:
    """Returns the folders of the examples of `lakescore init`, by name."""
    found = sorted((resources() / "dags" / "examples").glob("*/example.toml"))
    return {path.parent.name: path.parent for path in found}


def queries() -> Traversable:
    """Returns the folder `sql/`, which may lie in an archive: the executors of a cluster can import the package so."""
    packaged = files("pipeline") / "sql"
    return packaged if packaged.is_dir() else resources() / "sql"
