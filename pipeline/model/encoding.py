"""Encodes declared inputs, column by column: categories, timestamps, lists, and replacements for NULL."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, assert_never

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import QualityStop
from pipeline.model import hashing, integers, rounding, scaling, sequences
from pipeline.model.inputs import Category, FixedList, Hash, Input, Integer, Number, PaddedList, Timestamp
from pipeline.model.memory_layout import empty

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.model.inputs import Encoding

    Values = NDArray[np.float32] | NDArray[np.uint32]

PERIODS_US = {"day": 86_400e6, "week": 7 * 86_400e6, "year": 365.2425 * 86_400e6}
UNITS_US = {"seconds": 1e6, "days": 86_400e6}
MONDAY = datetime(1970, 1, 5, tzinfo=UTC)
NO_TIME = np.iinfo(np.int64).min
"""The integer value of numpy's NaT."""


def to_matrix(batch: pa.RecordBatch, features: Sequence[str], inputs: Mapping[str, Input]) -> NDArray[np.float32]:
    """Returns float32 (rows, columns); see `matrix.to_matrix`."""
    widths = [inputs[name].width if name in inputs else 1 for name in features]
    rows, columns = batch.num_rows, sum(widths)
    lists = any(isinstance(inputs.get(name), FixedList | PaddedList) for name in features)
    matrix = np.empty((rows, columns), np.float32) if lists else empty(rows, columns)
    start = 0
    with np.errstate(over="ignore", invalid="ignore"):
        for name, width in zip(features, widths, strict=True):
            _encode(batch.column(name), inputs.get(name, Number()), matrix[:, start : start + width], name)
            start += width
    return matrix


def raw(batch: pa.RecordBatch, features: Sequence[str], inputs: Mapping[str, Input]) -> list[Values]:
    """Returns each feature's raw values, (rows, words): float32, or as uint32 what 64 bits tell apart.

    Those are categories, hashes, integers, times, and numbers with a scale, which is computed before they are rounded.
    """
    return [_raw(batch.column(name), inputs.get(name, Number()), name) for name in features]


def _encode(column: pa.Array, how: Input, out: NDArray[np.float32], name: str) -> None:
    """Fills `out`, float32 (rows, width of the input)."""
    match how:
        case Number() | FixedList() if how.scale:
            scaling.put(doubles(column, how, name), how, out)
        case Number():
            rounding.put(column, out[:, 0])
            _fill(out, how.null)
        case Category():
            _put_index(_index(column, how, name), how.encode, out)
        case Integer():
            _encode_integer(column, how, out, name)
        case Hash():
            _put_index(hashing.buckets(_decoded(column), how, name), how.encode, out)
        case Timestamp():
            _encode_time(_microseconds(column, how.null), how, out)
        case FixedList():
            out[:] = _elements(column, how, name)
            _fill(out, how.null)
        case PaddedList():
            sequences.put(column, how, out)
        case _:
            assert_never(how)


def _fill(out: NDArray[np.float32], null: float | None) -> None:
    if null is not None:
        out[np.isnan(out)] = null


