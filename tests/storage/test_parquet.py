"""Parquet files as Lakescore writes them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.storage.parquet import from_bytes, read_metadata, read_schema, to_bytes, write_parquet

SCHEMA = pa.schema([("x", pa.int64())])


def batch(*values: int) -> pa.RecordBatch:
    return pa.record_batch({"x": values}, schema=SCHEMA)


def test_file_is_whole_with_our_metadata_and_checksums(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.parquet"
    assert write_parquet(path, SCHEMA, [batch(1), batch(2, 3)], {"run_id": "r1"}) == 3
    assert read_metadata(path) == {"run_id": "r1"}
    assert read_schema(path) == SCHEMA
    assert pq.read_table(path, page_checksum_verification=True).column("x").to_pylist() == [1, 2, 3]
    assert [each.name for each in path.parent.iterdir()] == ["a.parquet"]


@pytest.mark.parametrize("even_if_empty", [True, False])
def test_file_without_rows_is_written_if_it_is_wanted(tmp_path: Path, even_if_empty: bool) -> None:
    path = tmp_path / "a.parquet"
    assert write_parquet(path, SCHEMA, [], {}, even_if_empty=even_if_empty) == 0
    assert path.exists() is even_if_empty


def test_file_whose_rows_fail_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path, SCHEMA, [batch(1)], {})

    def broken() -> Iterator[pa.RecordBatch]:
        yield batch(2)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_parquet(path, SCHEMA, broken(), {})
    assert pq.read_table(path).column("x").to_pylist() == [1]
    assert list(tmp_path.iterdir()) == [path]


def test_two_that_write_the_same_file_at_once_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"

    def writes_it_too() -> Iterator[pa.RecordBatch]:
        yield batch(1)
        write_parquet(path, SCHEMA, [batch(7, 8)], {})
        yield batch(2)

    write_parquet(path, SCHEMA, writes_it_too(), {})
    assert pq.read_table(path).column("x").to_pylist() == [1, 2]


def test_from_bytes_is_the_rows_of_the_content_and_the_same_table_for_the_same() -> None:
    first, second = (to_bytes(pa.table({"x": values})) for values in ([1, 2], [3]))
    assert [from_bytes(each).column("x").to_pylist() for each in (first, second)] == [[1, 2], [3]]
    assert from_bytes(bytes(bytearray(first))) is from_bytes(first)
    with pytest.raises(pa.ArrowInvalid):
        from_bytes(first[:-5])
