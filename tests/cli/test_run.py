"""`lakescore plan`, `run` and `backfill`: output for people, JSON, and exit codes."""

from __future__ import annotations

import json
import re
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.errors import InputMissing, UsageError
from pipeline.records import State
from tests.calling import Cli
from tests.cli.ledger import numbers
from tests.conftest import Lakescore
from tests.workspace import DAY, Workspace, changed, table

TOY = ("--job", "toy", "--date", DAY)
DAYS = ("2026-01-01", "2026-01-02", "2026-01-03")


def imports_torch(done: subprocess.CompletedProcess[str]) -> bool:
    """Tells whether torch was imported, from the output of PYTHONPROFILEIMPORTTIME=1."""
    assert re.search(r"\| +pipeline\.cli\.app\n", done.stderr)
    return bool(re.search(r"\| +torch\b", done.stderr))


@pytest.mark.slow
def test_run_imports_no_pandas_and_leaves_nothing_behind(
    lakescore: Lakescore, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    workspace.day(table(100))
    done = lakescore("run", *TOY, "--json")
    assert imports_torch(done)
    assert not re.search(r"\| +pandas\.", done.stderr), "a submodule: a failed lookup of pandas itself is logged, too"
    assert [outcome["state"] for outcome in json.loads(done.stdout)] == ["complete"]
    assert not list(tmp_path.glob("lakescore-*")), "cleanup at exit was skipped"


@pytest.mark.slow
def test_run_does_what_plan_says_and_then_nothing(
    lakescore: Lakescore, cli: Cli, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a day with stored, changed, new, invalid and duplicate rows."""
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    rows = table(3000)
    workspace.day(rows)
    workspace.run()
    new = table({"id": ["n1", "n2", None], "a": [0.1, 0.2, 0.3], "b": [0.3, 0.4, 0.5]})
    workspace.day(pa.concat_tables([changed(rows, "a", {0: 5.0, 1: 5.0, 2: None}), rows.slice(100, 7), new]))
    counts = {"scored": 4, "unchanged": 2997, "quarantined": 2, "duplicates": 7}
    before = workspace.files()
    done = lakescore("plan", *TOY, "--json")
    planned = json.loads(done.stdout)
    assert not imports_torch(done)
    assert workspace.files() == before
    assert planned["dispositions"] == counts
    assert planned["reasons"] == {"new": 2, "changed": 2, "model": 0, "carried": 0, "returned": 0}
    assert (planned["ds"], planned["up_to_date"], planned["candidates"]) == (DAY, False, 3010)
    assert planned["model"]["version"] == "v1"
    assert planned["estimated_s"] == pytest.approx(4 / planned["rows_per_s"])

    (ran,) = json.loads(cli("run", *TOY, "--json").stdout)
    assert ran["state"] == "complete"
    assert ran["ledger"] == {"candidates": 3010, **counts, "overtaken": 0}
    assert ran["statistics"]["reasons"] == {"changed": 2, "new": 2}
    assert [stage["stage"] for stage in ran["stages"]] == [
        *("plan", "validate_input", "load", "score", "validate_output", "profile", "commit", "drift")
    ]
    assert ran["error"] is None
    assert workspace.context().lake.records.read("toy", DAY, ran["run_id"]).state is State.complete

    after = workspace.files()
    done = lakescore("run", *TOY)
    assert done.stdout == f"{DAY}: up to date, 3,010 rows (run {ran['run_id']}); no data was read\n"
    assert not imports_torch(done)
    done = cli("plan", *TOY)
    assert "up to date: a run would not read any data" in done.stdout
    nothing = {"candidates": 3010, "to score": 0, "unchanged": 3001, "quarantined": 2, "duplicates": 7}
    assert numbers(done.stdout) == nothing
    assert workspace.files() == after


@pytest.mark.slow
def test_run_for_people_shows_the_ledger_and_what_was_predicted(cli: Cli, workspace: Workspace, tmp_path: Path) -> None:
    """The job and the lake are given by their folders."""
    workspace.day(changed(table(1200), "a", {0: None}))
    (tmp_path / "lake").rename(tmp_path / "elsewhere")
    done = cli("run", "--job", "dags/jobs/toy", "--lake", "elsewhere", "--date", DAY)
    assert re.match(rf"toy {DAY}, model toy v1, run \S+\n", done.stdout)
    assert numbers(done.stdout) == {"candidates": 1200, "scored": 1199, "unchanged": 0, "quarantined": 1}
    assert "1,199 new" in done.stdout
    assert re.search(r"\npredictions 0: [\d.]+%, 1: [\d.]+%; mean confidence 0\.\d{3}\n", done.stdout)
    assert re.search(r"\ntook [\d.]+ s, scoring [\d.]+ s at [\d,]+ rows/s; peak memory [\d.]+ [MG]B\n", done.stdout)
    assert re.search(rf"\npage: \S+/elsewhere/reports/job=toy/ds={DAY}/\S+\.html\n$", done.stdout)
    assert not (tmp_path / "lake").exists()


def test_run_without_date_processes_yesterday(cli: Cli, workspace: Workspace) -> None:
    workspace.job(schedule='timezone = "Pacific/Kiritimati"')  # the earliest time zone, 14 hours ahead of UTC
    before = datetime.now(UTC)
    done = cli("run", "--job", "toy", expect=InputMissing)
    days = {(at + timedelta(hours=14) - timedelta(days=1)).date().isoformat() for at in (before, datetime.now(UTC))}
    assert any(f"there is no input for {day}" in done.stderr for day in days)


def test_run_without_input_is_skipped_if_the_job_allows_it(cli: Cli, workspace: Workspace) -> None:
    workspace.job(policy='missing_input = "skip"')
    assert cli("run", *TOY).stdout == f"{DAY}: skipped, there is no input for {DAY}\n"
    (found,) = json.loads(cli("run", *TOY, "--json").stdout)
    assert (found["state"], found["run_id"], found["ledger"]) == ("skipped", None, None)
    files = {name for name in workspace.files() if not name.startswith(".staging/")}
    assert files <= {"lakescore.json", f"skipped/job=toy/ds={DAY}.json", "reports/index.html"}


@pytest.mark.slow
def test_backfill_continues_after_a_failed_day_and_the_next_one_runs_only_that_day(
    cli: Cli, workspace: Workspace
) -> None:
    for ds in DAYS:
        workspace.day(1000, ds)
    damaged = workspace.lake / "unscored" / f"ds={DAYS[1]}" / "data.parquet"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-50])
    backfill = ("backfill", "--job", "toy", "--from", "2025-12-30", "--to", DAYS[2])
    done = cli(*backfill, "--json", expect=75)  # the only failure may go away by itself
    first: list[dict[str, Any]] = json.loads(done.stdout)
    assert [(day["ds"], day["state"]) for day in first] == list(
        zip(DAYS, ["complete", "failed", "complete"], strict=True)
    )
    assert first[1]["error"]["error"] == "IncompleteFile"
    assert f"{DAYS[1]} failed: a file ends too early" in done.stderr
    assert "Traceback" not in done.stderr

    damaged.write_bytes(whole)
    done = cli(*backfill)
    lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines[:3]] == [
        [DAYS[0], "up"],
        [DAYS[1], "complete"],
        [DAYS[2], "up"],
    ]
    assert lines[3:] == [
        "3 days: 2 up to date, 1 complete, 2 without input; 1,000 rows scored",
        f"report: {workspace.lake}/reports/index.html",
    ]
    lake = workspace.context().lake
    assert [len(lake.records.of_day("toy", ds)) for ds in DAYS] == [1, 1, 1]
    assert len(workspace.stored()) == 3000


def test_backfill_for_people_names_the_failed_days_at_the_end(cli: Cli, workspace: Workspace) -> None:
    workspace.day(10).write_bytes(b"no Parquet")
    done = cli("backfill", "--job", "toy", "--from", DAYS[0], "--to", DAYS[0], expect=1)
    assert re.fullmatch(rf"{DAY}  failed +a file cannot be read\n1 day: 1 failed; 0 rows scored\n", done.stdout)
    assert re.search(rf"{DAY} failed: a file cannot be read\n +where .*data\.parquet", done.stderr)
    assert re.search(
        rf"error: 1 of 1 day failed\n +got +{DAY}\n +next .*to resume: lakescore backfill --failed --job toy",
        done.stderr,
    )


@pytest.mark.slow
def test_backfill_of_failed_or_stale_days_runs_those_alone(cli: Cli, workspace: Workspace) -> None:
    workspace.job(policy="", features='features = ["a", "b"]')
    text = (workspace.settings.jobs / "toy" / "job.toml").read_text().replace("max_quarantined = 1.0", "")
    (workspace.settings.jobs / "toy" / "job.toml").unlink()
    (workspace.settings.jobs / "toy" / "job.toml").write_text(text)
    for ds in DAYS:
        workspace.day(20, ds)
    workspace.day(changed(table(20), "a", dict.fromkeys(range(20))), DAYS[1])  # each row lacks a feature
    cli("backfill", "--job", "toy", expect=UsageError)
    done = cli("backfill", "--job", "toy", "--from", DAYS[0], "--to", DAYS[1], expect=3)
    assert f"{DAYS[1]}  stopped     20 of 20 rows of {DAYS[1]} would be quarantined" in done.stdout
    assert "error: 1 of 2 days stopped" in done.stderr
    (found,) = json.loads(cli("backfill", "--job", "toy", "--failed", "--json", expect=3).stdout)
    assert (found["ds"], found["state"]) == (DAYS[1], "stopped")
    assert "nothing to do" in cli("backfill", "--job", "toy", "--stale").stdout
    workspace.day(30, DAYS[0])
    stale = cli("backfill", "--job", "toy", "--stale").stdout.splitlines()
    assert stale[0] == f"{DAYS[0]}  complete    30 rows: 30 scored"
    assert stale[1] == "1 day: 1 complete; 30 rows scored"


def test_run_that_is_dry_shows_the_plan_and_writes_nothing(cli: Cli, workspace: Workspace) -> None:
    workspace.day(10)
    before = workspace.files()
    assert cli("run", *TOY, "--dry-run").stdout == cli("plan", *TOY).stdout
    assert json.loads(cli("run", *TOY, "--dry-run", "--json").stdout)["candidates"] == 10
    assert workspace.files() == before


def test_backfill_says_for_people_what_was_not_handed_on_and_why(cli: Cli, workspace: Workspace) -> None:
    workspace.job(schedule='[[publish]]\nname = "serving"\nkind = "redis"\n')
    workspace.day(10)
    backfill = ("backfill", "--job", "toy", "--from", DAYS[0], "--to", DAYS[0])
    for state in ("1 complete; 10 rows scored", "1 up to date; 0 rows scored"):
        done = cli(*backfill, expect=1)
        assert f"1 day: {state}\n" in done.stdout
        assert f"\n{DAY}: serving: failed, the environment variable LAKESCORE_REDIS_URL" in done.stdout
        said = rf"error: 1 of 1 day is scored, but not handed on\n +got +{DAY}\n +next .*scores nothing anew"
        assert re.search(said, done.stderr)
    (outcome,) = json.loads(cli(*backfill, "--json", expect=1).stdout)
    assert outcome["state"] == "up to date"


def test_backfill_through_airflow_of_a_job_without_cron_is_refused(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "dags" / "jobs" / "toy"
    folder.mkdir(parents=True)
    (folder / "job.toml").write_text(
        '[model]\nname = "toy"\n[input]\npath = "unscored/ds={ds}/*"\nkey = ["id"]\n[schedule]\ncron = ""\n'
    )
    done = cli("backfill", "--airflow", "--job", "toy", "--from", "2026-01-01", "--to", "2026-01-02", expect=UsageError)
    assert "has no cron schedule" in done.stderr
