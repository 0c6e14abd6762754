"""Single stages, each in a process of its own: retried, cleared, overtaken, killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline import process, run, stages, staging
from pipeline.errors import (
    InputChanged,
    InputMissing,
    JobError,
    LedgerImbalance,
    QualityStop,
    StorageUnavailable,
    UsageError,
)
from pipeline.records import State
from tests.conftest import Lakescore
from tests.workspace import DAY, Workspace, table

PARENT = """
import subprocess, sys
child = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE)
print(child.pid, flush=True)
child.wait()
"""


def through(workspace: Workspace, *names: str, run_id: str | None = None) -> dict[str, object]:
    found: dict[str, object] = {"run_id": run_id}
    for name in names:
        before = found["run_id"]
        found = stages.run_stage(workspace.context(), name, DAY, None if before is None else str(before))
    return found


def test_stages_one_by_one_do_what_a_run_does(workspace: Workspace) -> None:
    workspace.day(50)
    found = through(workspace, stages.CHECK, *run.STAGES)
    (record,) = workspace.context().lake.records("toy", DAY)
    assert (found["state"], found["run_id"]) == ("complete", record.run_id)
    assert record.ledger is not None
    assert record.ledger.scored.rows == len(workspace.stored()) == 50
    assert workspace.run().up_to_date


def test_stage_repeated_does_nothing_again(workspace: Workspace) -> None:
    workspace.day(50)
    first = through(workspace, stages.CHECK, *run.STAGES)
    before = workspace.files()
    for name in run.STAGES:
        found = stages.run_stage(workspace.context(), name, DAY, str(first["run_id"]))
        assert first.items() <= found.items()
    after = workspace.files()
    assert after.keys() == before.keys()
    pages = {path for path in after if path.startswith("reports/")}  # they say when they were made
    assert {path for path in after if after[path] != before[path]} <= pages


def test_stage_drift_counts_what_has_moved_and_report_makes_pages(workspace: Workspace) -> None:
    for day in range(1, 13):
        workspace.day(400 + day, f"2026-01-{day:02d}")
        workspace.run(f"2026-01-{day:02d}")
    moved = table(400)
    ds, names = "2026-01-13", iter((stages.CHECK, *run.STAGES))
    workspace.day(moved.set_column(1, "a", pa.array(moved.column("a").to_numpy() + 9)), ds)
    ctx = workspace.context()
    found: dict[str, Any] = {}
    while found.get("state") != "complete":
        found = stages.run_stage(ctx, next(names), ds, found.get("run_id"))
    page = workspace.lake / "reports" / "job=toy" / f"ds={ds}" / f"{found['run_id']}.html"
    assert not page.exists()
    found = stages.run_stage(ctx, next(names), ds, found["run_id"])
    assert found["drift_critical"] > 0
    assert stages.run_stage(ctx, next(names), ds, found["run_id"])["state"] == "complete"
    assert page.exists()
    assert ds in (workspace.lake / "reports" / "index.html").read_text()


def test_stage_that_fails_leaves_a_page_and_an_index(workspace: Workspace) -> None:
    job = workspace.job() / "job.toml"
    job.write_text(job.read_text().replace("max_quarantined = 1.0", "max_quarantined = 0.0"))
    workspace.day({"id": ["x", "y"], "a": [None, 2.0], "b": [1.0, 1.0]})
    with pytest.raises(QualityStop):
        through(workspace, stages.CHECK, *run.STAGES)
    (record,) = workspace.context().lake.records("toy", DAY)
    assert (workspace.lake / "reports" / "job=toy" / f"ds={DAY}" / f"{record.run_id}.html").exists()
    assert record.run_id in (workspace.lake / "reports" / "index.html").read_text()


def test_check_of_an_unchanged_day_hands_on_its_last_run(workspace: Workspace) -> None:
    workspace.day(50)
    first = through(workspace, stages.CHECK, *run.STAGES)
    assert stages.run_stage(workspace.context(), stages.CHECK, DAY) == {**first, "up_to_date": True}


@pytest.mark.parametrize("last", stages.BEFORE_COMMIT)
def test_stage_after_the_input_changed_goes_on_in_a_new_run(workspace: Workspace, last: str) -> None:
    workspace.day(50)
    first = through(workspace, stages.CHECK, *run.STAGES[: run.STAGES.index(last) + 1])
    workspace.day(60)
    found = stages.run_stage(workspace.context(), "commit", DAY, str(first["run_id"]))
    assert found["run_id"] != first["run_id"]
    assert found["state"] == "complete"
    assert len(workspace.stored()) == 60


def test_plan_cleared_after_the_input_changed_plans_anew(workspace: Workspace) -> None:
    workspace.day(50)
    first = through(workspace, stages.CHECK, *run.STAGES)
    workspace.day(60)
    found = through(workspace, *run.STAGES, run_id=str(first["run_id"]))
    assert found["run_id"] != first["run_id"]
    assert len(workspace.stored("SELECT DISTINCT id FROM predictions")) == 60


def test_commit_after_a_transient_failure_resumes_the_same_run(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.day(50)
    first = through(workspace, stages.CHECK, "plan", "score")
    ctx = workspace.context()
    record = ctx.lake.read_record("toy", DAY, str(first["run_id"]))
    ctx.lake.write_record(record.with_(state=State.failed, error="no space left"))
    scored = {path: path.stat().st_ino for path in staging.files(ctx, record, "scored")}
    assert scored
    monkeypatch.setattr(run, "score", lambda *_: pytest.fail("scored again"))
    found = stages.run_stage(ctx, "commit", DAY, record.run_id)
    assert (found["run_id"], found["state"]) == (record.run_id, "complete")
    done = ctx.lake.read_record("toy", DAY, record.run_id)
    assert done.error is None


def test_commit_without_what_was_staged_scores_again(workspace: Workspace) -> None:
    workspace.day(50)
    first = through(workspace, stages.CHECK, "plan", "score")
    for path in (workspace.lake / ".staging").rglob("scored-*"):
        path.unlink()
    assert through(workspace, "commit", run_id=str(first["run_id"]))["state"] == "complete"
    assert len(workspace.stored()) == 50


def test_run_beside_one_that_waits_for_its_next_stage_is_harmless(workspace: Workspace) -> None:
    """The process that scored is gone, but its run is not: another run must leave its staging alone."""
    workspace.day(50)
    waiting = through(workspace, stages.CHECK, "plan", "score")
    workspace.day({"id": ["n"], "a": [1.0], "b": [1.0]}, file="more.parquet")
    workspace.run()
    staged = list((workspace.lake / ".staging").rglob(f"{waiting['run_id']}/scored-*"))
    assert staged
    assert through(workspace, "commit", run_id=str(waiting["run_id"]))["state"] == "complete"
    ids = [row["id"] for row in workspace.stored("SELECT id FROM predictions")]
    assert len(ids) == len(set(ids)) == 51


def test_check_missing_input_fails_or_is_skipped_as_the_job_says(workspace: Workspace) -> None:
    with pytest.raises(InputMissing):
        through(workspace, stages.CHECK)
    workspace.job(policy='missing_input = "skip"')
    assert through(workspace, stages.CHECK)["state"] == "skipped"


def test_late_rows_brings_earlier_days_up_to_date(workspace: Workspace) -> None:
    workspace.job(schedule="lookback_days = 2")
    workspace.day(10, "2025-12-30")
    workspace.day(10)
    found = stages.run_stage(workspace.context(), stages.LATE_ROWS, DAY)
    assert found == {"ds": DAY, "days": 1, "changed": ["2025-12-30"]}


def test_stage_unknown_name_is_refused(workspace: Workspace) -> None:
    with pytest.raises(UsageError, match="no stage is called 'scroe'"):
        through(workspace, "scroe")


def test_stage_command_prints_what_the_next_one_needs_and_errors_as_json(
    workspace: Workspace, lakescore: Lakescore
) -> None:
    workspace.day(5)
    found = json.loads(lakescore("stage", "check", "--date", DAY, "--job", "toy").stdout)
    done = lakescore("stage", "commit", "--date", DAY, "--run-id", found["run_id"], "--job", "toy")
    assert json.loads(done.stdout)["ledger"]["scored"] == 5
    failed = lakescore("stage", "check", "--date", "2026-01-02", "--job", "toy", expect=1)
    assert json.loads(failed.stdout)["error"] == "InputMissing"


@pytest.mark.parametrize(("name", "imports"), [("plan", []), ("validate_input", ["torch"])])
def test_stage_that_goes_on_imports_meanwhile_what_comes_next(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, name: str, imports: list[str]
) -> None:
    begun: list[str] = []
    monkeypatch.setattr(process, "import_meanwhile", begun.extend)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    workspace.day(5)
    stages.run_stage(workspace.context(), name, DAY)
    assert begun == imports


def test_transient_errors_have_an_exit_code_of_their_own() -> None:
    lasting = {error.exit_code for error in (InputMissing, JobError, QualityStop, LedgerImbalance)}
    assert {InputChanged.exit_code, StorageUnavailable.exit_code} == {75}
    assert 75 not in lasting


def test_stage_ends_well_while_the_process_that_started_it_lives(workspace: Workspace) -> None:
    workspace.day(5)
    command = [sys.executable, "-m", "pipeline", "stage", "check", "--date", DAY, "--end-with-stdin", "--job", "toy"]
    root = Path(__file__).parent.parent
    with subprocess.Popen(
        command,
        cwd=workspace.root,
        env={**os.environ, "PYTHONPATH": str(root)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.read())["state"] == "new"
        assert process.wait() == 0


def alive(pid: int) -> bool:
    """Tells whether a process runs; one that ended and that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_stage_ends_when_the_process_that_started_it_is_killed(workspace: Workspace) -> None:
    workspace.day(2_000_000)
    root = Path(__file__).parent.parent
    command = [sys.executable, "-m", "pipeline", "stage", "score", "--date", DAY, "--end-with-stdin", "--job", "toy"]
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            PARENT,
            *command,
        ],
        cwd=workspace.root,
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    assert parent.stderr is not None
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.stderr.read()  # until the child, which has it too, is gone
    parent.wait()
    parent.stdout.close()
    parent.stderr.close()
    until = time.monotonic() + 10
    while alive(child) and time.monotonic() < until:
        time.sleep(0.05)
    assert not alive(child)
    assert not list(workspace.lake.rglob("part-*"))
