"""Stored rows that stand beside rows of the input without a join: `Pairs`, as `pair_search` has found them.

They are paired batch by batch as the input is read, by the place of each row in its file, and their keys are compared
once more. Nothing is noted in a file about the order of rows, so no file can be wrong about it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from duckdb import ColumnExpression, ConstantExpression, FunctionExpression

from pipeline.context import Context
from pipeline.database import sql_files
from pipeline.database.connection import read_parquet, unreadable_file
from pipeline.errors import InputChanged, LakeDamaged
from pipeline.selecting.input import NUMBER, Files, input_paths, rows_by_path
from pipeline.selecting.source import FILE

if TYPE_CHECKING:
    import pyarrow as pa
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation
    from duckdb import Expression
    from numpy.typing import NDArray

POSITION = "__position"
"""Column of the input: number of the file times FILE_STEP, plus the place of the row in its file."""
FILE_STEP = 1 << 40
"""More rows than a file has."""
CACHED = 8
"""Number of row groups of stored rows in memory: 2 to 5 MB each."""


class Piece(NamedTuple):
    """Stored rows that follow each other in a part, as their keys do in the input."""

    position: int
    """POSITION of the first row in the input."""
    length: int
    """Number of rows of the input from the first to the last one."""
    part: int
    """Index of the part."""
    row: int
    """Place of the first row in the part."""
    rows: int
    """Number of stored rows."""
    among: bytes | None = None
    """Which rows of the input are stored, as bits; None if all of them are."""

    @property
    def begins(self) -> tuple[int, int]:
        return self.position, self.row

    @property
    def ends(self) -> tuple[int, int]:
        return self.position + self.length, self.row + self.rows

    def find(self, offsets: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Returns for rows of the input, by their distance from the first one, which are stored, and their places."""
        if self.among is None:
            return np.arange(len(offsets)), self.row + offsets
        stored = np.unpackbits(np.frombuffer(self.among, np.uint8))
        found = np.flatnonzero(stored[offsets])
        return found, self.row + np.cumsum(stored, dtype=np.int64)[offsets[found]] - 1


class Gap(NamedTuple):
    """Stored rows that were not found."""

    path: str
    first: int
    end: int
    """Place of the first row in the part, and of the row after the last."""


class Parts:
    """Reads columns of parts by row group; keeps some in memory. Safe for several threads."""

    def __init__(self, paths: Sequence[str], columns: Sequence[str]) -> None:
        import pyarrow.parquet as pq

        self.paths, self._columns = paths, list(columns)
        self.starts: list[list[int]] = []
        """First row of each row group of each part, and the number of its rows at the end."""
        for path in paths:
            with pq.ParquetFile(path) as file:
                sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            self.starts.append([0, *map(int, np.cumsum(sizes))])
        self._cached = lru_cache(CACHED)(self._read)

    @property
    def rows(self) -> list[int]:
        """Number of rows of each part."""
        return [starts[-1] for starts in self.starts]

    def groups(self, part: int, row: int, end: int) -> Iterator[tuple[int, list[pa.Array]]]:
        """Yields the rows from `row` to before `end`, by row group: the first one's place, and the columns."""
        starts = self.starts[part]
        for group in range(int(np.searchsorted(starts, row, "right")) - 1, len(starts) - 1):
            first, last = max(row, starts[group]), min(end, starts[group + 1])
            if first >= last:
                return
            yield first, [column.slice(first - starts[group], last - first) for column in self._cached(part, group)]

    def _read(self, part: int, group: int) -> list[pa.Array]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(self.paths[part]) as file:
                table = file.read_row_group(group, self._columns, use_threads=False)
        except pa.ArrowException as error:
            raise unreadable_file(error, self.paths[part]) from error
        return [table.column(name).combine_chunks() for name in self._columns]


