"""Reads a lake's input independently of the pipeline, with only pyarrow and the file system."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.lake.layout import Lake

ROOT = Path(__file__).parent.parent.parent
UNSCORED = "unscored/ds={ds}/*.parquet"


def day_files(lake: Lake, ds: str) -> list[Path]:
    return sorted(lake.workspace.root.glob(UNSCORED.format(ds=ds)))


def rows_of(lake: Lake, ds: str) -> pa.Table:
    """Returns the rows of a day, without the columns from the path."""
    return pa.concat_tables(pq.ParquetFile(path).read() for path in day_files(lake, ds))


def days_of(lake: Lake) -> list[str]:
    """Returns the days whose folder exists, with or without files."""
    return sorted(path.name.removeprefix("ds=") for path in lake.workspace.root.glob("unscored/ds=*"))


def hidden(lake: Lake) -> list[Path]:
    """Returns files and folders that are in use by an import, or left behind by one."""
    root = lake.workspace.root
    kept = {root / ".staging" / name for name in ("probed", "locks")}
    staged = [path for path in root.glob(".staging/*") if path not in kept]
    return sorted([*staged, *(path for path in root.rglob(".*") if path.name not in {".writing", ".staging"})])
