"""Finds rows of the input whose stored predictions follow each other in the same order, so that no join is needed.

A first scoring stores rows in pieces of the input as it was read. If the files are written again with their rows in the
same order, each piece is there again, wherever it begins and whatever new rows lie between its rows. `find` looks for
it by the keys of a sample of the stored rows, and compares the keys from one row of the sample to the next. The stored
rows of a piece need not be joined (`Selection`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from duckdb import ColumnExpression, ConstantExpression, FunctionExpression

from pipeline.context import Context
from pipeline.database.connection import column_types, connect, read_parquet, translated_errors
from pipeline.database.keys import canonical, check_stored_key, key_expression
from pipeline.records import Plan
from pipeline.selecting.imported import of_plan
from pipeline.selecting.input import NUMBER, describe_files, input_paths, input_rows, stored_paths
from pipeline.selecting.pairing import POSITION, Gap, Pairs, Parts, Piece, located, taken
from pipeline.selecting.source import FILE
from pipeline.storage.parquet import ROW_GROUP

if TYPE_CHECKING:
    import pyarrow as pa
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import Expression
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

LEAST_ROWS = 500_000
"""Number of stored rows below which they are joined: that takes a few tenths of a second."""
BLOCK = 2048
"""One of so many stored rows is looked for in the input."""
LEAST_STORED = 0.6
"""Share of the input that is stored, below which all stored rows are joined: these are few, and all rows are read."""
LEAST_FOUND = 0.6
"""Share of the stored rows to find, below which all are joined."""
TRIES = 6
"""Number of rows from which pieces are compared, after which the search ends if these pieces are short."""
SHORT = 16
"""Number of rows below which a piece is joined: if keys were withdrawn between all stored rows, pieces are many."""


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
        parts = Parts(own, plan.key)
        enough = sum(parts.rows) >= max(LEAST_ROWS, LEAST_STORED * plan.candidates.rows)
        pieces = _pieces(ctx, plan, ds, parts) if enough else []
    except (pa.ArrowException, OSError) as error:
        log.warning("stored predictions are joined, since a part cannot be read otherwise: %s", error)
        return None
    total, paired = sum(parts.rows), sum(piece.rows for piece in pieces)
    if not paired or paired < LEAST_FOUND * total:
        return None
    log.info("%s of %s stored rows are in the order of the input", f"{paired:,}", f"{total:,}")
    return Pairs(Parts(own, (*plan.key, "fingerprint", "revision")), plan.key, pieces, list(_gaps(parts, pieces)))


def _pieces(ctx: Context, plan: Plan, ds: str, parts: Parts) -> list[Piece]:
    """Returns the pieces in the order of the input; none if the search ended early."""
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
            return search.pieces if all(map(search.see, reader)) else []


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
    """Looks for stored rows in the keys of the input, batch by batch in their order.

    The rows from one row of the sample to the next are looked for among the stored rows that follow the last one found,
    those that follow the first of the two, and those that precede the second one.
    """

    def __init__(self, parts: Parts, sample: pa.Table) -> None:
        order = np.lexsort((sample["row"].to_numpy(), -sample["part"].to_numpy()))  # of equal keys, the latest part
        sample = sample.take(order)
        self._parts = parts
        self._hashes = sample["hash"].combine_chunks()
        self._part, self._row = sample["part"].to_numpy() - 1, sample["row"].to_numpy()
        self._last: int | None = None
        """The part in which a row was found last."""
        self._next = [0] * len(parts.paths)
        """In each part, the place after the latest row that was found."""
        self._found: list[Piece] = []
        self._tries = self._rows = 0

    @property
    def pieces(self) -> list[Piece]:
        """The pieces as long as they go, in the order of the input."""
        joined: list[Piece] = []
        for piece in sorted(self._found, key=lambda piece: piece.position):
            last = joined[-1] if joined else None
            if last and not (last.among or piece.among) and last.part == piece.part and last.ends == piece.begins:
                joined[-1] = last._replace(length=last.length + piece.length, rows=last.rows + piece.rows)
            else:
                joined.append(piece)
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
            rows = [column.slice(begin, end - begin) for column in keys]
            self._search(rows, int(positions[begin]), (hits[inside] - begin).tolist(), samples[inside].tolist())
        return not self._hopeless

    @property
    def _hopeless(self) -> bool:
        return self._tries >= TRIES and self._rows < self._tries * BLOCK // 4

    def _search(self, keys: list[pa.Array], position: int, hits: list[int], samples: list[int]) -> None:
        """Looks for rows of the input, of which some are in the sample."""
        bounds = [(0, None), *zip(hits, samples, strict=True), (len(keys[0]), None)]
        for (begin, sample), (end, following) in pairwise(bounds):
            if self._hopeless:
                return
            if begin == end:
                continue
            here = _Stretch([column.slice(begin, end - begin) for column in keys], position + begin)
            most = min(end - begin, BLOCK)
            part, row = self._place(sample)
            if self._last is not None and part != self._last:
                self._match(here, self._last, self._next[self._last], most)
            if part is not None:
                self._tries += 1
                self._match(here, part, row, most)
            part, row = self._place(following)
            if part is not None:
                first = max(row - most, self._next[part] if self._next[part] <= row else 0)
                self._match(here, part, first, row - first)

    def _place(self, sample: int | None) -> tuple[int | None, int]:
        """Returns part and place of a stored row of the sample."""
        return (None, 0) if sample is None else (int(self._part[sample]), int(self._row[sample]))

    def _match(self, here: _Stretch, part: int, row: int, count: int) -> None:
        """Looks for so many stored rows, from `row` on, among the rows that are left."""
        for start, stored in self._parts.groups(part, row, row + count) if here.left else ():
            places, kept = here.find(stored)
            if not len(places):
                continue
            self._last, self._next[part] = part, start + int(kept[-1]) + 1
            cuts = [0, *(np.flatnonzero(np.diff(kept) != 1) + 1).tolist(), len(kept)]
            for begin, end in pairwise(cuts):
                if end - begin >= min(SHORT, len(kept)):
                    self._found.append(here.piece(places[begin:end], part, start + int(kept[begin])))
                    self._rows += end - begin


class _Stretch:
    """Some rows of the input: their key columns, and POSITION of the first one."""

    def __init__(self, keys: list[pa.Array], position: int) -> None:
        self._keys, self._position = keys, position
        self._left = np.ones(len(keys[0]), bool)

    @property
    def left(self) -> bool:
        """Whether any of them has not been found."""
        return bool(self._left.any())

    def find(self, stored: list[pa.Array]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Returns the places of those that are left and stored, and which of `stored` each is; none in another order.

        Those found are left no more.
        """
        count = min(len(self._left), len(stored[0]))
        places = kept = np.arange(count)
        if not (self._left[:count].all() and _equal(self._keys, places, stored, kept)):
            ours, theirs = _comparable(self._keys, stored)
            places, kept = np.flatnonzero(self._left & _among(ours, theirs)), np.arange(len(theirs))
            if len(places) < len(theirs):
                kept = np.flatnonzero(_among(theirs, ours.take(places)))
            if len(places) != len(kept) or not _equal(self._keys, places, stored, kept):
                places = kept = np.arange(0)
        self._left[places] = False
        return places, kept

    def piece(self, places: NDArray[np.int64], part: int, row: int) -> Piece:
        """Returns rows that follow each other in a part from `row` on."""
        first, length = int(places[0]), int(places[-1] - places[0]) + 1
        among = None
        if length > len(places):
            bits = np.zeros(length, bool)
            bits[places - first] = True
            among = np.packbits(bits).tobytes()
        return Piece(self._position + first, length, part, row, len(places), among)