def _index(column: pa.Array, how: Category, name: str) -> NDArray[np.float32]:
    """Returns the index in the vocabulary, (rows,): NaN for NULL, infinity for a value that rejects its row."""
    column = _decoded(column)
    values = pa.array(how.vocabulary)
    try:
        column = column.cast(values.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise QualityStop(f"feature {name} is not of type {values.type}", got=str(error).splitlines()[0]) from None
    if how.null is not None:
        column = column.fill_null(pa.scalar(how.null, values.type))
    index: NDArray[np.float32] = pc.index_in(column, value_set=values).to_numpy(zero_copy_only=False).astype(np.float32)
    missing = column.is_null().to_numpy(zero_copy_only=False)
    unknown = np.isnan(index) & ~missing
    if unknown.any():
        if how.unknown == "error":
            raise QualityStop(
                f"feature {name} has values that are not in the model's vocabulary, in {int(unknown.sum())} rows",
                expected=f"{len(how.vocabulary)} values, such as {how.vocabulary[0]!r}",
                next_step="register a model that knows them, or set unknown = quarantine or index in its signature",
            )
        index[unknown] = len(how.vocabulary) if how.unknown == "index" else np.inf
    return index


def _put_index(index: NDArray[np.float32], encode: Encoding, out: NDArray[np.float32]) -> None:
    if encode != "one_hot":
        out[:, 0] = index
        return
    known = np.isfinite(index)
    out[:] = 0
    out[np.flatnonzero(known), index[known].astype(np.int64)] = 1
    out[~known] = index[~known, None]


def _encode_integer(column: pa.Array, how: Integer, out: NDArray[np.float32], name: str) -> None:
    values = _int64(column, name)
    if how.null is not None:
        values = values.fill_null(how.null)
    found = values.fill_null(0).to_numpy()
    integers.split(found, out)
    if how.min is not None:
        out[found < how.min] = np.inf
    if how.max is not None:
        out[found > how.max] = np.inf
    if values.null_count:
        out[values.is_null().to_numpy(zero_copy_only=False)] = np.nan


def _int64(column: pa.Array, name: str) -> pa.Array:
    """Returns the column as int64. Raises QualityStop for values that are none."""
    column = _decoded(column)
    hashing.check_type(column, name, text=False)
    try:
        return column.cast(pa.int64())
    except pa.ArrowInvalid as error:
        raise QualityStop(
            f"feature {name} has values that are no int64",
            expected="integers from -2^63 to 2^63 - 1",
            got=str(error).splitlines()[0],
            next_step="cast the column in the job's SELECT, or declare the feature as a hash, which takes any integer",
        ) from None


def _decoded(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _microseconds(column: pa.Array, null: datetime | None) -> NDArray[np.int64]:
    """Returns microseconds since 1970 UTC, int64 (rows,); NULL becomes `null`, or NO_TIME if that is None."""
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


def _elements(column: pa.Array, how: FixedList, name: str, kind: type[Any] = np.float32) -> NDArray[Any]:
    """Returns numbers of a kind, (rows, length), with NULL as NaN."""
    if pa.types.is_fixed_size_list(column.type):
        lengths = column.type.list_size if len(column) else how.length
        wrong = 0 if lengths == how.length else len(column) - column.null_count
    else:
        wrong = pc.sum(pc.not_equal(pc.list_value_length(column), how.length)).as_py() or 0
    if wrong:
        raise QualityStop(
            f"feature {name} has lists of the wrong length, in {wrong} rows",
            expected=f"{how.length} numbers",
            next_step="write lists of that length, or exclude these rows in the job's SELECT",
        )
    found = np.full((len(column), how.length), np.nan, kind)
    present = column.is_valid().to_numpy(zero_copy_only=False)
    elements = column.drop_null().flatten()
    values = np.empty(len(elements), kind)
    with np.errstate(over="ignore", invalid="ignore"):
        rounding.put(elements, values)
    found[present] = values.reshape(-1, how.length)
    return found


def doubles(column: pa.Array, how: Number | FixedList, name: str) -> NDArray[np.float64]:
    """Returns float64 (rows, width), with NULL as NaN."""
    if isinstance(how, FixedList):
        return _elements(column, how, name, np.float64)
    return np.asarray(_decoded(column).to_numpy(zero_copy_only=False), np.float64)[:, None]


def _raw(column: pa.Array, how: Input, name: str) -> Values:  # noqa: PLR0911 - one line per kind
    match how:
        case Number() | FixedList() if how.scale:
            return scaling.words(doubles(column, how, name))
        case Number():
            values = np.empty((len(column), 1), np.float32)
            with np.errstate(over="ignore", invalid="ignore"):
                rounding.put(column, values[:, 0])
            return values
        case FixedList():
            return _elements(column, how, name)
        case PaddedList():
            return sequences.words(column, how)
        case Timestamp():
            return _words(_microseconds(column, None))
        case Category():
            return _text_words(_decoded(column))
        case Integer():
            return _integer_words(_int64(column, name))
        case Hash():
            values = _decoded(column)
            return _integer_words(values) if pa.types.is_integer(values.type) else _text_words(values)
        case _:
            assert_never(how)


def _integer_words(column: pa.Array) -> NDArray[np.uint32]:
    """Returns uint32 (rows, 3): the 64 bits, and whether there is a value, because any 64 bits may be one."""
    values = hashing.whole(column)
    present = column.is_valid().to_numpy(zero_copy_only=False)
    return np.column_stack([_words(values.view(np.int64)), present.astype(np.uint32)])


def _text_words(column: pa.Array) -> NDArray[np.uint32]:
    """Returns uint32 (rows, 2): a hash of the text; NULL is 0."""
    encoded = column.dictionary_encode()
    hashes = np.array([0, *map(_hash, _texts(encoded.dictionary))], np.int64)
    return _words(hashes[encoded.indices.fill_null(-1).to_numpy().astype(np.int64) + 1])


def _texts(values: pa.Array) -> Iterable[Any]:
    return map(str, values.to_pylist())


def _hash(text: str) -> int:
    """Returns a 64-bit hash. It must never change, because fingerprints that use it are stored."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def _words(values: NDArray[np.int64]) -> NDArray[np.uint32]:
    return np.ascontiguousarray(values).view(np.uint32).reshape(-1, 2)
