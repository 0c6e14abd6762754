"""How the rows of a query are shown or written: as a table, CSV, JSON or Parquet. All but the table are streamed."""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import IO, Any

from pipeline.cli.output import cell, console, table
from pipeline.errors import UsageError
from pipeline.query import Result
from pipeline.storage import explained, sync_file, sync_folder


class Format(StrEnum):
    table = "table"
    csv = "csv"
    json = "json"
    parquet = "parquet"


def show(result: Result, limit: int) -> None:
    """Prints the first rows as a table or, where that is too wide, one below the other."""
    rows: list[list[Any]] = []
    for batch in result.batches(limit + 1):
        rows += ([_plain(value) for value in row] for row in zip(*(column.to_pylist() for column in batch), strict=True))
        if len(rows) > limit:
            break
    if result.columns == ["explain_key", "explain_value"]:
        console().print("\n".join(row[1] for row in rows), markup=False)
        return
    if (columns := _fitting(result.columns, rows[:limit])) is not None:
        table(columns, rows[:limit])
    else:
        _show_records(result.columns, rows[:limit])
    if len(rows) > limit:
        note = f"{limit:,} of {result.count():,} rows; --limit shows more, --format csv, json or parquet all of them"
        console(stderr=True).print(note)


def write(result: Result, form: Format, target: Path | None) -> None:
    """Writes all rows to standard output, or to a file that appears whole or not at all."""
    writer = {Format.csv: _write_csv, Format.json: _write_json, Format.parquet: _write_parquet}[form]
    if target is not None:
        with _replaced(target) as file:
            writer(result, file)
        return
    if form is Format.parquet and sys.stdout.isatty():
        raise UsageError("Parquet is nothing for a terminal", next_step="add --output FILE, or choose --format csv")
    with _standard_output() as file:
        writer(result, file)


def _write_csv(result: Result, file: IO[bytes]) -> None:
    import pyarrow as pa
    from pyarrow import csv

    text = result.as_text()
    schema = pa.schema([(name, pa.string()) for name in text.columns])
    with csv.CSVWriter(file, schema, write_options=csv.WriteOptions(quoting_style="needed")) as writer:
        for batch in text.batches():
            writer.write_batch(batch.cast(schema))


def _write_json(result: Result, file: IO[bytes]) -> None:
    """Writes an array with one row a line. JSON has no NaN and no infinities: they become null."""
    before = b"[\n"
    for batch in result.as_json().batches():
        for row in batch.column(0).to_pylist():
            text = row
            if "NaN" in row or "Infinity" in row:
                text = json.dumps(json.loads(row, parse_constant=lambda _: None), ensure_ascii=False)
            file.write(before + text.encode())
            before = b",\n"
    file.write(b"\n]\n" if before == b",\n" else b"[]\n")


def _write_parquet(result: Result, file: IO[bytes]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    writer = None
    try:
        for batch in result.batches(parquet_rows := 100_000):
            writer = writer or parquet.ParquetWriter(file, batch.schema, compression="zstd")
            writer.write_batch(batch, parquet_rows)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
        raise UsageError(f"a column cannot be written as Parquet: {error}", next_step="cast it in the query") from None
    finally:
        if writer is not None:
            writer.close()
