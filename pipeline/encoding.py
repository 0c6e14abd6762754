"""Declared inputs, column by column: categories, timestamps, lists, and what stands for NULL."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, assert_never

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import QualityStop
from pipeline.model.inputs import Category, FixedList, Input, Number, Timestamp

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float32] | NDArray[np.uint32]

PERIODS_US = {"day": 86_400e6, "week": 7 * 86_400e6, "year": 365.2425 * 86_400e6}
UNITS_US = {"seconds": 1e6, "days": 86_400e6}
MONDAY = datetime(1970, 1, 5, tzinfo=UTC)
NO_TIME = np.iinfo(np.int64).min
"""What numpy calls NaT."""


def to_matrix(batch: pa.RecordBatch, features: Sequence[str], inputs: Mapping[str, Input]) -> NDArray[np.float32]:
    """Returns float32 (rows, columns): see `features.to_matrix`."""
    widths = [inputs[name].width if name in inputs else 1 for name in features]
    matrix = np.empty((batch.num_rows, sum(widths)), np.float32)
    start = 0
    with np.errstate(over="ignore", invalid="ignore"):
        for name, width in zip(features, widths, strict=True):
            _encode(batch.column(name), inputs.get(name, Number()), matrix[:, start : start + width], name)
            start += width
    return matrix


def raw(batch: pa.RecordBatch, features: Sequence[str], inputs: Mapping[str, Input]) -> list[Values]:
    """Returns the values of each feature as they came, (rows, words): float32, or what is no number in two uint32."""
    return [_raw(batch.column(name), inputs.get(name, Number()), name) for name in features]


def _encode(column: pa.Array, how: Input, out: NDArray[np.float32], name: str) -> None:
    """Fills `out`, (rows, the input's width)."""
    match how:
        case Number():
            out[:, 0] = column.to_numpy(zero_copy_only=False)
            _fill(out, how.null)
        case Category():
            _encode_category(column, how, out, name)
        case Timestamp():
            _encode_time(_microseconds(column, how.null), how, out)
        case FixedList():
            out[:] = _elements(column, how, name)
            _fill(out, how.null)
        case _:
            assert_never(how)


def _fill(out: NDArray[np.float32], null: float | None) -> None:
    if null is not None:
        out[np.isnan(out)] = null


def _encode_category(column: pa.Array, how: Category, out: NDArray[np.float32], name: str) -> None:
    column = _decoded(column)
    values = pa.array(how.vocabulary)
    try:
        column = column.cast(values.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise QualityStop(f"feature {name} is no {values.type}", got=str(error).splitlines()[0]) from None
    if how.null is not None:
        column = column.fill_null(pa.scalar(how.null, values.type))
    index = pc.index_in(column, value_set=values).to_numpy(zero_copy_only=False).astype(np.float32)  # NaN if not there
    missing = column.is_null().to_numpy(zero_copy_only=False)
    unknown = np.isnan(index) & ~missing
    if unknown.any():
        if how.unknown == "error":
            raise QualityStop(
                f"feature {name} has values that are not in the model's vocabulary, in {int(unknown.sum())} rows",
                expected=f"{len(how.vocabulary)} values, such as {how.vocabulary[0]!r}",
                next_step="register a model that knows them, or one whose signature says unknown = quarantine or index",
            )
        index[unknown] = len(how.vocabulary) if how.unknown == "index" else np.inf
    if how.encode == "index":
        out[:, 0] = index
        return
    known = np.isfinite(index)
    out[:] = 0
    out[np.flatnonzero(known), index[known].astype(np.int64)] = 1
    out[~known] = index[~known, None]


def _decoded(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _microseconds(column: pa.Array, null: datetime | None) -> NDArray[np.int64]:
    """Returns int64 (rows,) since 1970 in UTC, NULL as NO_TIME."""
    column = _decoded(column)
    if pa.types.is_date(column.type) or pa.types.is_null(column.type):
        column = column.cast(pa.timestamp("s"))
    values = column.cast(pa.timestamp("us", column.type.tz), safe=False).cast(pa.int64())
    missing = NO_TIME if null is None else _epoch(null)
    found: NDArray[np.int64] = values.fill_null(missing).to_numpy()
    return found


def _epoch(at: datetime) -> int:
    return round(at.timestamp() * 1e6)


def _encode_time(times: NDArray[np.int64], how: Timestamp, out: NDArray[np.float32]) -> None:
    if how.convert == "cyclic":
        assert how.period is not None
        start = _epoch(MONDAY) if how.period == "week" else 0
        angle = (times - start) % PERIODS_US[how.period] * (2 * np.pi / PERIODS_US[how.period])
        out[:, 0], out[:, 1] = np.sin(angle), np.cos(angle)
    else:
        out[:, 0] = (times - _epoch(how.origin)) / UNITS_US[how.convert]
    out[times == NO_TIME] = np.nan


def _elements(column: pa.Array, how: FixedList, name: str) -> NDArray[np.float32]:
    """Returns float32 (rows, length); NaN for NULL."""
    if pa.types.is_fixed_size_list(column.type):
        lengths = column.type.list_size if len(column) else how.length
        wrong = 0 if lengths == how.length else len(column) - column.null_count
    else:
        wrong = pc.sum(pc.not_equal(pc.list_value_length(column), how.length)).as_py() or 0
    if wrong:
        raise QualityStop(
            f"feature {name} has lists of another length, in {wrong} rows",
            expected=f"{how.length} numbers",
            next_step="write lists of that length, or leave these rows out in the job's SELECT",
        )
    found = np.full((len(column), how.length), np.nan, np.float32)
    present = column.is_valid().to_numpy(zero_copy_only=False)
    values = column.drop_null().flatten().to_numpy(zero_copy_only=False)
    found[present] = values.astype(np.float32).reshape(-1, how.length)
    return found


def _raw(column: pa.Array, how: Input, name: str) -> Values:
    match how:
        case Number():
            numbers = np.empty((len(column), 1), np.float32)
            with np.errstate(over="ignore", invalid="ignore"):
                numbers[:, 0] = column.to_numpy(zero_copy_only=False)
            return numbers
        case FixedList():
            return _elements(column, how, name)
        case Timestamp():
            return _words(_microseconds(column, None))
        case Category():
            encoded = _decoded(column).dictionary_encode()
            hashes = np.array([0, *map(_hash, _texts(encoded.dictionary))], np.int64)
            return _words(hashes[encoded.indices.fill_null(-1).to_numpy().astype(np.int64) + 1])
        case _:
            assert_never(how)


def _texts(values: pa.Array) -> Iterable[Any]:
    return map(str, values.to_pylist())


def _hash(text: str) -> int:
    """Returns a hash that is the same for ever: we store what is made of it."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def _words(values: NDArray[np.int64]) -> NDArray[np.uint32]:
    return np.ascontiguousarray(values).view(np.uint32).reshape(-1, 2)
