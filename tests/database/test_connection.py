"""A DuckDB connection gives the same values on every machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.database.connection import (
    connect,
    connect_shared,
    create_view,
    files_as_text,
    read_parquet,
    translated_errors,
)
from pipeline.database.resources import Resources
from pipeline.errors import OutOfMemory, StorageUnavailable, UnreadableFile
from tests.conftest import ROOT

AT = ("2026-03-29T01:30:00", "2026-10-25T02:30:00", "1960-01-01T00:00:00.123456")
"""Times in UTC; in Berlin and New York, clocks change in the hours around the first two."""
MICROSECONDS = [1774747800_000000, 1792895400_000000, -315619199_876544]
READ = """
import json, sys
from pipeline.database.connection import connect, connect_shared, read_parquet
from pipeline.database.resources import Resources
from pipeline.model.encoding import to_matrix, raw
from pipeline.model.inputs import Timestamp
found = {}
for how, options in ((connect, ("400MB", 2)), (connect_shared, (Resources("400MB", 2),))):
    with how(*options) as con:
        for path in sys.argv[1:]:
            rows = read_parquet(con, [path])
            (batch,) = rows.to_arrow_table().combine_chunks().to_batches()
            (words,) = raw(batch, ["seen"], {"seen": Timestamp(convert="seconds")})
            rows.create_view("times")
            texts = con.sql("SELECT max(seen)::DATE::VARCHAR, left(max(seen)::VARCHAR, 13) FROM times").fetchall()[0]
            found[f"{path} {how.__name__}"] = [words.view("int64")[:, 0].tolist(), *texts]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same instants as pandas, polars, Spark, pyarrow and DuckDB write them, with and without a zone."""
    folder = tmp_path_factory.mktemp("times")
    naive = [datetime.fromisoformat(text) for text in AT]
    zoned = [at.replace(tzinfo=UTC) for at in naive]
    abroad = [at.astimezone(ZoneInfo("America/New_York")) for at in zoned]
    for unit in ("us", "ns"):
        for name, values, zone in (
            ("naive", naive, None),
            ("utc", zoned, "UTC"),
            ("delhi", zoned, "Asia/Kolkata"),
        ):
            table = pa.table({"seen": pa.array(values, pa.timestamp(unit, zone))})
            pq.write_table(table, folder / f"pyarrow-{name}-{unit}.parquet")
            pq.write_table(table, folder / f"bare-{name}-{unit}.parquet", store_schema=False)
    spark = {"use_deprecated_int96_timestamps": True, "store_schema": False}  # as Spark and Hive write by default
    pq.write_table(pa.table({"seen": pa.array(zoned, pa.timestamp("us", "UTC"))}), folder / "int96.parquet", **spark)
    pd.DataFrame({"seen": naive}).to_parquet(folder / "pandas.parquet")
    pd.DataFrame({"seen": pd.to_datetime(zoned)}).to_parquet(folder / "pandas-utc.parquet")
    pd.DataFrame({"seen": pd.to_datetime(naive).astype("datetime64[ns]")}).to_parquet(folder / "pandas-2.parquet")
    pl.DataFrame({"seen": naive}).write_parquet(folder / "polars.parquet")
    pl.DataFrame({"seen": pl.Series(abroad)}).write_parquet(folder / "polars-abroad.parquet")
    texts = ", ".join(f"'{text}'" for text in AT)
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'Asia/Tokyo'")
        for kind, zone in (("TIMESTAMP", ""), ("TIMESTAMP_NS", ""), ("TIMESTAMPTZ", "Z")):
            each = f"unnest([{texts}]::VARCHAR[])"
            con.execute(f"COPY (SELECT ({each} || '{zone}')::{kind} AS seen) TO '{folder}/duckdb-{kind}.parquet'")
    return sorted(folder.glob("*.parquet"))


@pytest.mark.slow
@pytest.mark.parametrize("zone", ["America/New_York", "Europe/Berlin", "Asia/Kolkata"])
def test_times_are_the_same_instants_whatever_wrote_them_and_wherever_they_are_read(
    files: list[Path], zone: str
) -> None:
    command = [sys.executable, "-c", READ, *map(str, files)]
    environment = {**os.environ, "TZ": zone, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == 2 * len(files) == 2 * 21
    assert {name: each for name, each in found.items() if each != [MICROSECONDS, "2026-10-25", "2026-10-25 02"]} == {}


def test_view_of_files_reads_them_whatever_their_names(tmp_path: Path) -> None:
    path = tmp_path / "it's $paths, [a-z]*.parquet"
    pq.write_table(pa.table({"a": [1, 2]}), path)
    pq.write_table(pa.table({"a": [3]}), tmp_path / "it's $paths, b.parquet")
    with connect() as con:
        create_view(con, 'the "view"', f"SELECT a FROM {files_as_text([path])}")
        assert con.sql('FROM "the ""view"""').fetchall() == [(1,), (2,)]


