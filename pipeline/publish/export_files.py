"""The files of an export: the same bytes for the same rows, whatever the number of threads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
from duckdb import SQLExpression

from pipeline.database.connection import translated_errors
from pipeline.errors import DeliveryRefused
from pipeline.query.spreadsheet import flat, formula_in_key, spreadsheet_safe
from pipeline.storage import sync_file
from pipeline.storage.parquet import ROW_GROUP, write_parquet

if TYPE_CHECKING:
    import pyarrow as pa
    from duckdb import DuckDBPyRelation as Relation

SUFFIXES = {"csv": ".csv", "parquet": ".parquet", "jsonl": ".jsonl"}


@dataclass(frozen=True)
class Written:
    """A finished file on the local disk."""

    path: Path
    what: str
    """Its rows: `rows`, `holdout`, `added`, `changed` or `removed`."""
    rows: int
    sha256: str

    def as_dict(self) -> dict[str, object]:
        size = self.path.stat().st_size
        return {"name": self.path.name, "what": self.what, "rows": self.rows, "bytes": size, "sha256": self.sha256}


def write_file(
    rows: Relation,
    path: Path,
    what: str,
    *,
    metadata: Mapping[str, str],
    keys: Collection[str] = (),
    safe: bool = False,
) -> Written:
    """Writes ordered rows in the format of the path's suffix.

    `metadata` goes into Parquet; with `safe`, texts that a spreadsheet would compute get an apostrophe, but for those
    in the columns `keys`. Raises DeliveryRefused if one of these looks like a formula.
    """
    if path.suffix == ".csv":
        rows = flat(rows)
        rows = spreadsheet_safe(rows, keys) if safe else rows
        count = _write_csv(rows, path)
    elif path.suffix == ".jsonl":
        count = _write_json_lines(rows, path)
    else:
        with _reading(rows, path) as (schema, batches):
            count = write_parquet(path, schema, batches, metadata)
    sync_file(path)
    with path.open("rb") as file:
        return Written(path, what, count, hashlib.file_digest(file, "sha256").hexdigest())


def digest_of(files: Iterable[Written]) -> str:
    """Returns the sha256 over the names and contents of files."""
    lines = sorted(f"{file.path.name}\t{file.sha256}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _write_csv(rows: Relation, path: Path) -> int:
    from pyarrow import csv

    count = 0
    with _reading(rows, path) as (schema, batches), csv.CSVWriter(path, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
            count += batch.num_rows
    return count


def _write_json_lines(rows: Relation, path: Path) -> int:
    """Writes an object per line. NaN and infinities, which JSON lacks, become null."""
    count = 0
    with (
        _reading(rows.set_alias("__row").select(SQLExpression("to_json(__row)")), path) as (_, batches),
        path.open("xb") as file,
    ):
        for batch in batches:
            for text in batch.column(0).to_pylist():
                line = text
                if "NaN" in text or "Infinity" in text:
                    line = json.dumps(json.loads(text, parse_constant=lambda _: None), ensure_ascii=False)
                file.write(line.encode() + b"\n")
            count += batch.num_rows
    return count


@contextmanager
def _reading(rows: Relation, path: Path) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
    with translated_errors(path):
        try:
            with rows.to_arrow_reader(ROW_GROUP) as reader:
                yield reader.schema, iter(reader)
        except (duckdb.Error, OSError) as error:
            if (refused := formula_in_key(str(error), "spreadsheet_safe = true")) is None:
                raise
            raise DeliveryRefused(refused.what, where=refused.where, next_step=refused.next_step) from None
