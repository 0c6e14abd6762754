"""Output of query rows as a table, CSV, JSON or Parquet. All formats except the table are streamed."""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import IO, Any

from pipeline.cli.output import cell, console, table
from pipeline.errors import UsageError
from pipeline.query.running import Result
from pipeline.storage import sync_file, sync_folder, translated_os_errors

HASHES = {"fingerprint", "hash_sum"}
"""Columns whose integers are hashes: without separators, so that they can be copied."""


class Format(StrEnum):
    table = "table"
    csv = "csv"
    json = "json"
    parquet = "parquet"


def show(result: Result, limit: int) -> None:
    """Prints the first `limit` rows as a table or, if it is too wide, one below the other."""
    rows: list[list[Any]] = []
    with result.stream(limit + 1) as (_, batches):
        for batch in batches:
            rows += [[_plain(value, name) for name, value in row.items()] for row in batch.to_pylist()]
            if len(rows) > limit:
                break
    shown = rows[:limit]
    if result.columns == ["explain_key", "explain_value"]:
        console().print("\n".join(row[1] for row in shown), markup=False)
    elif (headings := _headings(result.columns, shown)) is not None:
        table(headings, shown)
    else:
        _show_records(result.columns, shown)
    if len(rows) > limit:
        note = f"{limit:,} of {result.count():,} rows; --limit shows more, --format csv, json or parquet shows all"
        console(stderr=True).print(note, markup=False)


def write(result: Result, form: Format, target: Path | None) -> None:
    """Writes all rows to standard output, or to a file that appears completely or not at all."""
    writer = {Format.csv: _write_csv, Format.json: _write_json, Format.parquet: _write_parquet}[form]
    if target is not None:
        with replacing(target) as file:
            writer(result, file)
        return
    if form is Format.parquet and sys.stdout.isatty():
        raise UsageError("Parquet cannot be shown on a terminal", next_step="add --output FILE, or use --format csv")
    with _standard_output() as file:
        writer(result, file)


def _write_csv(result: Result, file: IO[bytes]) -> None:
    from pyarrow import csv

    with result.flat().stream() as (schema, batches), csv.CSVWriter(file, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


def _write_json(result: Result, file: IO[bytes]) -> None:
    """Writes an array with one row per line. NaN and infinities, which JSON lacks, become null."""
    before = "[\n"
    with result.as_json().stream() as (_, batches):
        for batch in batches:
            for row in batch.column(0).to_pylist():
                text = row
                if "NaN" in row or "Infinity" in row:
                    text = json.dumps(json.loads(row, parse_constant=lambda _: None), ensure_ascii=False)
                file.write(f"{before}{text}".encode())
                before = ",\n"
    file.write(b"\n]\n" if before == ",\n" else b"[]\n")


def _write_parquet(result: Result, file: IO[bytes]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    with result.stream(100_000) as (schema, batches):
        try:
            with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
                for batch in batches:
                    writer.write_batch(batch)
        except pa.ArrowNotImplementedError as error:
            raise UsageError(
                "a column cannot be written as Parquet", got=error, next_step="cast it to VARCHAR"
            ) from None


@contextmanager
def replacing(target: Path) -> Iterator[IO[bytes]]:
    """Yields a temporary file that replaces the target once it is written and synced."""
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with translated_os_errors(target):
            with temporary.open("xb") as file:
                yield file
            sync_file(temporary)
            temporary.replace(target)
            sync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _standard_output() -> Iterator[IO[bytes]]:
    """Yields standard output. A reader that closes the pipe early, such as `head`, causes no error."""
    try:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at exit


def _plain(value: object, column: str) -> object:
    """Returns a value for display in a table: times in UTC to the second, wide integers as int, hashes as text."""
    if isinstance(value, datetime):
        utc = value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value
        return utc.isoformat(sep=" ", timespec="seconds")
    if isinstance(value, Decimal) and value.as_tuple().exponent == 0:  # HUGEINT comes as a decimal, too
        value = int(value)
    return str(value) if column in HASHES and isinstance(value, int) else value


def _headings(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str] | None:
    """Returns headings with which the table fits the console, or None if it does not fit even with folded values."""
    from rich.cells import cell_len
    from rich.markup import escape

    room = console().width + 1
    values = [
        max((cell_len(line) for row in rows for line in cell(row[index]).splitlines()), default=1)
        for index in range(len(columns))
    ]
    broken = [
        name.replace("_", "_\n") if cell_len(name) > value else name
        for name, value in zip(columns, values, strict=True)
    ]
    for headings, longest in ((columns, room), (broken, room), (broken, 20), (broken, 12)):
        heads = [max(map(cell_len, heading.split("\n"))) for heading in headings]
        if sum(max(head, min(value, longest)) + 3 for head, value in zip(heads, values, strict=True)) <= room:
            return [escape(heading) for heading in headings]
    return None


def _show_records(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    out = console()
    longest = max(map(len, columns))
    for number, row in enumerate(rows, 1):
        out.print(f"[bold]row {number:,}[/]")
        for name, value in zip(columns, row, strict=True):
            out.print(f"  {name:<{longest}}  {cell(value)}", markup=False)
