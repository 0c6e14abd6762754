"""Pairs rows of the input with their stored predictions without a join, where both follow each other in one order.

A first scoring stores rows in pieces of the input as it was read. If the files are written again with their rows in the
same order, each piece is there again, wherever it begins. `find` looks for it by the keys of a sample of the stored
rows, and compares it key by key from there on. The stored rows of a piece need not be joined (`Selection`): `Pairs`
puts them beside the rows of the input as these are read, and compares the keys once more.

Nothing is noted in a file about the order of rows, so no file can be wrong about it.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from duckdb import ColumnExpression, ConstantExpression, FunctionExpression

from pipeline.context import Context
from pipeline.database import sql_files
from pipeline.database.connection import column_types, connect, read_parquet, translated_errors, unreadable_file
from pipeline.database.keys import canonical, check_stored_key, key_expression
from pipeline.errors import InputChanged, LakeDamaged
from pipeline.records import Plan
from pipeline.selecting.imported import of_plan
from pipeline.selecting.input import NUMBER, Files, describe_files, input_paths, input_rows, rows_by_path, stored_paths
from pipeline.selecting.source import FILE
from pipeline.storage.parquet import ROW_GROUP

if TYPE_CHECKING:
    import pyarrow as pa
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation
    from duckdb import Expression
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

POSITION = "__position"
"""Column of the input: number of the file times FILE_STEP, plus the place of the row in its file."""
FILE_STEP = 1 << 40
LEAST_ROWS = 500_000
"""Number of stored rows below which they are joined: that takes a few tenths of a second."""
BLOCK = 2048
"""One of so many stored rows is looked for in the input."""
LEAST_SHARE = 0.6
"""Share of the input that is stored, and of the stored rows to find: with less, looking for them does not pay."""
TRIES = 16
"""Number of rows from which pieces are compared, after which the search ends if these pieces are short."""
CACHED = 8
"""Number of row groups of stored rows in memory: 2 to 5 MB each."""


class Run(NamedTuple):
    """Stored rows that follow each other in a part, as their keys do in the input."""

    position: int
    """POSITION of the first row in the input."""
    part: int
    """Index of the part."""
    row: int
    """Place of the first row in the part."""
    rows: int


class Gap(NamedTuple):
    """Stored rows that were not found."""

    path: str
    first: int
    end: int
    """Place of the first row in the part, and of the row after the last."""


class _Parts:
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

    def pieces(self, part: int, row: int, end: int) -> Iterator[tuple[int, list[pa.Array]]]:
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

    parts: _Parts
    key: tuple[str, ...]
    runs: list[Run]
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
        for begin, columns in self._stored(positions):
            *keys, of_features, newest = columns
            here = slice(begin, begin + len(newest))
            for name, column in zip(self.key, keys, strict=True):
                if not batch.column(name)[here].equals(column):
                    raise InputChanged("a file of the input changed while it was read", next_step="run again")
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

    def _stored(self, positions: NDArray[np.int64]) -> Iterator[tuple[int, list[pa.Array]]]:
        """Yields the index of a position, of those in ascending order, and the stored rows from there on, by piece."""
        if not len(positions):
            return
        firsts = [run.position for run in self.runs]
        for run in self.runs[max(0, bisect_right(firsts, positions[0]) - 1) : bisect_right(firsts, positions[-1])]:
            shift = run.position - run.row
            low, high = np.searchsorted(positions, (run.position, run.position + run.rows))
            if low == high:
                continue
            wanted = positions[low:high] - shift
            for start, columns in self.parts.pieces(run.part, int(wanted[0]), int(wanted[-1]) + 1):
                begin, end = np.searchsorted(wanted, (start, start + len(columns[0])))
                if begin < end:
                    rows = wanted[begin:end] - start
                    together = bool(np.all(np.diff(rows) == 1))
                    yield (
                        low + begin,
                        [column.slice(rows[0], len(rows)) if together else column.take(rows) for column in columns],
                    )


def find(ctx: Context, plan: Plan, ds: str) -> Pairs | None:
    """Returns the stored predictions of the run's model whose keys are in the input in the same order.

    None if they are few, or if looking for them is not worth its time; and for jobs with carried columns or a SELECT,
    for an input with repeated keys, and in an object store.
    """
    import pyarrow as pa

    foreign = plan.other_models or ()
    own = stored_paths(ctx, (file for file in plan.base if file not in foreign))
    simple = ctx.job.select_text is None and not (plan.carry or plan.repeated or ctx.frugal)
    if not (own and simple and ctx.lake.is_local and plan.candidates.rows >= LEAST_ROWS):
        return None
    try:
        parts = _Parts(own, plan.key)
        enough = sum(parts.rows) >= max(LEAST_ROWS, LEAST_SHARE * plan.candidates.rows)
        runs = _runs(ctx, plan, ds, parts) if enough else []
    except (pa.ArrowException, OSError) as error:
        log.warning("stored predictions are joined, since a part cannot be read otherwise: %s", error)
        return None
    total, paired = sum(parts.rows), sum(run.rows for run in runs)
    if not paired or paired < LEAST_SHARE * total:
        return None
    log.info("%s of %s stored rows are in the order of the input", f"{paired:,}", f"{total:,}")
    return Pairs(_Parts(own, (*plan.key, "fingerprint", "revision")), plan.key, runs, list(_gaps(parts, runs)))


def _runs(ctx: Context, plan: Plan, ds: str, parts: _Parts) -> list[Run]:
    """Returns the runs in the order of the input; none if the search ended early."""
    files = of_plan(ctx, plan, ds)
    reads = [*input_paths(ctx, files), *parts.paths]
    found = ctx.resources(len(plan.key))
    with connect(found.memory_limit, found.threads) as con, translated_errors(describe_files(files), reads):
        con.execute("SET preserve_insertion_order = true")
        if (placed := located(input_rows(con, ctx, files, ds), con, ctx, files, ds)) is None:
            return []
        rows, position = placed
        types = column_types(rows)
        search = _Search(parts, _sample(con, plan.key, parts.paths, types))
        columns = [ColumnExpression(name).cast(canonical(types[name])).alias(name) for name in plan.key]
        keys = rows.select(*columns, _hash(plan.key, types), position.alias(POSITION))
        with keys.to_arrow_reader(ROW_GROUP) as reader:
            return search.runs if all(map(search.see, reader)) else []


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


def _sample(con: Connection, key: Sequence[str], own: Sequence[str], types: Mapping[str, str]) -> pa.Table:
    """Returns the hash of the key of one of BLOCK stored rows, with the number of its part and its place there."""
    stored = read_parquet(con, own, filename=FILE, row_number=True)
    check_stored_key(key, types, column_types(stored), own[0])
    some = stored.filter(ColumnExpression(NUMBER) % ConstantExpression(BLOCK) == ConstantExpression(0))
    part = FunctionExpression("list_position", ConstantExpression(list(own)), ColumnExpression(FILE))
    return some.select(_hash(key, types), part.alias("part"), ColumnExpression(NUMBER).alias("row")).to_arrow_table()


def _hash(key: Sequence[str], types: Mapping[str, str]) -> Expression:
    return FunctionExpression("hash", key_expression(key, types)).alias("hash")


class _Search:
    """Looks for stored rows in the keys of the input, batch by batch in their order."""

    def __init__(self, parts: _Parts, sample: pa.Table) -> None:
        order = np.lexsort((sample["row"].to_numpy(), -sample["part"].to_numpy()))  # of equal keys, the latest part
        sample = sample.take(order)
        self._parts = parts
        self._hashes = sample["hash"].combine_chunks()
        self._part, self._row = sample["part"].to_numpy() - 1, sample["row"].to_numpy()
        self._found: list[Run] = []
        self._tries = self._rows = 0

    @property
    def runs(self) -> list[Run]:
        """The runs as long as they go, in the order of the input."""
        joined: list[Run] = []
        for run in sorted(self._found):
            last = joined[-1] if joined else None
            if last and (last.position + last.rows, last.part, last.row + last.rows) == run[:3]:
                joined[-1] = last._replace(rows=last.rows + run.rows)
            else:
                joined.append(run)
        return joined

    def see(self, batch: pa.RecordBatch) -> bool:
        """Looks at key columns, hash and POSITION of rows; returns whether it is worth going on."""
        import pyarrow.compute as pc

        if batch.column(POSITION).null_count:
            return False
        positions = batch.column(POSITION).to_numpy()
        cuts = [0, *(np.flatnonzero(np.diff(positions) != 1) + 1).tolist(), len(positions)]
        if len(cuts) > 2 + 4 * len(positions) // BLOCK:  # rows of other periods lie between those of this one
            return False
        keys = batch.columns[: batch.num_columns - 2]
        of_sample = pc.index_in(batch.column("hash"), value_set=self._hashes)
        hits = np.flatnonzero(of_sample.is_valid().to_numpy(zero_copy_only=False))
        samples = of_sample.take(hits).to_numpy()
        for begin, end in pairwise(cuts):
            inside = slice(*np.searchsorted(hits, (begin, end)))
            piece = [column.slice(begin, end - begin) for column in keys]
            starts = list(zip((hits[inside] - begin).tolist(), samples[inside].tolist(), strict=True))
            self._search(piece, int(positions[begin]), starts)
        return not self._hopeless

    @property
    def _hopeless(self) -> bool:
        return self._tries >= TRIES and self._rows < self._tries * BLOCK // 4

    def _search(self, piece: list[pa.Array], position: int, starts: list[tuple[int, int]]) -> None:
        """Compares from each hit on, and from the start if the last run may go on there."""
        done = 0
        if self._found:
            last = self._found[-1]
            if last.position + last.rows == position:
                done = self._compare(piece, position, 0, last.part, last.row + last.rows)
        for at, sample in starts:
            if at >= done and not self._hopeless:
                self._tries += 1
                part, row = int(self._part[sample]), int(self._row[sample])
                before = self._before(piece, at, done, part, row)
                done = self._compare(piece, position, at - before, part, row - before)

    def _compare(self, piece: list[pa.Array], position: int, at: int, part: int, row: int) -> int:
        """Adds the run of equal keys from a place on; returns where it ends in the piece."""
        rows = 0
        for _, stored in self._parts.pieces(part, row, row + len(piece[0]) - at):
            count = len(stored[0])
            same = _equal(piece, at + rows, stored, min(BLOCK, count))
            if same == BLOCK < count:
                same = _equal(piece, at + rows, stored, count)
            rows += same
            if same < count:
                break
        if rows:
            self._found.append(Run(position + at, part, row, rows))
            self._rows += rows
        return at + rows

    def _before(self, piece: list[pa.Array], at: int, done: int, part: int, row: int) -> int:
        """Returns how many rows before a hit belong to its run: another run may end between two rows of the sample."""
        most = min(at - done, row, BLOCK - 1)
        if not most:
            return 0
        *_, (start, stored) = self._parts.pieces(part, row - most, row)
        most = row - start
        equal = _mask([column.slice(at - most, most) for column in piece], stored)
        return int(np.argmin(equal[::-1])) if not equal.all() else most


def _equal(piece: list[pa.Array], at: int, stored: list[pa.Array], count: int) -> int:
    """Returns the number of equal keys before the first that differs, of `count`."""
    ours = [column.slice(at, count) for column in piece]
    theirs = [column.slice(0, count) for column in stored]
    if all(mine.equals(other) for mine, other in zip(ours, theirs, strict=True)):
        return count
    return int(np.argmin(_mask(ours, theirs)))


def _mask(ours: list[pa.Array], theirs: list[pa.Array]) -> NDArray[np.bool_]:
    import pyarrow.compute as pc

    same = [pc.equal(mine, other).fill_null(False) for mine, other in zip(ours, theirs, strict=True)]  # noqa: FBT003
    every: NDArray[np.bool_] = np.logical_and.reduce([each.to_numpy(zero_copy_only=False) for each in same])
    return every


def _gaps(parts: _Parts, runs: Sequence[Run]) -> Iterator[Gap]:
    by_part = sorted(runs, key=lambda run: (run.part, run.row))
    for part, (path, rows) in enumerate(zip(parts.paths, parts.rows, strict=True)):
        end = 0
        for run in by_part:
            if run.part == part:
                if run.row > end:
                    yield Gap(path, end, run.row)
                end = max(end, run.row + run.rows)
        if end < rows:
            yield Gap(path, end, rows)
