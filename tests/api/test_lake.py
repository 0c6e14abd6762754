"""A lake from Python: what the methods return, beside the command line and the files."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from pipeline import Lake, QueryRefused, Settings, UsageError
from pipeline.errors import JobError, LakeDamaged
from pipeline.lake import layout
from tests.calling import Cli
from tests.docs import documented
from tests.workspace import DAY, Workspace

LAST, BEFORE = documented.DAYS[9], documented.DAYS[8]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lake_reader") / "lake"
    documented.example_lake(folder)
    return folder


@pytest.fixture
def lake(root: Path) -> Lake:
    return Lake.open(root, job="churn")


def test_predictions_of_a_period_are_the_current_ones(lake: Lake) -> None:
    found = lake.predictions(LAST)
    assert found.num_rows == 40
    assert set(found.column("ds").to_pylist()) == {LAST}
    (revised,) = lake.predictions(LAST, where="id = 'user_0007'", columns=["id", "revision"]).to_pylist()
    assert revised == {"id": "user_0007", "revision": 1}
    every = lake.predictions(LAST, where="id = 'user_0007'", view="predictions_history", columns=["revision"])
    assert sorted(every.column("revision").to_pylist()) == [0, 1]


def test_periods_are_text_or_dates_and_ranges_include_both_ends(lake: Lake) -> None:
    assert lake.predictions(date(2026, 1, 10)).num_rows == 40
    assert lake.predictions(first=BEFORE).num_rows == 80
    assert lake.predictions(first=date.fromisoformat(BEFORE), last=BEFORE).num_rows == 40
    assert lake.predictions().num_rows == 440
    assert lake.predictions("2027-01-01").num_rows == 0


def test_tables_become_frames_of_pandas_and_polars(lake: Lake) -> None:
    found = lake.predictions(LAST, columns=["prediction", "id"])
    assert list(found.to_pandas().columns) == ["prediction", "id"]
    frame = pl.from_arrow(found)
    assert isinstance(frame, pl.DataFrame)
    assert frame.height == 40


def test_runs_and_queries_are_those_of_the_command_line(lake: Lake, root: Path, cli: Cli) -> None:
    runs = lake.runs(first=BEFORE, columns=["run_id", "ds"]).to_pylist()
    assert [run["ds"] for run in runs] == [LAST, LAST, BEFORE]
    assert lake.runs(where="scored = 1").num_rows == 1
    given = {"from": BEFORE}
    shown = cli("query", "daily_summary", "--param", f"from={BEFORE}", "-p", "job=churn", "--json", "--lake", root)
    assert lake.query("daily_summary", given).to_pylist() == json.loads(shown.stdout)
    assert lake.query("daily_summary", {"from": date.fromisoformat(BEFORE), "to": None}).num_rows == 2
    assert lake.query("daily_summary", given, job="none").num_rows == 0
    assert set(lake.queries()) >= {"daily_summary", "top_scores"}
    assert lake.jobs() == ["churn"]
    with lake.stream("SELECT key_text FROM predictions") as reader:
        assert isinstance(reader, pa.RecordBatchReader)
        assert sum(batch.num_rows for batch in reader) == 440


@pytest.mark.parametrize(
    ("call", "error", "what"),
    [
        (lambda lake: lake.predictions(LAST, columns=["predicton"]), UsageError, "no column 'predicton'.*prediction"),
        (lambda lake: lake.predictions(LAST, columns="id"), UsageError, "list of names"),
        (lambda lake: lake.predictions(LAST, job="chrun"), UsageError, "no runs of a job 'chrun'.*churn"),
        (lambda lake: lake.predictions(LAST, first=LAST), UsageError, "cannot be combined"),
        (lambda lake: lake.predictions("yesterday"), UsageError, "yesterday"),
        (lambda lake: lake.predictions(datetime(2026, 1, 1, tzinfo=UTC)), UsageError, "a time is no period"),
        (lambda lake: lake.predictions(LAST, view="quarantine"), UsageError, "no view of predictions"),
        (lambda lake: lake.predictions(where="true) OR (true"), QueryRefused, "not one condition"),
        (lambda lake: lake.predictions(where="EXISTS (FROM read_csv('/etc/passwd'))"), QueryRefused, "read_csv"),
        (lambda lake: lake.predictions(where="no_column = 1"), QueryRefused, "no_column"),
        (lambda lake: lake.query("daily_sumary"), UsageError, "daily_summary"),
        (lambda lake: lake.query("top_scores"), UsageError, "needs ds"),
        (lambda lake: lake.query("DROP VIEW predictions"), QueryRefused, "SELECT"),
        (lambda lake: lake.query("SELECT error('odd') FROM predictions"), QueryRefused, "odd"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_an_error_of_the_product(lake: Lake, call: Any, error: Any, what: str) -> None:
    with pytest.raises(error, match=what):
        call(lake)


def test_error_while_rows_are_streamed_is_that_of_a_query(lake: Lake) -> None:
    text = "SELECT CASE WHEN n = 30000 THEN error('odd') ELSE n END FROM range(40000) AS t(n)"
    with pytest.raises(QueryRefused, match="cannot run"), lake.stream(text) as reader:
        reader.read_all()


def test_lake_that_is_not_there_is_an_error_once_it_is_read(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path / "nothing")
    for call in (lake.jobs, lake.predictions, lake.runs, lambda: lake.query("SELECT 1"), lambda: lake.explain("a")):
        with pytest.raises(UsageError, match="no lake here"):
            call()
    (tmp_path / "lakescore.json").write_text('{"format": 99}')
    with pytest.raises(LakeDamaged):
        Lake.open(tmp_path)


def test_lake_is_still_that_of_the_stages(root: Path) -> None:
    lake = Lake.open(str(root))
    assert isinstance(lake, layout.Lake)
    assert lake.records.last_complete("churn", LAST) is not None


def test_explanation_is_a_table_with_what_each_feature_adds(workspace: Workspace) -> None:
    workspace.day(20)
    workspace.complete()
    lake = Lake.open(settings=workspace.settings, job="toy")
    (row,) = lake.explain("u3", DAY, replay=True).to_arrow().to_pylist()
    assert (row["ds"], row["model"], row["current"], row["input_same"]) == (DAY, "toy", True, True)
    assert row["difference"] < 1e-5
    assert {each["feature"] for each in row["attribution"]} == {"a", "b"}
    (answer,) = lake.explain("u3").predictions
    assert answer.attribution is None
    with pytest.raises(UsageError):
        lake.explain("nobody")
    with pytest.raises(JobError):
        lake.explain("u3", job="other")


def test_input_of_the_job_can_be_queried(workspace: Workspace) -> None:
    workspace.day(20)
    lake = Lake.open(settings=workspace.settings, job="toy")
    assert lake.query("SELECT count(*) AS rows FROM unscored").to_pylist() == [{"rows": 20}]


def test_settings_of_the_environment_say_where_the_lake_is(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKESCORE_LAKE", str(root))
    lake = Lake.open()
    assert lake.jobs() == ["churn"]
    assert lake.settings == Settings.from_environment()