@dataclass(frozen=True)
class Pairs:
    """The stored rows that were found in the input."""

    parts: Parts
    key: tuple[str, ...]
    pieces: list[Piece]
    """In the order of the input."""
    gaps: list[Gap]

    def complete(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Adds to rows of the input, joined with the other stored rows, what is stored for those that were found.

        Of two predictions of a key, the one with the later revision counts. The column POSITION is left out. Raises
        InputChanged if a key differs from the stored one, LakeDamaged if a key and revision are stored twice.
        """
        import pyarrow as pa

        positions = batch.column(POSITION).to_numpy()
        batch = batch.drop_columns([POSITION])
        if np.any(positions[1:] < positions[:-1]):
            batch, positions = batch.take(order := np.argsort(positions)), positions[order]
        rows = batch.num_rows
        prints, revisions = np.zeros(rows, np.int64), np.full(rows, -1, np.int32)
        here, columns = self._stored(positions)
        every = np.array_equal(here, np.arange(rows))
        for name, column in zip(self.key, columns, strict=False):
            keys = batch.column(name)
            if not (keys if every else keys.take(here)).equals(column):
                raise InputChanged("a file of the input changed while it was read", next_step="run again")
        if len(here):
            *_, of_features, newest = columns
            prints[here], revisions[here] = of_features.to_numpy(), newest.to_numpy()
        joined, known = batch.column("__fingerprint"), batch.column("__revision")
        if joined.null_count == known.null_count == rows:
            lacking = revisions < 0
        else:
            before = known.fill_null(-1).to_numpy()
            if np.any((before == revisions) & (revisions >= 0)):
                raise LakeDamaged(
                    "stored rows repeat the key and revision of other rows",
                    where=Path(self.parts.paths[0]).parent,
                    next_step="lakescore verify names the files; a copy that another program has left there must go",
                )
            of_join = before > revisions
            prints[of_join] = joined.fill_null(0).to_numpy()[of_join]
            revisions = np.maximum(before, revisions)
            lacking = (revisions < 0) | (of_join & joined.is_null().to_numpy(zero_copy_only=False))
        updates = {"__fingerprint": (prints, lacking), "__revision": (revisions, revisions < 0)}
        for name, (values, mask) in updates.items():
            array = pa.array(values, mask=mask if mask.any() else None)
            batch = batch.set_column(batch.schema.get_field_index(name), name, array)
        return batch

    def _stored(self, positions: NDArray[np.int64]) -> tuple[NDArray[np.int64], list[pa.Array]]:
        """Returns which of some positions, in ascending order, have a stored row, and the columns of these rows.

        Those of one piece are in order; rows of several parts may alternate in the input.
        """
        import pyarrow as pa

        here, found = [np.empty(0, np.int64)], []
        firsts, ends = self._bounds
        near = slice(*np.searchsorted(ends, positions[:1], "right"), *np.searchsorted(firsts, positions[-1:], "right"))
        for piece in self.pieces[near] if len(positions) else ():
            low, high = np.searchsorted(positions, (piece.position, piece.position + piece.length))
            which, places = piece.find(positions[low:high] - piece.position)
            if not len(places):
                continue
            for start, columns in self.parts.groups(piece.part, int(places[0]), int(places[-1]) + 1):
                begin, end = np.searchsorted(places, (start, start + len(columns[0])))
                if begin == end:
                    continue
                rows = places[begin:end] - start
                here.append(low + which[begin:end])
                found.append([taken(column, rows) for column in columns])
        return np.concatenate(here), [pa.concat_arrays(column) for column in zip(*found, strict=True)]

    @cached_property
    def _bounds(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """For each piece, where it begins, and where it and those before it end."""
        bounds = np.array([(piece.position, piece.position + piece.length) for piece in self.pieces], np.int64)
        return bounds[:, 0], np.maximum.accumulate(bounds[:, 1])


def taken(column: pa.Array, places: NDArray[np.int64]) -> pa.Array:
    """Returns the values at places in ascending order; a slice if none is left out."""
    if len(places) and places[-1] - places[0] + 1 == len(places):
        return column.slice(places[0], len(places))
    return column.take(places)


def located(rows: Relation, con: Connection, ctx: Context, files: Files, ds: str) -> tuple[Relation, Expression] | None:
    """Returns the rows of the input with columns for the place of each, and POSITION as an expression of these.

    `rows` are those without the columns. None if they have such columns already, or come from a SELECT.
    """
    if any(name.lower() in (NUMBER, FILE) for name in rows.columns):
        return None
    placed = rows_by_path(con, ctx, files, ds, row_number=True)
    if placed is None:
        return None
    file = FunctionExpression("list_position", ConstantExpression(input_paths(ctx, files)), ColumnExpression(FILE))
    number = ColumnExpression(NUMBER).cast("BIGINT")
    return placed, file.cast("BIGINT") * ConstantExpression(FILE_STEP) + number


def within(con: Connection, paths: Sequence[str], gaps: Sequence[Gap]) -> Relation:
    """Returns the stored rows in the gaps, which lie in the files `paths`."""
    read_parquet(con, paths, filename=FILE, row_number=True).create_view("__placed")
    columns = dict(zip(("paths", "firsts", "ends"), map(list, zip(*gaps, strict=True)), strict=True))
    con.sql(sql_files.load("selecting/gaps"), params=columns).create("__gaps")
    return con.sql(sql_files.load("selecting/within"))
