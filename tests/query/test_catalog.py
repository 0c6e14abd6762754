"""`lake.duckdb`: the same views for a client without Lakescore."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.database.connection import connect
from pipeline.errors import LakeDamaged
from pipeline.job.config import Job
from pipeline.job.loading import read_job
from pipeline.lake.layout import Lake, Partition
from pipeline.lake.patterns import pattern
from pipeline.periods import Grain, Period
from pipeline.query import unscored, views
from pipeline.query.catalog import write_catalog
from pipeline.query.periods_of_paths import period_in
from pipeline.records import State
from pipeline.settings import Settings
from tests import lakes

DAYS = ("2026-01-01", "2026-01-02")
CLIENT = """
import sys, json, duckdb
con = duckdb.connect(sys.argv[1], read_only=True)
print(json.dumps([con.execute(query).fetchall() for query in sys.argv[2:]], default=str))
"""


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Two jobs with different keys, revisions, two model versions, a failed run and rejected rows."""
    lake = lakes.open_lake(tmp_path / "the lake's")
    for ds in DAYS:
        lakes.add_day(lake, ds, ["a", "b", "c"])
        lakes.add_day(lake, ds, [1, 2], job="fraud", key="card", labels=["good", "bad"])
        rows = lakes.input_rows(["x", "y"])
        lakes.add_quarantine(lake, "churn", ds, lakes.run_id(ds), rows, [["null:age"], ["null:income"]])
    partition = Partition("churn", DAYS[0], "v1")
    rows = lakes.prediction_rows({"id": ["a"]}, run=lakes.run_id(DAYS[0], 1), ds=DAYS[0], reason="changed", revision=1)
    file = lakes.add_part(lake, partition, rows)
    lakes.add_run(lake, partition, number=1, scored=1, committed=[file], reason="changed")
    lakes.add_quarantine(lake, "churn", DAYS[0], lakes.run_id(DAYS[0], 1), lakes.input_rows([]), [])
    lakes.add_day(lake, DAYS[1], ["a", "b"], version="v2", number=2)
    lakes.add_run(lake, Partition("churn", DAYS[1], "v3"), number=3, state=State.failed)
    return lake


@pytest.fixture
def job(tmp_path: Path) -> Job:
    (tmp_path / "jobs" / "churn").mkdir(parents=True)
    text = f'[model]\nname = "m"\n[input]\npath = "{lakes.PATTERN}"\nkey = ["id"]\n'
    (tmp_path / "jobs" / "churn" / "job.toml").write_text(text)
    return read_job(tmp_path / "jobs" / "churn", Settings())


def client(path: Path, *texts: str) -> list[Any]:
    """Queries the file with a plain DuckDB client, from another folder."""
    command = [sys.executable, "-c", CLIENT, str(path), *texts]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: list[Any] = json.loads(done.stdout)
    return found


def ours(lake: Lake, job: Job, *texts: str) -> list[Any]:
    with connect() as con:
        views.create(con, lake)
        unscored.create(con, lake, job)
        found: list[Any] = json.loads(json.dumps([con.execute(text).fetchall() for text in texts], default=str))
        return found


def all_rows(name: str) -> str:
    return f"SELECT * FROM (SELECT COLUMNS(*)::VARCHAR FROM {name}) ORDER BY ALL"


EVERY_VIEW = [all_rows(name) for name in (*views.NAMES, "unscored")]


def test_client_sees_the_rows_that_we_see(lake: Lake, job: Job) -> None:
    path = write_catalog(lake, job)
    theirs = client(path, *EVERY_VIEW)
    assert theirs == ours(lake, job, *EVERY_VIEW)
    assert [len(rows) for rows in theirs] == [7, 13, 12, 9, 2, *[0] * 8, 6]


