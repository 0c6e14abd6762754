"""`lakescore plan`, `run` and `backfill`: what people and programs see, and the exit codes."""

from __future__ import annotations

import importlib
import json
import os
import pty
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import typer
from typer.core import TyperGroup
from typer.main import get_command

from pipeline.cli.app import COMMANDS, command_line
from pipeline.records import State
from tests.conftest import ROOT, Lakescore
from tests.workspace import DAY, Workspace, changed, table

TOY = ("--job", "toy", "--date", DAY)
DAYS = ("2026-01-01", "2026-01-02", "2026-01-03")


def numbers(text: str) -> dict[str, int]:
    """Returns the rows of the printed ledger."""
    names = "candidates|to score|scored|unchanged|quarantined|duplicates|overtaken"
    found = re.findall(rf"^ *({names}) +([\d,]+)\b", text, re.MULTILINE)
    return {name: int(number.replace(",", "")) for name, number in found}


def imports_torch(done: subprocess.CompletedProcess[str]) -> bool:
    """Tells by what PYTHONPROFILEIMPORTTIME=1 has written."""
    assert re.search(r"\| +pipeline\.run\n", done.stderr)
    return bool(re.search(r"\| +torch\b", done.stderr))


def known(command: str) -> set[str]:
    """Returns the names of all commands where one is meant."""
    group = get_command(command_line(command))
    assert isinstance(group, TyperGroup)
    return set(group.commands)


def test_each_command_stands_beside_the_module_that_adds_it() -> None:
    for module, commands in COMMANDS.items():
        app = typer.Typer()
        importlib.import_module(f"pipeline.cli.{module}").add_to(app)
        added = [str(each.name or each.callback.__name__) for each in app.registered_commands if each.callback]
        assert {*added, *(str(each.name) for each in app.registered_groups)} == set(commands)
        assert all(known(name) == set(commands) for name in commands)
    assert known("no such command") == {name for commands in COMMANDS.values() for name in commands}


