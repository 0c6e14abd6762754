"""The values that Redis stores: the columns of a target, as packed numbers, msgpack or JSON."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import duckdb
from duckdb import (
    CaseExpression,
    ColumnExpression,
    ConstantExpression,
    FunctionExpression,
    LambdaExpression,
    SQLExpression,
)

from pipeline.columns import KEY_TEXT, is_output
from pipeline.database.connection import column_types
from pipeline.database.gate import check_expression
from pipeline.errors import JobError, QueryRefused, UsageError, counted, nearest
from pipeline.job.targets import RedisTarget

if TYPE_CHECKING:
    import pyarrow as pa
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation
    from duckdb import Expression

BATCH_ROWS = 100_000
CODES = {
    "BOOLEAN": "?",
    "TINYINT": "b",
    "UTINYINT": "B",
    "SMALLINT": "h",
    "USMALLINT": "H",
    "INTEGER": "i",
    "UINTEGER": "I",
    "BIGINT": "q",
    "UBIGINT": "Q",
    "FLOAT": "f",
    "DOUBLE": "d",
}
"""Code of Python's `struct` for each type that can be packed; numbers are little-endian, without padding."""

Encode = Callable[["pa.RecordBatch"], list[bytes]]


@dataclass(frozen=True)
class Values:
    """The rows of a target: their keys, and their columns as values of bytes."""

    relation: Relation
    """`key_text`, then the columns of a value."""
    columns: tuple[str, ...]
    layout: str
    """Format of Python's `struct` for a packed value; otherwise empty."""
    encode: Encode

    def batches(self) -> Iterator[tuple[list[bytes], list[bytes]]]:
        """Yields keys and values in batches, ordered by key."""
        with self.relation.order(KEY_TEXT).to_arrow_reader(BATCH_ROWS) as reader:
            for batch in reader:
                yield _bytes(batch.column(0)), self.encode(batch)

    def read_keys(self) -> Iterator[list[bytes]]:
        """Yields the keys in batches, in any order."""
        with self.relation.select(KEY_TEXT).to_arrow_reader(BATCH_ROWS) as reader:
            for batch in reader:
                yield _bytes(batch.column(0))


def values_of(con: Connection, target: RedisTarget) -> Values:
    """Returns the values of the view `outgoing`. Raises JobError for columns that are not there or cannot be packed."""
    rows = con.view("outgoing")
    chosen = _chosen(con, rows, target)
    try:
        relation = rows.select(ColumnExpression(KEY_TEXT), *(each.alias(name) for name, each in chosen.items()))
    except duckdb.OperationalError:
        raise  # memory, or the disk: not what was written
    except duckdb.Error as error:
        raise _invalid(target, str(error)) from None
    names, types = tuple(chosen), column_types(relation)
    types = {name: kind for name, kind in types.items() if name in chosen}
    if target.format == "packed":
        shape = _shape(relation, types, target)
        layout = "".join(code if count is None else f"{count}{code}" for count, code in shape)
        return Values(relation, names, f"<{layout}", _packed(shape))
    if target.format == "msgpack":
        return Values(relation, names, "", _msgpack())
    finite = [_finite(ColumnExpression(name), name, kind).alias(name) for name, kind in types.items()]
    text = FunctionExpression("to_json", FunctionExpression("struct_pack", *finite)).cast("VARCHAR")
    rows_as_text = relation.select(ColumnExpression(KEY_TEXT), text.alias("value"))
    return Values(rows_as_text, names, "", lambda batch: _bytes(batch.column(1)))


def _chosen(con: Connection, rows: Relation, target: RedisTarget) -> dict[str, Expression]:
    if isinstance(target.columns, dict):
        for text in target.columns.values():
            try:
                check_expression(con, text, "predictions")
            except QueryRefused as error:
                raise _invalid(target, f"{text!r}: {error.got or error.what}") from None
        return {name: SQLExpression(text) for name, text in target.columns.items()}
    names = target.columns or tuple(name for name in rows.columns if is_output(name))
    known = {name.casefold(): name for name in rows.columns}
    for name in names:
        if name.casefold() not in known:
            raise _invalid(target, f"no column {name!r}{nearest(name, rows.columns)}", ", ".join(rows.columns))
    return {name: ColumnExpression(known[name.casefold()]) for name in names}


def _invalid(target: RedisTarget, problem: str, expected: str | None = None) -> JobError:
    return JobError(
        f"`columns` of the target {target.name!r} are not columns of the predictions",
        where="[[publish]] in job.toml",
        expected=expected,
        got=problem.splitlines()[0],
    )


# Packed


Shape = Sequence[tuple[int | None, str]]