def test_client_sees_what_is_written_later(lake: Lake, job: Job) -> None:
    path = write_catalog(lake, job)
    lakes.add_day(lake, "2026-01-03", ["a", "b"], version="v4")
    lakes.add_quarantine(lake, "churn", DAYS[1], lakes.run_id(DAYS[1], 9), lakes.input_rows(["z"]), [["null:age"]])
    partition = Partition("churn", DAYS[1], "v2")
    rows = lakes.prediction_rows({"id": ["a"]}, run=lakes.run_id(DAYS[1], 4), ds=DAYS[1], reason="changed", revision=1)
    file = lakes.add_part(lake, partition, rows)
    lakes.add_run(lake, partition, number=4, scored=1, committed=[file], reason="changed")
    assert client(path, *EVERY_VIEW) == ours(lake, job, *EVERY_VIEW)


PATTERNS = [
    ("a/{year}/{month}/{day}.parquet", Grain.day, "Europe/Berlin"),
    ("a/{ds:%Y%m%d}/{year}/x_*.parquet", Grain.day, "UTC"),
    ("a/{ds:%j}/{ds:%y}/x.parquet", Grain.day, "UTC"),
    ("a/{ds:%a %-d.%-m.%Y}/x.parquet", Grain.day, "UTC"),
    ("a/{ds:%G-%V}.parquet", Grain.week, "UTC"),
    ("a/{ds:%Y-%W}.parquet", Grain.week, "UTC"),
    ("a/{ds:%Y-%U}.parquet", Grain.week, "UTC"),
    ("a/{ds:%b %Y}.parquet", Grain.month, "Asia/Tokyo"),
    ("a/{year}{month}{day}/{hour}.parquet", Grain.hour, "UTC"),
    ("a/{ds:%Y-%m-%dT%H%z}.parquet", Grain.hour, "Europe/Berlin"),
    ("a/{year}/{month}/*.parquet", Grain.day, "UTC"),
]


@pytest.mark.parametrize(("text", "grain", "zone"), PATTERNS)
def test_period_of_a_path_is_the_same_in_sql(text: str, grain: Grain, zone: str) -> None:
    of, first = pattern(text, grain, zone), Period.of_date(grain, date(2025, 10, 20))
    periods = list(first.through(first + 400))
    paths = [f"/lake/{of.files_of(period).replace('*', 'q')}" for period in periods] + ["/lake/a/other.parquet"]
    with connect() as con:
        rows = con.sql("SELECT unnest($paths) AS path", params={"paths": paths}).select(period_in(of, "path"))
        found = [ds for (ds,) in rows.fetchall()]
    shared = of.same_paths is not None
    assert found == [*(None if shared else period.ds for period in periods), None]
    assert found == [of.ds_of(path) for path in paths]


def test_catalog_shows_the_period_of_paths_in_any_layout(lake: Lake, job: Job, tmp_path: Path) -> None:
    toml = job.folder / "job.toml"
    toml.write_text(toml.read_text().replace(lakes.PATTERN, "raw/{year}/{month}/{day}.parquet"))
    lakes.write_parquet(lake.workspace.path("raw/2026/01/31.parquet"), lakes.input_rows(["a", "b"]))
    path = write_catalog(lake, read_job(job.folder, Settings()))
    lakes.write_parquet(lake.workspace.path("raw/2026/02/01.parquet"), lakes.input_rows(["c"]))
    counts = "SELECT ds, count(*) FROM unscored GROUP BY ds ORDER BY ds"
    assert client(path, counts) == [[["2026-01-31", 2], ["2026-02-01", 1]]]


@pytest.mark.parametrize("unit", ["us", "ns"])
def test_key_of_a_client_in_another_zone_is_the_same_text(tmp_path: Path, unit: str) -> None:
    lake = lakes.open_lake(tmp_path / "lake")
    instants = pa.array([datetime(2026, 1, 1, 23, 30, tzinfo=UTC), None], pa.timestamp(unit, "UTC"))
    lakes.add_day(lake, DAYS[0], instants, key="seen")
    path = write_catalog(lake)
    text = "SELECT key_text FROM predictions ORDER BY ALL"
    assert client(path, "SET TimeZone = 'Asia/Tokyo'", text)[1] == [["2026-01-01 23:30:00+00"], [None]]
    with connect() as con:
        views.create(con, lake)
        assert con.execute(text).fetchall() == [("2026-01-01 23:30:00+00",), (None,)]