def test_run_imports_no_pandas_and_leaves_nothing_behind(
    lakescore: Lakescore, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    workspace.day(table(100))
    done = lakescore("run", *TOY, "--json")
    assert imports_torch(done)
    assert not re.search(r"\| +pandas\.", done.stderr), "of pandas itself, the look for it is told, too"
    assert [outcome["state"] for outcome in json.loads(done.stdout)] == ["complete"]
    assert not list(tmp_path.glob("lakescore-*")), "what is to be done at the end of a process was not done"


@pytest.mark.parametrize(("date", "works"), [(DAY, True), ("2025-01-01", False)])
def test_command_into_a_closed_pipe_ends_with_what_was_done(workspace: Workspace, date: str, *, works: bool) -> None:
    """Of a reader such as `head`, which has read enough."""
    workspace.day(table(100))
    reader, writer = os.pipe()
    os.close(reader)
    arguments = ["run", "--job", "toy", "--date", date, "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments],
        cwd=workspace.root,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=240,
        check=False,
    )
    os.close(writer)
    assert "Traceback" not in done.stderr
    assert (done.returncode in {1, 120}, workspace.run().up_to_date) == (True, works)


def test_run_does_what_plan_says_and_then_nothing(
    lakescore: Lakescore, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over a day of which some rows are stored, changed, bad, or there twice."""
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
    assert planned["reasons"] == {"new": 2, "changed": 2, "model": 0}
    assert (planned["ds"], planned["up_to_date"], planned["candidates"]) == (DAY, False, 3010)
    assert planned["model"]["version"] == "v1"
    assert planned["estimated_s"] == pytest.approx(4 / planned["rows_per_s"])

    (ran,) = json.loads(lakescore("run", *TOY, "--json").stdout)
    assert ran["state"] == "complete"
    assert ran["ledger"] == {"candidates": 3010, **counts, "overtaken": 0}
    assert ran["statistics"]["reasons"] == {"changed": 2, "new": 2}
    assert [stage["stage"] for stage in ran["stages"]] == [
        *("plan", "validate_input", "load", "score", "validate_output", "profile", "commit", "drift")
    ]
    assert ran["error"] is None
    assert workspace.context().lake.read_record("toy", DAY, ran["run_id"]).state is State.complete

    after = workspace.files()
    done = lakescore("run", *TOY)
    assert done.stdout == f"{DAY}: up to date, 3,010 rows (run {ran['run_id']}); no data was read\n"
    assert not imports_torch(done)
    done = lakescore("plan", *TOY)
    assert "up to date: a run would not read any data" in done.stdout
    nothing = {"candidates": 3010, "to score": 0, "unchanged": 3001, "quarantined": 2, "duplicates": 7}
    assert numbers(done.stdout) == nothing
    assert workspace.files() == after


def test_run_for_people_shows_the_ledger_and_what_was_predicted(
    lakescore: Lakescore, workspace: Workspace, tmp_path: Path
) -> None:
    """Also with the job and the lake given by their folders."""
    workspace.day(changed(table(1200), "a", {0: None}))
    (tmp_path / "lake").rename(tmp_path / "elsewhere")
    done = lakescore("run", "--job", "dags/jobs/toy", "--lake", "elsewhere", "--date", DAY)
    assert re.match(rf"toy {DAY}, model toy v1, run \S+\n", done.stdout)
    assert numbers(done.stdout) == {"candidates": 1200, "scored": 1199, "unchanged": 0, "quarantined": 1}
    assert "1,199 new" in done.stdout
    assert re.search(r"\npredictions 0: [\d.]+%, 1: [\d.]+%; mean confidence 0\.\d{3}\n", done.stdout)
    assert re.search(r"\nplan .* s .*, score .* rows/s\), commit .*; peak memory \d+ MB\n", done.stdout)
    assert not (tmp_path / "lake").exists()


@pytest.mark.slow
def test_run_on_a_terminal_shows_progress_and_takes_it_away(workspace: Workspace) -> None:
    workspace.day(table(1_000_000))  # several batches: before the first there is nothing to share
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "COLUMNS": "200"}
    command = [sys.executable, "-m", "pipeline", "run", *TOY]
    with subprocess.Popen(
        command, cwd=workspace.root, env=environment, stdout=subprocess.PIPE, stderr=theirs
    ) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                shown += os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
        assert process.wait() == 0
    os.close(ours)
    assert b"score" in shown
    assert re.search(rb"rows/s, [\d.]+ [kM]?B read, [\d.]+ [kM]?B written", shown)
    assert re.search(rb"judge \d+%, forward \d+%", shown)


def test_run_without_date_is_about_yesterday(lakescore: Lakescore, workspace: Workspace) -> None:
    workspace.job(schedule='timezone = "Pacific/Kiritimati"')  # the first to begin a day, 14 hours before UTC
    before = datetime.now(UTC)
    done = lakescore("run", "--job", "toy", expect=1)
    days = {(at + timedelta(hours=14) - timedelta(days=1)).date().isoformat() for at in (before, datetime.now(UTC))}
    assert any(f"there is no input for {day}" in done.stderr for day in days)


def test_run_without_input_is_skipped_where_the_job_says_so(lakescore: Lakescore, workspace: Workspace) -> None:
    workspace.job(policy='missing_input = "skip"')
    assert lakescore("run", *TOY).stdout == f"{DAY}: no input, skipped\n"
    (found,) = json.loads(lakescore("run", *TOY, "--json").stdout)
    assert (found["state"], found["run_id"], found["ledger"]) == ("skipped", None, None)
    assert workspace.files() == {}


def test_backfill_goes_on_past_a_failed_day_and_the_next_one_runs_that_alone(
    lakescore: Lakescore, workspace: Workspace
) -> None:
    for ds in DAYS:
        workspace.day(1000, ds)
    damaged = workspace.lake / "unscored" / f"ds={DAYS[1]}" / "data.parquet"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-50])
    backfill = ("backfill", "--job", "toy", "--from", "2025-12-30", "--to", DAYS[2])
    done = lakescore(*backfill, "--json", expect=1)
    first: list[dict[str, Any]] = json.loads(done.stdout)
    assert [(day["ds"], day["state"]) for day in first] == list(
        zip(DAYS, ["complete", "failed", "complete"], strict=True)
    )
    assert first[1]["error"]["error"] == "UnreadableFile"
    assert f"{DAYS[1]} failed: a file cannot be read" in done.stderr
    assert "Traceback" not in done.stderr

    damaged.write_bytes(whole)
    done = lakescore(*backfill)
    lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines[:3]] == [
        [DAYS[0], "up"],
        [DAYS[1], "complete"],
        [DAYS[2], "up"],
    ]
    assert lines[3] == "3 days: 2 up to date, 1 complete, 2 without input; 1,000 rows scored"
    lake = workspace.context().lake
    assert [len(lake.records("toy", ds)) for ds in DAYS] == [1, 1, 1]
    assert len(workspace.stored()) == 3000


def test_backfill_for_people_names_the_failed_days_at_the_end(lakescore: Lakescore, workspace: Workspace) -> None:
    workspace.day(10).write_bytes(b"no Parquet")
    done = lakescore("backfill", "--job", "toy", "--from", DAYS[0], "--to", DAYS[0], expect=1)
    assert re.fullmatch(rf"{DAY}  failed +\n1 days: 1 failed; 0 rows scored\n", done.stdout)
    assert re.search(rf"{DAY} failed: a file cannot be read\n +where .*data\.parquet", done.stderr)
    assert re.search(rf"error: 1 of 1 days failed\n +got +{DAY}\n +next .*resumes", done.stderr)