def test_translated_errors_a_lack_of_memory_is_not_a_damaged_file(tmp_path: Path) -> None:
    """To look for the damaged one among the files that are read takes memory, too."""
    with pytest.raises(OutOfMemory, match="DuckDB ran out of memory"), translated_errors("", [tmp_path / "x"]):
        raise duckdb.OutOfMemoryException("Out of Memory Error: could not allocate block")
    with pytest.raises(StorageUnavailable, match="not enough memory"), translated_errors("", [tmp_path / "x"]):
        raise MemoryError


@pytest.mark.parametrize("kind", [pa.float32(), pa.float64()])
def test_read_parquet_nan_is_seen_though_the_statistics_of_the_file_leave_it_out(tmp_path: Path, kind: Any) -> None:
    pq.write_table(pa.table({"x": pa.array([0.25, float("nan"), 0.5], kind)}), tmp_path / "a.parquet")
    with connect() as con:
        rows = read_parquet(con, [tmp_path / "a.parquet"])
        found = rows.aggregate("count_if(NOT x BETWEEN 0 AND 1), count_if(isnan(x)), isnan(max(x))").fetchall()
        assert found == [(1, 1, True)]
        assert rows.filter("x > 1").count("x").fetchall() == [(1,)]


@pytest.mark.parametrize("kind", [pa.float32(), pa.float64()])
def test_read_parquet_maximum_without_nan_is_a_number(tmp_path: Path, kind: Any) -> None:
    pq.write_table(pa.table({"x": pa.array([0.25, 0.5], kind)}), tmp_path / "a.parquet")
    with connect() as con:
        rows = read_parquet(con, [tmp_path / "a.parquet"])
        assert rows.aggregate("min(x), max(x)").fetchall() == [(0.25, 0.5)]
        assert rows.aggregate("max(x) - min(x)").fetchall() == [(0.25,)]


# A file that puts an end to DuckDB's instance


@pytest.fixture(scope="module")
def fatal(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A sound file, and the same with a byte of its footer changed, after which DuckDB refuses all further work."""
    folder = tmp_path_factory.mktemp("fatal")
    sound, damaged = folder / "a.parquet", folder / "b.parquet"
    pq.write_table(pa.table({"id": [f"u{number}" for number in range(20)], "a": [0.5] * 20}), sound)
    content = sound.read_bytes()
    con = duckdb.connect()
    for at in range(len(content) - 9, 0, -1):
        damaged.write_bytes(content[:at] + b"\xd7" + content[at + 1 :])
        try:
            con.sql("FROM read_parquet($path)", params={"path": str(damaged)}).fetchall()
        except duckdb.InternalException:
            return sound, damaged
        except (duckdb.Error, RuntimeError):
            continue
    raise AssertionError("no byte does: is this fault of DuckDB mended?")


def test_file_that_ends_an_instance_is_named_and_the_next_connection_works(fatal: tuple[Path, Path]) -> None:
    sound, damaged = fatal
    of_process = Resources("300MB", 1)
    with pytest.raises(UnreadableFile) as caught, connect_shared(of_process) as con:  # noqa: SIM117 - else mypy sees no end
        with translated_errors("the input", [sound, damaged]):
            read_parquet(con, [sound, damaged]).fetchall()
    assert caught.value.where == str(damaged)
    with connect_shared(of_process) as con:
        assert len(read_parquet(con, [sound]).fetchall()) == 20
