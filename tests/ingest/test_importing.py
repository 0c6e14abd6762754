"""Importing files: same rows for every format, each row once on its own day, and no partial imports."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipeline.errors import InputError, LakescoreError, SchemaMismatch, UsageError
from pipeline.ingest import publishing
from pipeline.ingest.generate import batches
from pipeline.ingest.importing import target_of
from pipeline.ingest.publishing import Existing, Target
from pipeline.job.config import Job
from pipeline.lake.layout import Lake
from pipeline.periods import Period
from pipeline.storage.parquet import ROW_GROUP
from tests.ingest.conftest import Import
from tests.ingest.reading import ROOT, day_files, days_of, hidden, rows_of

DAY = "2026-01-31"
FIRST = date(2026, 1, 1)
IMPORT = """
import os, sys
from pathlib import Path
from pipeline.tabular import sources
from pipeline.ingest.importing import import_files
from pipeline.ingest.publishing import Existing
from pipeline.job.loading import find_job
from pipeline.lake.layout import Lake
from pipeline.settings import Settings
from pipeline.context import peak_memory_bytes
root, file, job, memory_limit, kill_after = sys.argv[1:]
def progress(stage, done, total):
    if done > int(kill_after): os.kill(os.getpid(), 9)
days = import_files(
    Lake.open(root), find_job(job, Settings(memory_limit=memory_limit, threads=2)), sources.find([Path(file)]),
    partition_by="day", existing=Existing.replace, progress=progress,
)
print(sum(day.rows for day in days), peak_memory_bytes())
"""
NEVER = 1 << 60


def generated(rows: int, days: int = 1) -> pa.Table:
    """Returns generated rows with a `day` column, in random order."""
    table = pa.Table.from_batches(batches(DAY, rows))
    random = Random(rows)
    column = pa.array([FIRST + timedelta(days=random.randrange(days)) for _ in range(rows)])
    return table.append_column("day", column)


def write(table: pa.Table, path: Path) -> Path:
    """Writes with DuckDB, in the format and compression given by the file name."""
    kind = next(kind for kind in ("csv", "json", "parquet") if kind[:4] in path.name.lower().replace(".tsv", ".csv"))
    options = {"csv": ", HEADER, DELIMITER '\t'" if ".tsv" in path.name else ", HEADER"}.get(kind, "")
    compression = {".gz": ", COMPRESSION gzip", ".zst": ", COMPRESSION zstd"}.get(path.suffix, "")
    with duckdb.connect() as con:
        con.register("rows", table)
        con.execute(f"COPY rows TO '{path}' (FORMAT {kind}{options}{compression})")
    return path


def in_order(table: pa.Table, *, by: str = "id") -> pa.Table:
    return table.sort_by(by).combine_chunks()


NAMES = ("a.csv", "a.csv.gz", "a.csv.zst", "a.tsv", "a.jsonl", "a.json", "a.ndjson.gz", "a.parquet", "A.CSV")


@pytest.mark.parametrize("name", NAMES)
def test_import_of_any_format_brings_the_same_rows(lake: Lake, bring: Import, tmp_path: Path, name: str) -> None:
    table = generated(30_000, days=3)
    (day,) = bring(write(table, tmp_path / name), ds=DAY)
    found = rows_of(lake, DAY)
    assert found.schema == table.schema
    assert in_order(found).equals(in_order(table))
    assert (day.ds, day.rows, len(day.files)) == (DAY, 30_000, 1)
    assert [lake.workspace.path(file.path) for file in day.files] == day_files(lake, DAY)
    assert hidden(lake) == []


def test_import_of_several_files_brings_the_rows_of_all(lake: Lake, bring: Import, tmp_path: Path) -> None:
    table = generated(1000)
    halves = [write(table.slice(at, 500), tmp_path / f"{at}.csv") for at in (0, 500)]
    bring(*halves, ds=DAY)
    assert in_order(rows_of(lake, DAY)).equals(in_order(table))


def test_import_of_many_rows_splits_the_day_into_files(
    lake: Lake, bring: Import, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "FILE_ROWS", 2 * ROW_GROUP)
    bring(write(generated(5 * ROW_GROUP + 5), tmp_path / "a.parquet"), ds=DAY)
    assert [pq.read_metadata(path).num_rows for path in day_files(lake, DAY)] == [*[2 * ROW_GROUP] * 2, ROW_GROUP + 5]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_partition_by_puts_each_row_on_its_day(lake: Lake, bring: Import, tmp_path: Path, name: str) -> None:
    table = generated(200_000, days=40)
    days = bring(write(table, tmp_path / name), partition_by="day")
    assert [day.ds for day in days] == days_of(lake) == [str(FIRST + timedelta(days=number)) for number in range(40)]
    for day in days:
        expected = table.filter(pc.equal(table["day"], date.fromisoformat(day.ds)))
        assert day.rows == expected.num_rows
        assert in_order(rows_of(lake, day.ds)).equals(in_order(expected))


@pytest.mark.parametrize(
    ("values", "zone", "days"),
    [
        (pa.array(["2026-01-01", "2024-02-29"]), "UTC", ["2024-02-29", "2026-01-01"]),
        (pa.array([datetime(2026, 1, 1, 23, 59, 59), datetime(2026, 1, 2)]), "UTC", ["2026-01-01", "2026-01-02"]),  # noqa: DTZ001
        (pa.array([datetime(2026, 1, 1, 23, 30, tzinfo=UTC)]), "UTC", ["2026-01-01"]),
        (pa.array([datetime(2026, 1, 1, 23, 30, tzinfo=UTC)]), "Europe/Paris", ["2026-01-02"]),
        (pa.array([datetime(2026, 1, 1, 4, 30, tzinfo=UTC)]), "America/New_York", ["2025-12-31"]),
        (pa.array([0, 86_400 * 10**9], pa.timestamp("ns")), "UTC", ["1970-01-01", "1970-01-02"]),
        (pa.array([0, 86_400 * 10**9], pa.timestamp("ns", "UTC")), "America/New_York", ["1969-12-31", "1970-01-01"]),
        (pa.array([date(1969, 12, 31), date(9999, 12, 31)]), "UTC", ["1969-12-31", "9999-12-31"]),
    ],
)
def test_partition_by_reads_days_of_each_type(
    lake: Lake,
    bring: Import,
    job_reading: Callable[..., Job],
    tmp_path: Path,
    values: pa.Array,
    zone: str,
    days: list[str],
) -> None:
    pq.write_table(pa.table({"id": list(range(len(values))), "when": values}), tmp_path / "a.parquet")
    job = job_reading("unscored/ds={ds}/*.parquet", timezone=zone)
    bring(tmp_path / "a.parquet", partition_by="when", job=job)
    assert days_of(lake) == days


@pytest.mark.parametrize("every", ["hour", "week", "month"])
def test_partition_by_puts_each_row_into_its_period_of_any_grain(
    lake: Lake, bring: Import, job_reading: Callable[..., Job], tmp_path: Path, every: str
) -> None:
    begin = datetime(2025, 12, 27, 21, 59, tzinfo=UTC)
    step = timedelta(minutes=13) if every == "hour" else timedelta(hours=17)
    times = [begin + number * step for number in range(100)]
    job = job_reading("unscored/ds={ds}/*.parquet", timezone="Europe/Berlin", every=every)
    table = pa.table({"id": range(100), "seen": pa.array(times, pa.timestamp("us", "UTC"))})
    pq.write_table(table, tmp_path / "a.parquet")
    days = bring(tmp_path / "a.parquet", partition_by="seen", job=job)
    expected = Counter(Period.at(job.grain, time, "Europe/Berlin").ds for time in times)
    assert {day.ds: day.rows for day in days} == expected
    assert len(expected) > 2
    for ds in expected:
        found = rows_of(lake, ds).column("seen").to_pylist()
        assert {Period.at(job.grain, time, "Europe/Berlin").ds for time in found} == {ds}


@pytest.mark.parametrize(("zone", "kind"), [("Europe/Berlin", pa.timestamp("us")), ("UTC", pa.date32())])
def test_partition_by_a_column_that_does_not_tell_the_hour_is_refused(
    bring: Import, job_reading: Callable[..., Job], tmp_path: Path, zone: str, kind: pa.DataType
) -> None:
    job = job_reading("unscored/ds={ds}/*.parquet", timezone=zone, every="hour")
    pq.write_table(pa.table({"id": [1], "seen": pa.array([FIRST]).cast(kind)}), tmp_path / "a.parquet")
    with pytest.raises(SchemaMismatch, match="does not tell the hour"):
        bring(tmp_path / "a.parquet", partition_by="seen", job=job)


def test_partition_by_a_column_called_like_the_folder_leaves_it_to_the_folder(
    lake: Lake, bring: Import, tmp_path: Path
) -> None:
    pq.write_table(pa.table({"id": [1, 2], "ds": ["2026-01-01", "2026-01-02"]}), tmp_path / "a.parquet")
    bring(tmp_path / "a.parquet", partition_by="ds")
    assert rows_of(lake, "2026-01-01").column_names == ["id"]
    with duckdb.connect() as con:
        read = con.sql("SELECT id, ds FROM read_parquet($p, hive_types = {ds: VARCHAR}) ORDER BY id", params={
            "p": f"{lake.workspace.root}/unscored/*/*.parquet"
        })  # fmt: skip
        assert read.fetchall() == [(1, "2026-01-01"), (2, "2026-01-02")]


def test_name_with_wildcards_means_the_file_and_not_its_neighbours(lake: Lake, bring: Import, tmp_path: Path) -> None:
    for name in ("a[1]*.csv", "a1.csv", "a1x.csv"):
        (tmp_path / name).write_text(f"id\n{name}\n")
    bring(tmp_path / "a[1]*.csv", ds=DAY)
    assert rows_of(lake, DAY).to_pydict() == {"id": ["a[1]*.csv"]}


def test_folder_of_a_source_file_adds_no_column(lake: Lake, bring: Import, tmp_path: Path) -> None:
    (tmp_path / "ds=2020-01-01").mkdir()
    table = generated(10)
    for name in ("a.csv", "a.jsonl", "a.parquet"):
        bring(write(table, tmp_path / "ds=2020-01-01" / name), ds=DAY, existing=Existing.replace)
        assert rows_of(lake, DAY).column_names == table.column_names


@pytest.mark.slow
def test_real_history_is_imported_in_one_pass(lake: Lake, bring: Import, data_folder: Path) -> None:
    """Online Retail (Chen, Sain and Guo, 2012; UCI): the features of each customer on each of 374 days."""
    source = data_folder / "online_retail" / "daily_features.parquet"
    days = bring(source, partition_by="as_of")
    assert (len(days), sum(day.rows for day in days)) == (374, 970_979)
    assert sum(len(day.files) for day in days) == 374
    with duckdb.connect() as con:
        con.sql("FROM read_parquet($p)", params={"p": str(source)}).create_view("source")
        files = {"p": f"{lake.workspace.root}/unscored/*/*.parquet"}
        folders = con.sql("SELECT ds FROM read_parquet($p, hive_types = {ds: DATE}) WHERE ds != as_of", params=files)
        assert folders.fetchall() == []
        con.sql("FROM read_parquet($p, hive_partitioning = false)", params=files).create_view("stored")
        for one, other in (("source", "stored"), ("stored", "source")):
            assert con.sql(f"SELECT count(*) FROM (FROM {one} EXCEPT ALL FROM {other})").fetchall() == [(0,)]


def test_second_import_of_a_file_is_refused_unless_it_is_meant(lake: Lake, bring: Import, tmp_path: Path) -> None:
    file = write(generated(100, days=3), tmp_path / "a.csv")
    bring(file, partition_by="day")
    before = {path: path.read_bytes() for path in day_files(lake, "*")}
    for options in ({"partition_by": "day"}, {"ds": str(FIRST)}):
        with pytest.raises(UsageError, match="already has files") as refusal:
            bring(file, **options)
        assert "--replace" in str(refusal.value)
    assert {path: path.read_bytes() for path in day_files(lake, "*")} == before
    bring(file, partition_by="day", existing=Existing.replace)
    assert sum(rows_of(lake, ds).num_rows for ds in days_of(lake)) == 100
    bring(file, partition_by="day", existing=Existing.append)
    assert sum(rows_of(lake, ds).num_rows for ds in days_of(lake)) == 200


def test_import_of_days_of_which_the_last_has_files_publishes_none(lake: Lake, bring: Import, tmp_path: Path) -> None:
    file = write(generated(100, days=3), tmp_path / "a.csv")
    bring(file, ds="2026-01-03")
    with pytest.raises(UsageError, match="2026-01-03 already has files"):
        bring(file, partition_by="day")
    assert days_of(lake) == ["2026-01-03"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["2026-01-01", None, "31.01.2026", "2026-02-30", None], "4 rows have no day"),
        ([None, None, None, None, None], "5 rows have no day"),
        (["2026-01-01 10:00:00"] * 5, "5 rows have no day"),
    ],
)
def test_rows_without_a_day_are_counted_and_not_shown(
    lake: Lake, bring: Import, tmp_path: Path, values: list[str | None], message: str
) -> None:
    table = pa.table({"id": [f"secret-{row}" for row in range(5)], "day": pa.array(values, pa.string())})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(InputError, match=message) as refusal:
        bring(tmp_path / "a.parquet", partition_by="day")
    nulls = sum(value is None for value in values)
    assert f"{nulls} NULL, " in str(refusal.value)
    assert not any(value in str(refusal.value) for value in ("secret", "31.01", "02-30"))
    assert (days_of(lake), hidden(lake)) == ([], [])


def test_dates_that_no_folder_can_be_named_after_are_no_days(lake: Lake, bring: Import, tmp_path: Path) -> None:
    with duckdb.connect() as con:
        days = "UNNEST(['infinity', '10000-01-01', '0044-03-15 (BC)', '2026-01-01']::DATE[])"
        con.execute(f"COPY (SELECT {days} AS day) TO '{tmp_path / 'a.parquet'}'")
    with pytest.raises(InputError, match="3 rows have no day"):
        bring(tmp_path / "a.parquet", partition_by="day")
    assert days_of(lake) == []


def test_more_rows_without_a_day_than_a_batch_are_all_counted(lake: Lake, bring: Import, tmp_path: Path) -> None:
    rows = ROW_GROUP + 5
    days = pa.array([None] * rows + [FIRST] * 10, pa.date32())
    pq.write_table(pa.table({"id": list(range(rows + 10)), "day": days}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=f"{rows:,} rows have no day"):
        bring(tmp_path / "a.parquet", partition_by="day")


@pytest.mark.parametrize(
    ("column", "error", "message"),
    [("dya", UsageError, "did you mean 'day'"), ("age", SchemaMismatch, "does not hold days")],
)
def test_partition_by_an_unfit_column_is_refused(
    lake: Lake, bring: Import, tmp_path: Path, column: str, error: type[LakescoreError], message: str
) -> None:
    with pytest.raises(error, match=message):
        bring(write(generated(5), tmp_path / "a.csv"), partition_by=column)
    assert days_of(lake) == []


@pytest.mark.parametrize("options", [{}, {"ds": DAY, "partition_by": "day"}, {"ds": "2026-02-30"}, {"ds": "../x"}])
def test_import_without_a_sensible_day_is_refused(
    lake: Lake, bring: Import, tmp_path: Path, options: dict[str, Any]
) -> None:
    with pytest.raises(UsageError):
        bring(write(generated(5), tmp_path / "a.csv"), **options)
    assert days_of(lake) == []


@pytest.mark.parametrize("name", ["ds", "DS"])
def test_column_that_a_folder_would_hide_is_refused(lake: Lake, bring: Import, tmp_path: Path, name: str) -> None:
    (tmp_path / "a.csv").write_text(f"id,{name}\n1,2020-01-01\n")
    with pytest.raises(SchemaMismatch, match="would be hidden"):
        bring(tmp_path / "a.csv", ds=DAY)
    assert days_of(lake) == []


@pytest.mark.parametrize(
    ("pattern", "target"),
    [
        ("unscored/ds={ds}/*.parquet", Target("unscored/ds={ds}", "*.parquet")),
        ("in/{ds}/users-*.parquet", Target("in/{ds}", "users-*.parquet")),
        ("in/{ds}/{ds}-*.parquet", Target("in/{ds}", "{ds}-*.parquet")),
        ("in/{ds}/x/**/*.parquet", Target("in/{ds}/x", "*.parquet")),
        ("in/{ds}/*", Target("in/{ds}", "*.parquet")),
    ],
)
def test_import_lands_where_the_job_reads(
    lake: Lake, bring: Import, job_reading: Callable[..., Job], tmp_path: Path, pattern: str, target: Target
) -> None:
    job = job_reading(pattern)
    assert target_of(job, lake) == target
    bring(write(generated(10, days=2), tmp_path / "a.csv"), partition_by="day", job=job)
    patterns = job.patterns.values()
    assert lake.input_days(patterns) == ["2026-01-01", "2026-01-02"]
    assert hidden(lake) == []


def test_absolute_pattern_in_the_lake_is_a_target(lake: Lake, job_reading: Callable[..., Job]) -> None:
    inside, outside = (f"{root}/in/ds={{ds}}/*.parquet" for root in (lake.workspace.root, lake.workspace.root.parent))
    assert target_of(job_reading(inside), lake) == Target("in/ds={ds}", "*.parquet")
    with pytest.raises(UsageError, match="cannot be imported"):
        target_of(job_reading(outside), lake)


@pytest.mark.parametrize("pattern", ["in/{ds}.parquet", "in/*/{ds}/*.parquet", "in/{ds}/a.parquet", "in/{ds}/[ab]*.x"])
def test_pattern_that_files_cannot_be_imported_to_is_refused(
    lake: Lake, job_reading: Callable[..., Job], pattern: str
) -> None:
    with pytest.raises(UsageError, match="cannot be imported"):
        target_of(job_reading(pattern), lake)


def test_job_with_several_sources_needs_to_be_told_which(lake: Lake, job_reading: Callable[..., Job]) -> None:
    job = job_reading(users="users/ds={ds}/*.parquet", orders="orders/{ds}/*.parquet")
    assert target_of(job, lake, "orders") == Target("orders/{ds}", "*.parquet")
    for source in (None, "order"):
        with pytest.raises(UsageError, match="users, orders"):
            target_of(job, lake, source)


def start_import(lake: Lake, file: Path, job: Job, *, limit: str = "400MB", kill: int = NEVER) -> subprocess.Popen[str]:
    arguments = [lake.workspace.root, file, job.folder, limit, kill]
    command = [sys.executable, "-c", IMPORT, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_kill_while_days_are_written_leaves_none(
    lake: Lake, bring: Import, job_reading: Callable[..., Job], tmp_path: Path
) -> None:
    job = job_reading("unscored/ds={ds}/*.parquet")
    file = write(generated(50_000, days=100), tmp_path / "a.parquet")
    with start_import(lake, file, job, kill=40_000) as process:
        assert process.wait() == -signal.SIGKILL
    assert days_of(lake) == []
    assert len(hidden(lake)) == 1, "it was killed before it wrote anything"
    bring(file, partition_by="day")
    assert len(days_of(lake)) == 100
    assert hidden(lake) == []


@pytest.mark.slow
def test_kill_at_any_time_leaves_whole_days(lake: Lake, job_reading: Callable[..., Job], tmp_path: Path) -> None:
    """The import is killed as soon as the first day is visible; --replace then completes the others."""
    job = job_reading("unscored/ds={ds}/*.parquet")
    table = generated(20_000, days=200)
    file = write(table, tmp_path / "a.parquet")
    counts = {str(each["values"]): each["counts"] for each in pc.value_counts(table["day"]).to_pylist()}
    partial = 0
    for _ in range(3):
        with start_import(lake, file, job) as process:
            while process.poll() is None and not days_of(lake):
                time.sleep(0.0002)
            process.kill()
        seen = days_of(lake)
        partial += 0 < len(seen) < 200
        assert {ds: rows_of(lake, ds).num_rows for ds in seen} == {ds: counts[ds] for ds in seen}
        with start_import(lake, file, job) as process:
            assert process.wait() == 0
        assert {ds: rows_of(lake, ds).num_rows for ds in days_of(lake)} == counts
        assert hidden(lake) == []
        for ds in days_of(lake):
            for path in day_files(lake, ds):
                path.unlink()
            lake.workspace.path(f"unscored/ds={ds}").rmdir()
    assert partial, "no kill came while days were published"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_memory_is_bounded_whatever_the_number_of_rows(
    lake: Lake, job_reading: Callable[..., Job], tmp_path: Path, name: str
) -> None:
    file, rows = tmp_path / name, 10_000_000
    with duckdb.connect() as con:
        day = "DATE '2026-01-01' + (hash(i) % 400)::INT"
        made = f"SELECT 'user_' || i AS id, random() AS a, random() AS b, {day} AS day FROM range({rows}) r(i)"
        con.execute(f"COPY ({made}) TO '{file}' (FORMAT {'json' if name == 'a.jsonl' else file.suffix[1:]})")
    with start_import(lake, file, job_reading("unscored/ds={ds}/*.parquet"), limit="200MB") as process:
        assert process.stdout is not None
        found, peak = map(int, process.stdout.read().split())
    assert found == rows
    assert peak < 520e6, "200 MB and the interpreter with its libraries: 450 to 465 MB for 5M, 10M and 20M rows"
