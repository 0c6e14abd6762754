"""What a reader sees of a lake's input, with pyarrow and the file system alone."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.lake import Lake

ROOT = Path(__file__).parent.parent.parent
UNSCORED = "unscored/ds={ds}/*.parquet"


def day_files(lake: Lake, ds: str) -> list[Path]:
    return sorted(lake.workspace.root.glob(UNSCORED.format(ds=ds)))


def rows_of(lake: Lake, ds: str) -> pa.Table:
    """Returns the rows of a day, without the columns that stand in the path."""
    return pa.concat_tables(pq.ParquetFile(path).read() for path in day_files(lake, ds))


def days_of(lake: Lake) -> list[str]:
    """Returns the days whose folder is there, with or without files."""
    return sorted(path.name.removeprefix("ds=") for path in lake.workspace.root.glob("unscored/ds=*"))


def hidden(lake: Lake) -> list[Path]:
    """Returns what is in work, or was left behind."""
    return sorted(path for path in lake.workspace.root.rglob(".*") if path.name != ".writing")