@pytest.mark.parametrize("ds", ["2025-01-01", "2026-01-03"])
def test_client_reads_columns_by_name_when_a_later_file_has_more(lake: Lake, job: Job, ds: str) -> None:
    path = write_catalog(lake, job)
    lakes.add_day(lake, ds, ["a"], classes=4, carry={"shop": ["s"]})
    text = "SELECT job, ds, model_version, key_text, prediction, revision FROM predictions ORDER BY ALL"
    assert client(path, text) == ours(lake, job, text)


def test_client_filter_reads_the_files_of_the_day_only(lake: Lake) -> None:
    path = write_catalog(lake)
    text = f"EXPLAIN ANALYZE SELECT prediction_proba FROM predictions_history WHERE ds = '{DAYS[0]}' AND job = 'fraud'"
    (((_, plan),),) = client(path, text)
    assert "Total Files Read: 1" in plan


def test_catalog_of_an_empty_lake_answers(tmp_path: Path, job: Job) -> None:
    lake = Lake.open(str(tmp_path / "lake"))
    path = write_catalog(lake, job)
    counts = [f"SELECT count(*) FROM {name}" for name in (*views.NAMES, "unscored")]
    assert client(path, *counts) == [[[0]]] * (len(views.NAMES) + 1)


def test_catalog_first_predictions_show_in_a_new_one(tmp_path: Path) -> None:
    lake = lakes.open_lake(tmp_path / "lake")
    path = write_catalog(lake)
    lakes.add_day(lake, DAYS[0])
    assert client(path, "SELECT count(*) FROM predictions") == [[[0]]]
    assert write_catalog(lake) == path
    assert client(path, "SELECT count(*) FROM predictions") == [[[3]]]


def test_catalog_of_a_job_whose_key_changed_keeps_each_key(tmp_path: Path) -> None:
    lake = lakes.open_lake(tmp_path / "lake")
    lakes.add_day(lake, DAYS[0], ["a"], carry={"shop": ["s"]})
    partition = Partition("churn", DAYS[1], "v1")
    rows = lakes.prediction_rows({"id": ["a"], "shop": ["s"]}, run=lakes.run_id(DAYS[1]), ds=DAYS[1])
    lakes.add_run(lake, partition, key=("id", "shop"), scored=1, committed=[lakes.add_part(lake, partition, rows)])
    path = write_catalog(lake)
    assert client(path, "SELECT key_text FROM predictions ORDER BY ds") == [[["a"], ["a,s"]]]


def test_catalog_input_being_written_is_not_read(lake: Lake, job: Job) -> None:
    path = write_catalog(lake, job)
    for name in (".rows.parquet", "_rows.parquet"):
        lake.workspace.path(f"unscored/ds={DAYS[0]}/{name}").write_bytes(b"half of it")
    assert client(path, "SELECT count(*) FROM unscored") == [[[6]]]


def test_catalog_that_fails_leaves_the_one_before(lake: Lake) -> None:
    path = write_catalog(lake)
    before = path.read_bytes()
    lake.storage.write(f"runs/job=churn/ds={DAYS[0]}/{lakes.run_id(DAYS[0], 9)}.json", b"{")
    lakes.add_day(lake, "2026-01-03", ["a"], job="new")
    lake.workspace.path(Partition("new", "2026-01-03", "v1").part(0)).write_bytes(b"torn")
    with pytest.raises(LakeDamaged):
        write_catalog(lake)
    assert path.read_bytes() == before
    assert sorted(each.name for each in lake.workspace.root.iterdir() if "duckdb" in each.name) == ["lake.duckdb"]
