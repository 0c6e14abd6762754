"""Files that are cut off, damaged, or written to while they are read: no row of them is kept."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from duckdb import DuckDBPyConnection as Connection

from pipeline.database.connection import connect
from pipeline.errors import IncompleteFile, InputChanged, InputError, LakescoreError, UnreadableFile
from pipeline.lake.layout import Lake
from pipeline.tabular import sources
from tests.ingest.conftest import Import
from tests.ingest.reading import days_of, hidden, rows_of

DAY = "2026-01-31"
ROWS = [(number, 180_209 + number * 7) for number in range(4)]
CSV = b"id,amount\n" + b"".join(b"%d,%d\n" % row for row in ROWS)
JSON = b"".join(b'{"id": %d, "amount": %d}\n' % row for row in ROWS)
SKIPPED = struct.pack("<II", 0x184D2A50, 5) + b"notes"
"""A skippable frame of zstd: as pzstd writes them, between frames of data."""


def zstd(content: bytes) -> bytes:
    return bytes(pa.compress(content, codec="zstd", asbytes=True))


PACK: dict[str, Callable[[bytes], bytes]] = {"zst": zstd, "gz": gzip.compress}
CONTENT = {"csv": CSV, "jsonl": JSON}
KINDS = [pytest.param(text, packed, id=f"{text}.{packed}") for text in CONTENT for packed in PACK]


@pytest.fixture(scope="module")
def con() -> Iterator[Connection]:
    with connect(threads=1) as opened:
        yield opened


def read(con: Connection, path: Path) -> list[tuple[int, int]]:
    files = sources.find([path])
    with sources.translated_read_errors(files):
        return sorted(sources.read(con, files).select("id", "amount").fetchall())


def fails_to_read(con: Connection, path: Path, content: bytes, error: type[LakescoreError]) -> None:
    path.write_bytes(content)
    with pytest.raises(LakescoreError) as caught:
        pytest.fail(f"{len(content)} bytes are read as {read(con, path)}")
    assert type(caught.value) is error
    assert caught.value.where == str(path)


@pytest.mark.parametrize(("text", "packed"), KINDS)
def test_compressed_file_that_is_cut_at_any_byte_is_incomplete(
    con: Connection, tmp_path: Path, text: str, packed: str
) -> None:
    path, whole = tmp_path / f"a.{text}.{packed}", PACK[packed](CONTENT[text])
    for length in range(len(whole)):
        fails_to_read(con, path, whole[:length], IncompleteFile)
    path.write_bytes(whole)
    assert read(con, path) == ROWS


@pytest.mark.parametrize(("text", "packed"), KINDS)
def test_compressed_file_of_several_blocks_that_is_cut_anywhere_is_incomplete(
    con: Connection, tmp_path: Path, text: str, packed: str
) -> None:
    """DuckDB reads the blocks before the cut as if they were all; a value at the end is torn."""
    path, rows = tmp_path / f"a.{text}.{packed}", 100_000
    line = "%d,%d\n" if text == "csv" else '{"id": %d, "amount": %d}\n'
    content = "".join(line % (row, row * 7919 % 999_983) for row in range(rows))
    whole = PACK[packed]((("id,amount\n" if text == "csv" else "") + content).encode())
    for length in [*range(1, len(whole), len(whole) // 20), *range(len(whole) - 9, len(whole))]:
        fails_to_read(con, path, whole[:length], IncompleteFile)
    path.write_bytes(whole)
    assert len(read(con, path)) == rows


@pytest.mark.parametrize(("text", "packed"), KINDS)
def test_file_of_several_frames_whose_last_is_cut_at_any_byte_is_incomplete(
    con: Connection, tmp_path: Path, text: str, packed: str
) -> None:
    path, pack, content = tmp_path / f"a.{text}.{packed}", PACK[packed], CONTENT[text]
    lines = content.splitlines(keepends=True)
    first = pack(b"".join(lines[:3]))
    whole = first + pack(b"") + pack(b"".join(lines[3:]))
    for length in range(len(first) + len(pack(b"")) + 1, len(whole)):
        fails_to_read(con, path, whole[:length], IncompleteFile)
    path.write_bytes(whole)
    assert read(con, path) == ROWS


DAMAGED = {
    "garbage.csv.gz": gzip.compress(CSV) + b"garbage!",
    "garbage.jsonl.zst": zstd(JSON) + b"garbage!",
    "padded.csv.gz": gzip.compress(CSV) + bytes(512),
    "checksum.csv.gz": gzip.compress(CSV)[:-8] + bytes(4) + gzip.compress(CSV)[-4:],
    "length.jsonl.gz": gzip.compress(JSON)[:-4] + bytes(4),
    "plain.csv.gz": CSV,
    "plain.jsonl.zst": JSON,
    "other.csv.zst": gzip.compress(CSV),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_compressed_file_with_damage_or_anything_after_its_end_is_refused(
    con: Connection, tmp_path: Path, name: str
) -> None:
    fails_to_read(con, tmp_path / name, DAMAGED[name], UnreadableFile)


def test_frames_without_rows_and_names_in_capitals_are_read(con: Connection, tmp_path: Path) -> None:
    (tmp_path / "A.CSV.GZ").write_bytes(gzip.compress(b"") + gzip.compress(CSV))
    assert read(con, tmp_path / "A.CSV.GZ") == ROWS
    (tmp_path / "a.jsonl.zst").write_bytes(SKIPPED + zstd(JSON[:50]) + SKIPPED + zstd(JSON[50:]) + SKIPPED)
    assert read(con, tmp_path / "a.jsonl.zst") == ROWS


@pytest.mark.parametrize("name", ["a.csv.zst", "a.csv.gz", "a.jsonl.zst", "a.jsonl.gz", "a.parquet"])
def test_import_of_a_half_written_file_can_be_retried_and_keeps_nothing(
    lake: Lake, bring: Import, tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    if name == "a.parquet":
        pq.write_table(pa.table({"id": [id_ for id_, _ in ROWS], "amount": [amount for _, amount in ROWS]}), path)
    else:
        path.write_bytes(PACK[path.suffix[1:]](CONTENT[name.split(".")[1]]))
    content = path.read_bytes()
    other = tmp_path / f"other.{name.partition('.')[2]}"
    other.write_bytes(content)
    for length in (0, 1, 5, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(IncompleteFile) as caught:
            bring(other, path, ds=DAY)
        assert (caught.value.where, caught.value.exit_code) == (str(path), 75)
        assert days_of(lake) == []
        assert hidden(lake) == []
    path.write_bytes(content)
    bring(path, ds=DAY)
    assert sorted(rows_of(lake, DAY).select(["id", "amount"]).to_pandas().itertuples(index=False, name=None)) == ROWS


def test_file_that_grows_while_it_is_imported_is_not_kept(lake: Lake, bring: Import, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(CSV)

    def another_row(*_: object) -> None:
        with path.open("ab") as file:
            file.write(b"9,1")

    with pytest.raises(InputChanged) as caught:
        bring(path, ds=DAY, progress=another_row)
    assert caught.value.where == str(path)
    assert days_of(lake) == []
    assert hidden(lake) == []


@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_text("id\n1,2\n")])
def test_error_that_a_change_may_have_caused_is_the_change(
    con: Connection, tmp_path: Path, change: Callable[[Path], object]
) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(CSV)
    files = sources.find([path])
    change(path)
    with pytest.raises(InputChanged), sources.translated_read_errors(files):
        sources.read(con, files).fetchall()


def test_empty_text_is_an_error_that_no_retry_mends(con: Connection, tmp_path: Path) -> None:
    fails_to_read(con, tmp_path / "a.csv", b"", InputError)
