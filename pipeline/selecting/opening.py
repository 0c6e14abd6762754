"""The input of a day, opened in a connection: by each stage, or once for all stages that run in one process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.context import Context
from pipeline.database import holding, wide
from pipeline.database.connection import translated_errors
from pipeline.records import FileInfo
from pipeline.selecting.input import connect_for_job, describe_files, input_paths, input_rows

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation

INPUT = "__input"


def can_share(ctx: Context, columns: int) -> bool:
    """Tells whether the stages of a run share the views over an input of so many columns.

    DuckDB looks at each of a thousand columns in every query over a view: stages that read keys alone open their own.
    """
    return ctx.shared is not None and columns <= wide.FEW


@dataclass
class Opened:
    """The input of a day in a connection, under the name INPUT."""

    con: Connection
    rows: Relation
    selection: Any = None
    """The `Selection` that the stages of a run share; None before the first of them."""


@contextmanager
def shared_input(
    ctx: Context, files: Mapping[str, Sequence[FileInfo]], ds: str, columns: int, rows: int
) -> Iterator[Opened]:
    """Opens the input of a day like `open_input`, once for all stages of a run in this process."""
    assert ctx.shared is not None
    key = ({name: tuple(found) for name, found in files.items()}, ds, columns, ctx.frugal)
    with ctx.shared.use(key, lambda: open_input(ctx, files, ds, columns, rows)) as opened:
        yield opened


@contextmanager
def open_input(
    ctx: Context, files: Mapping[str, Sequence[FileInfo]], ds: str, columns: int, rows: int | None
) -> Iterator[Opened]:
    """Opens a connection with the input of a day. `rows` is their largest possible number; None if it is not known."""
    with connect_for_job(ctx, columns) as con:
        with translated_errors(describe_files(files), input_paths(ctx, files)):
            found = input_rows(con, ctx, files, ds)
            size = sum(file.size for of_source in files.values() for file in of_source)
            held = rows is not None and holding.few(rows, len(found.columns), size)
            opened = Opened(con, holding.name_rows(con, INPUT, found, held=held))
        yield opened
