"""The files that a run stages: complete, of limited size, and with the name of their run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.staging import writer as parquet_writer
from pipeline.staging.writer import Writer
from pipeline.storage.parquet import read_metadata

SCHEMA = pa.schema([("id", pa.int64()), ("run_id", pa.string())])


def rows(first: int, count: int) -> pa.RecordBatch:
    return pa.record_batch({"id": range(first, first + count), "run_id": ["r1"] * count}, schema=SCHEMA)


@pytest.fixture
def writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Writer]:
    monkeypatch.setattr(parquet_writer, "FILE_ROWS", 1000)
    monkeypatch.setattr(parquet_writer, "GROUP_ROWS", 100)
    return lambda: Writer(tmp_path / "run", "scored", 3, SCHEMA, {"run_id": "r1"}, ["run_id"], ["id"])


def files(writer: Writer) -> list[Path]:
    return sorted(writer.folder.iterdir())


def test_writer_begins_a_new_file_after_the_rows_of_one(writer: Callable[[], Writer]) -> None:
    made = writer()
    for first in range(0, 2530, 30):
        made.write(rows(first, min(30, 2530 - first)))
    made.close()
    assert made.rows == 2530
    assert [pq.read_metadata(path).num_rows for path in files(made)] == [1080, 1080, 370]
    tables = [pq.read_table(path) for path in files(made)]
    assert pa.concat_tables(tables).column("id").to_pylist() == list(range(2530))


def test_writer_combines_small_batches_into_row_groups(writer: Callable[[], Writer]) -> None:
    made = writer()
    for first in range(0, 250, 10):
        made.write(rows(first, 10))
    made.close()
    (path,) = files(made)
    metadata = pq.read_metadata(path)
    assert [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)] == [100, 100, 50]


def test_writer_without_rows_writes_no_file(writer: Callable[[], Writer]) -> None:
    made = writer()
    made.write(rows(0, 0))
    made.close()
    assert not made.folder.exists()


def test_unfinished_file_has_another_name_and_is_removed_if_abandoned(writer: Callable[[], Writer]) -> None:
    made = writer()
    made.write(rows(0, 1200))
    made.write(rows(1200, 100))
    whole, unfinished = sorted(files(made), key=lambda path: path.suffix == ".tmp")
    assert unfinished.suffix == ".tmp"
    made.abandon()
    assert files(made) == [whole]


def test_file_says_which_run_wrote_it_and_under_which_name(writer: Callable[[], Writer]) -> None:
    made = writer()
    made.write(rows(0, 5))
    made.close()
    (path,) = files(made)
    assert read_metadata(path) == {"run_id": "r1", "staged": path.name}
    assert path.name.startswith("scored-03-00000-")


def test_two_writers_of_one_worker_never_share_a_file(writer: Callable[[], Writer]) -> None:
    first, second = writer(), writer()
    for made in (first, second):
        made.write(rows(0, 5))
    for made in (first, second):
        made.close()
    assert len(files(first)) == 2
