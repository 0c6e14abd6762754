"""Output of results: tables and colour for people, JSON for programs. Results go to stdout, all else to stderr."""

from __future__ import annotations

import json
import os
import sys
import textwrap
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

    from pipeline.errors import LakescoreError

PIPED_WIDTH = 160
"""Characters per line if the output is not a terminal."""
MOST_FOLDED = 2
"""Number of columns up to which long words, such as paths, are broken rather than the table given up."""
NOTHING = ("", "-", "0")
"""Values of which a line below a row says nothing."""
UNNAMED = ("", "note", "reason")
"""Columns whose values need no name."""
WRAPPED: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}


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
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    title: str | None = None,
    whole: Collection[str] = (),
    below: Collection[str] = (),
) -> None:
    """Prints rows as a table; numbers are right-aligned, with thousands separators.

    Columns of `whole`, such as run ids, are never broken into lines, so that they can be copied. Where the table is
    wider than the console, the columns of `below` go into a line below each row; if words would still be broken, the
    rows are printed one below the other.
    """
    found, out = _Table.of(columns, rows), console()
    if found.width() > out.width:
        beside = [index for index, name in enumerate(columns) if name not in below]
        if below and found.width(beside, gap=2) <= out.width:
            out.print("\n".join(found.with_lines_below(beside, out.width)), markup=False)
            return
        if len(columns) > MOST_FOLDED and found.width(words=True, whole=whole) > out.width:
            out.print("\n".join(found.one_below_the_other(out.width)), markup=False)
            return
    out.print(found.as_rich(title, whole))


@dataclass(frozen=True)
class _Table:
    columns: Sequence[str]
    cells: list[list[str]]
    numeric: list[bool]

    @classmethod
    def of(cls, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> _Table:
        rows = [list(row) for row in rows]
        numeric = [
            bool(rows) and all(isinstance(row[index], int | float | Decimal) or row[index] is None for row in rows)
            for index in range(len(columns))
        ]
        return cls(columns, [[cell(value) for value in row] for row in rows], numeric)

    def width(
        self, of: Sequence[int] | None = None, gap: int = 3, *, words: bool = False, whole: Collection[str] = ()
    ) -> int:
        """Returns the characters that a line needs; with `words`, if columns are broken between words, but `whole`."""
        chosen = range(len(self.columns)) if of is None else of
        return sum(self._longest(each, words=words and self.columns[each] not in whole) + gap for each in chosen) - gap

    def _longest(self, index: int, *, words: bool = False) -> int:
        from rich.cells import cell_len

        lines = [line for text in self._column(index) for line in text.splitlines()]
        return max(map(cell_len, (word for line in lines for word in line.split()) if words else lines), default=0)

    def _column(self, index: int) -> list[str]:
        return [self.columns[index], *(row[index] for row in self.cells)]

    def as_rich(self, title: str | None, whole: Collection[str]) -> RichTable:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        shown = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for name, right in zip(self.columns, self.numeric, strict=True):
            justify: Literal["left", "right"] = "right" if right else "left"
            shown.add_column(name, justify=justify, overflow="fold", no_wrap=name in whole)
        for row in self.cells:
            shown.add_row(*map(Text, row))
        return shown

    def with_lines_below(self, beside: Sequence[int], width: int) -> Iterator[str]:
        """Yields the lines of the columns `beside`; below each row what the others have, unless it is empty or 0."""
        from rich.cells import set_cell_size

        sizes = {each: self._longest(each) for each in beside}

        def line(row: Sequence[str]) -> str:
            padded = (
                row[each].rjust(size) if self.numeric[each] else set_cell_size(row[each], size)
                for each, size in sizes.items()
            )
            return "  ".join(padded).rstrip()

        heading = line(self.columns)
        yield from ("", heading, "─" * len(heading))
        for row in self.cells:
            yield line(row)
            others = (each for each in range(len(self.columns)) if each not in sizes)
            said = [(self.columns[each], row[each]) for each in others if row[each] not in NOTHING]
            text = ", ".join(value if name in UNNAMED else f"{name} {value}" for name, value in said)
            yield from textwrap.wrap(text, width, initial_indent="    ", subsequent_indent="    ", **WRAPPED)
        yield ""

    def one_below_the_other(self, width: int) -> Iterator[str]:
        """Yields a block of lines for each row, with a name and a value on each."""
        longest = max(len(name.replace("\n", " ")) for name in self.columns)
        for row in self.cells:
            yield ""
            for name, value in zip(self.columns, row, strict=True):
                head = f"  {name.replace(chr(10), ' '):<{longest}}  "
                yield from textwrap.wrap(
                    value, width, initial_indent=head, subsequent_indent=" " * len(head), **WRAPPED
                ) or [head.rstrip()]
        yield ""


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
