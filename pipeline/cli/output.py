"""Output of results: tables and colour for people, JSON for programs. Results go to stdout, all else to stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.errors import LakescoreError

PIPED_WIDTH = 160
"""Characters per line if the output is not a terminal."""


def console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else PIPED_WIDTH
    return Console(stderr=stderr, highlight=False, soft_wrap=True, width=width, emoji=False)  # such as nulls:a:b


def emit_json(value: object) -> None:
    """Prints one JSON document, with days, paths and times as text."""
    sys.stdout.write(json.dumps(value, indent=2, default=str, ensure_ascii=False) + "\n")


def report(error: LakescoreError) -> None:
    """Prints an error: for people on stderr, and with --json, or of a stage, as a document on stdout."""
    from rich.text import Text

    from pipeline.cli.next_steps import completed

    if error.next_step is not None:
        error.next_step = completed(error.next_step)
    if "--json" in sys.argv or sys.argv[1:2] == ["stage"]:
        with suppress(BrokenPipeError):  # the reader has closed the pipe; the error still goes to stderr below
            emit_json(error.as_dict())
    kind = "error" if not error.transient else "error (a retry may help)"
    console(stderr=True).print(Text.assemble((f"{kind}: ", "bold red"), str(error)))


def table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None, whole: Collection[str] = ()
) -> None:
    """Prints rows as a table; numbers are right-aligned, with thousands separators.

    Columns of `whole`, such as run ids, are never broken into lines, so that they can be copied.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shown = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    rows = [list(row) for row in rows]
    for index, name in enumerate(columns):
        numeric = all(isinstance(row[index], int | float | Decimal) or row[index] is None for row in rows)
        shown.add_column(name, justify="right" if numeric and rows else "left", overflow="fold", no_wrap=name in whole)
    for row in rows:
        shown.add_row(*(Text(cell(value)) for value in row))
    console().print(shown)


def cell(value: object) -> str:
    """Returns a value formatted for reading."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Decimal):
        return f"{value:,f}"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)


def bytes_text(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:,.0f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"