def _equal(ours: list[pa.Array], places: NDArray[np.int64], theirs: list[pa.Array], kept: NDArray[np.int64]) -> bool:
    """Tells whether keys at some places are those of others at other places."""
    pairs = zip(ours, theirs, strict=True)
    return all(taken(mine, places).equals(taken(other, kept)) for mine, other in pairs)


def _comparable(ours: list[pa.Array], theirs: list[pa.Array]) -> tuple[pa.Array, pa.Array]:
    """Returns a value per key: the key itself, or of several columns the number of its combination in `theirs`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if len(ours) == 1:
        return ours[0], theirs[0]
    found = [np.zeros(len(side[0]), np.int64) for side in (ours, theirs)]
    for columns in zip(ours, theirs, strict=True):
        values = pc.unique(columns[1])
        places = [pc.index_in(column, value_set=values).fill_null(len(values)).to_numpy() for column in columns]
        found = [number * (len(values) + 1) + place for number, place in zip(found, places, strict=True)]
    return pa.array(found[0]), pa.array(found[1])


def _among(keys: pa.Array, others: pa.Array) -> NDArray[np.bool_]:
    """Returns for each key whether it is one of others."""
    import pyarrow.compute as pc

    found: NDArray[np.bool_] = pc.is_in(keys, value_set=others).to_numpy(zero_copy_only=False)
    return found


def _gaps(parts: Parts, pieces: Sequence[Piece]) -> Iterator[Gap]:
    by_part = sorted(pieces, key=lambda piece: (piece.part, piece.row))
    for part, (path, rows) in enumerate(zip(parts.paths, parts.rows, strict=True)):
        end = 0
        for piece in by_part:
            if piece.part == part:
                if piece.row > end:
                    yield Gap(path, end, piece.row)
                end = max(end, piece.row + piece.rows)
        if end < rows:
            yield Gap(path, end, rows)