def _shape(relation: Relation, types: dict[str, str], target: RedisTarget) -> Shape:
    """Returns the number of values of a list (None for a column of single values) and their code, by column."""
    found = []
    for name, kind in types.items():
        single, is_list = kind.partition("[")[0], kind.endswith("]")
        if single not in CODES or kind.count("[") > 1:
            raise JobError(
                f"the column {name!r} of the target {target.name!r} cannot be packed",
                where="[[publish]] in job.toml",
                expected="numbers, or lists of numbers that are equally long",
                got=kind,
                next_step=f'cast it, such as columns = {{ {name} = "{name}::UINTEGER[]" }}, or use format = "msgpack"',
            )
        column = ColumnExpression(name)
        length = FunctionExpression("len", column) if is_list else ConstantExpression(1)
        absent = FunctionExpression("list_count", column) if is_list else ConstantExpression(1)
        missing = column.isnull() | (absent != length)
        low, high, nulls = (
            relation.select(length.alias("length"), missing.alias("missing"))
            .aggregate("min(length), max(length), count(*) FILTER (missing)")
            .fetchall()[0]
        )
        if low != high or nulls:
            raise JobError(
                f"the column {name!r} of the target {target.name!r} cannot be packed",
                where="[[publish]] in job.toml",
                expected="a value in every row, and lists that are equally long",
                got=f"{counted(nulls, 'row')} with NULL" if nulls else f"lists of {low} to {high} values",
                next_step='use format = "msgpack" or "json"',
            )
        found.append((int(high or 0) if is_list else None, CODES[single]))
    return found


def _packed(shape: Shape) -> Encode:
    import numpy as np

    kinds = [
        (f"f{index}", "?" if code == "?" else f"<{code}", (1 if count is None else count,))
        for index, (count, code) in enumerate(shape)
    ]

    def encode(batch: pa.RecordBatch) -> list[bytes]:
        rows = np.empty(batch.num_rows, np.dtype(kinds))
        for index, (count, _) in enumerate(shape):
            column = batch.column(index + 1)
            flat = column if count is None else column.flatten()
            rows[f"f{index}"] = flat.to_numpy(zero_copy_only=False).reshape(batch.num_rows, -1)
        data, size = rows.tobytes(), rows.dtype.itemsize
        return [data[at : at + size] for at in range(0, len(data), size)]

    return encode


# Text


def _msgpack() -> Encode:
    try:
        import msgpack
    except ModuleNotFoundError:
        raise UsageError("msgpack needs the package msgpack", next_step="pip install 'lakescore[redis]'") from None
    pack = msgpack.Packer(default=str).pack

    def encode(batch: pa.RecordBatch) -> list[bytes]:
        columns = [column.to_pylist() for column in batch.columns[1:]]
        return [pack(row) for row in zip(*columns, strict=True)]

    return encode


def _finite(column: Expression, name: str, kind: str) -> Expression:
    """Returns a column of which JSON can write every value: NaN and infinities become NULL, also within lists.

    Raises JobError for numbers within structs and maps, which may be NaN.
    """
    if kind in ("FLOAT", "DOUBLE"):
        return CaseExpression(FunctionExpression("isfinite", column), column)
    if not re.search(r"\b(FLOAT|DOUBLE)\b", kind):
        return column
    item = re.fullmatch(r"(.*)\[\d*\]", kind)
    if item is None:
        raise JobError(
            f"the column {name!r} cannot be written as JSON: it has numbers in it that may be NaN",
            where="[[publish]] in job.toml",
            got=kind,
            next_step='name what is needed of it, such as columns = { score = "answer.score" }, or format = "msgpack"',
        )
    each = _finite(ColumnExpression("item"), name, item[1])
    return FunctionExpression("list_transform", column, LambdaExpression("item", each))


def _bytes(column: Any) -> list[bytes]:
    import pyarrow as pa

    found: list[bytes] = column.cast(pa.string()).cast(pa.binary()).to_pylist()
    return found


def decoded(value: bytes, kind: str, columns: Sequence[str], layout: str) -> dict[str, Any]:
    """Returns a value as the pointer describes it: column by column."""
    if kind == "json":
        found: dict[str, Any] = json.loads(value)
        return found
    if kind == "msgpack":
        import msgpack

        return dict(zip(columns, msgpack.unpackb(value), strict=True))
    return dict(zip(columns, _unpacked(value, layout), strict=True))


def _unpacked(value: bytes, layout: str) -> Iterator[Any]:
    """Yields the value of each column: a list where the layout has a count."""
    at = 0
    for count, code in re.findall(r"(\d*)([a-zA-Z?])", layout):
        form = f"<{count}{code}"
        found = struct.unpack_from(form, value, at)
        at += struct.calcsize(form)
        yield list(found) if count else found[0]
