"""Single stages, called one after another: repeated, cleared, overtaken."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from pipeline import startup
from pipeline.errors import (
    InputChanged,
    InputMissing,
    JobError,
    LedgerImbalance,
    QualityStop,
    StorageUnavailable,
    UsageError,
)
from pipeline.flow import single_stage
from pipeline.records import State
from pipeline.scoring import stage as scoring
from pipeline.staging.folders import staged_files
from pipeline.storage import LocalStorage
from tests import lakes
from tests.stages import STAGES
from tests.workspace import DAY, Workspace, table


def through(workspace: Workspace, *names: str, run_id: str | None = None) -> dict[str, object]:
    found: dict[str, object] = {"run_id": run_id}
    for name in names:
        before = found["run_id"]
        found = single_stage.run_task(workspace.context(), name, DAY, None if before is None else str(before))
    return found


def test_stages_one_by_one_do_what_a_run_does(workspace: Workspace) -> None:
    workspace.day(50)
    found = through(workspace, "check", *STAGES)
    (record,) = workspace.context().lake.records.of_day("toy", DAY)
    assert (found["state"], found["run_id"]) == ("complete", record.run_id)
    assert record.ledger is not None
    assert record.ledger.scored.rows == len(workspace.stored()) == 50
    assert workspace.run().up_to_date


@pytest.mark.slow
def test_stage_repeated_does_nothing_again(workspace: Workspace) -> None:
    workspace.day(50)
    first = through(workspace, "check", *STAGES)
    before = workspace.files()
    for name in STAGES:
        found = single_stage.run_task(workspace.context(), name, DAY, str(first["run_id"]))
        assert first.items() <= found.items()
    after = workspace.files()
    assert after.keys() == before.keys()
    pages = {path for path in after if path.startswith(("reports/", "quality/docs/"))}  # they say when they were made
    assert {path for path in after if after[path] != before[path]} <= pages


@pytest.mark.slow
def test_stage_drift_counts_what_has_moved_and_report_makes_pages(workspace: Workspace) -> None:
    for day in range(1, 13):
        workspace.day(400 + day, f"2026-01-{day:02d}")
        workspace.run(f"2026-01-{day:02d}")
    moved = table(400)
    ds, names = "2026-01-13", iter(("check", *STAGES))
    workspace.day(moved.set_column(1, "a", pa.array(moved.column("a").to_numpy() + 9)), ds)
    ctx = workspace.context()
    found: dict[str, Any] = {}
    while found.get("state") != "complete":
        found = single_stage.run_task(ctx, next(names), ds, found.get("run_id"))
    page = workspace.lake / "reports" / "job=toy" / f"ds={ds}" / f"{found['run_id']}.html"
    assert not page.exists()
    found = single_stage.run_task(ctx, next(names), ds, found["run_id"])
    assert found["drift_critical"] > 0
    assert single_stage.run_task(ctx, next(names), ds, found["run_id"])["state"] == "complete"
    assert page.exists()
    assert ds in (workspace.lake / "reports" / "index.html").read_text()


def test_stage_that_fails_leaves_a_page_and_an_index(workspace: Workspace) -> None:
    job = workspace.job() / "job.toml"
    job.write_text(job.read_text().replace("max_quarantined = 1.0", "max_quarantined = 0.0"))
    workspace.day({"id": ["x", "y"], "a": [None, 2.0], "b": [1.0, 1.0]})
    with pytest.raises(QualityStop):
        through(workspace, "check", *STAGES)
    (record,) = workspace.context().lake.records.of_day("toy", DAY)
    assert (workspace.lake / "reports" / "job=toy" / f"ds={DAY}" / f"{record.run_id}.html").exists()
    assert record.run_id in (workspace.lake / "reports" / "index.html").read_text()


@pytest.mark.slow
def test_check_of_an_unchanged_day_hands_on_its_last_run(workspace: Workspace) -> None:
    workspace.day(50)
    first = through(workspace, "check", *STAGES)
    assert single_stage.run_task(workspace.context(), "check", DAY) == {**first, "up_to_date": True}


def test_commit_whose_input_changes_at_the_last_moment_goes_over_to_a_new_run(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No later task would plan again, so the commit itself does, as when another run was faster."""
    workspace.day(20)
    first = through(workspace, "check", "plan", "score")
    real, once = LocalStorage.create, iter([True])

    def create_while_a_file_arrives(*arguments: Any) -> Any:
        made = real(*arguments)
        if next(once, False):
            workspace.day(table({"id": ["late"], "a": [1.0], "b": [1.0]}), file="late.parquet")
        return made

    monkeypatch.setattr(LocalStorage, "create", create_while_a_file_arrives)
    found = single_stage.run_task(workspace.context(), "commit", DAY, str(first["run_id"]))
    assert found["run_id"] > first["run_id"]
    assert found["state"] == "complete"
    assert len(workspace.stored()) == 21
    states = [record.state for record in workspace.context().lake.records.of_day("toy", DAY)]
    assert states == [State.complete, State.superseded]


def test_check_after_a_run_of_a_machine_with_a_fast_clock_leaves_no_repaired_row_in_quarantine(
    workspace: Workspace,
) -> None:
    workspace.day({"id": ["x", "y"], "a": [None, 2.0], "b": [1.0, 1.0]})
    ahead = "20991231T235959999Z-00000000"
    assert through(workspace, "commit", run_id=ahead)["run_id"] == ahead
    assert len(workspace.ask("SELECT * FROM quarantine")) == 1
    workspace.day({"id": ["x", "y"], "a": [1.0, 2.0], "b": [1.0, 1.0]})
    assert str(through(workspace, "check", "commit")["run_id"]) > ahead
    assert workspace.ask("SELECT * FROM quarantine") == []


def killed_before_its_mark(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Commits a day in a process that ends after it has stored the record, and before it marks the partition."""
    found = through(workspace, "check", *STAGES[: STAGES.index("commit")])
    real = LocalStorage.write

    def write_or_die(storage: LocalStorage, key: str, content: bytes) -> None:
        if key.endswith("_SUCCESS"):
            raise KeyboardInterrupt
        real(storage, key, content)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "write", write_or_die)
        with pytest.raises(KeyboardInterrupt):
            through(workspace, "commit", run_id=str(found["run_id"]))
    assert not list(workspace.lake.rglob("_SUCCESS"))
    return found


@pytest.mark.parametrize("name", ["commit", "drift", "report"])
def test_stage_after_a_commit_that_was_killed_before_its_mark_ends_it(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    workspace.day(20)
    found = killed_before_its_mark(workspace, monkeypatch)
    assert through(workspace, name, run_id=str(found["run_id"]))["state"] == "complete"
    assert list(workspace.lake.rglob("_SUCCESS"))
    assert not list((workspace.lake / ".staging").rglob("*.parquet"))
    assert workspace.run().up_to_date


def test_commit_that_was_killed_before_its_mark_looks_at_the_input_again(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.day(20)
    found = killed_before_its_mark(workspace, monkeypatch)
    workspace.day(table({"id": ["late"], "a": [1.0], "b": [1.0]}), file="late.parquet")
    again = through(workspace, "commit", run_id=str(found["run_id"]))
    assert again["state"] == "complete"
    assert str(again["run_id"]) > str(found["run_id"])
    assert len(workspace.stored()) == 21


@pytest.mark.slow
def test_commit_that_was_killed_before_its_mark_is_left_to_a_newer_run(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The older run's plan no longer holds; it must not take away the mark of the newer one."""
    workspace.day(20)
    found = killed_before_its_mark(workspace, monkeypatch)
    workspace.day(30)
    workspace.run()
    for name in ("commit", "report"):
        through(workspace, name, run_id=str(found["run_id"]))
    assert list(workspace.lake.rglob("_SUCCESS"))
    assert workspace.run().up_to_date
    assert len(workspace.stored("SELECT DISTINCT id FROM predictions")) == 30


@pytest.mark.parametrize("last", STAGES[: STAGES.index("commit")])
def test_stage_after_the_input_changed_goes_on_in_a_new_run(workspace: Workspace, last: str) -> None:
    workspace.day(50)
    first = through(workspace, "check", *STAGES[: STAGES.index(last) + 1])
    workspace.day(60)
    found = single_stage.run_task(workspace.context(), "commit", DAY, str(first["run_id"]))
    assert found["run_id"] != first["run_id"]
    assert found["state"] == "complete"
    assert len(workspace.stored()) == 60


@pytest.mark.slow
def test_plan_cleared_after_the_input_changed_plans_again(workspace: Workspace) -> None:
    workspace.day(50)
    first = through(workspace, "check", *STAGES)
    workspace.day(60)
    found = through(workspace, *STAGES, run_id=str(first["run_id"]))
    assert found["run_id"] != first["run_id"]
    assert len(workspace.stored("SELECT DISTINCT id FROM predictions")) == 60


def test_commit_after_a_transient_failure_resumes_the_same_run(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.day(50)
    first = through(workspace, "check", "plan", "score")
    ctx = workspace.context()
    record = ctx.lake.records.read("toy", DAY, str(first["run_id"]))
    lakes.put_record(ctx.lake, record.with_(state=State.failed, error="no space left"))
    scored = {path: path.stat().st_ino for path in staged_files(ctx, record, "scored")}
    assert scored
    monkeypatch.setattr(scoring, "score", lambda *_: pytest.fail("scored again"))
    found = single_stage.run_task(ctx, "commit", DAY, record.run_id)
    assert (found["run_id"], found["state"]) == (record.run_id, "complete")
    done = ctx.lake.records.read("toy", DAY, record.run_id)
    assert done.error is None


def test_commit_without_what_was_staged_scores_again(workspace: Workspace) -> None:
    workspace.day(50)
    first = through(workspace, "check", "plan", "score")
    for path in (workspace.lake / ".staging").rglob("scored-*"):
        path.unlink()
    assert through(workspace, "commit", run_id=str(first["run_id"]))["state"] == "complete"
    assert len(workspace.stored()) == 50


def test_run_beside_one_that_waits_for_its_next_stage_is_harmless(workspace: Workspace) -> None:
    """The process that scored has ended, but its run has not: another run must not remove its staging."""
    workspace.day(50)
    waiting = through(workspace, "check", "plan", "score")
    workspace.day({"id": ["n"], "a": [1.0], "b": [1.0]}, file="more.parquet")
    workspace.run()
    staged = list((workspace.lake / ".staging").rglob(f"{waiting['run_id']}/scored-*"))
    assert staged
    assert through(workspace, "commit", run_id=str(waiting["run_id"]))["state"] == "complete"
    ids = [row["id"] for row in workspace.stored("SELECT id FROM predictions")]
    assert len(ids) == len(set(ids)) == 51


def test_check_missing_input_fails_or_is_skipped_as_the_job_says(workspace: Workspace) -> None:
    with pytest.raises(InputMissing):
        through(workspace, "check")
    workspace.job(policy='missing_input = "skip"')
    assert through(workspace, "check")["state"] == "skipped"


def test_plan_of_files_without_rows_is_skipped_as_the_job_says(workspace: Workspace) -> None:
    workspace.day(table(5).slice(0, 0))
    with pytest.raises(InputMissing, match="has no rows"):
        through(workspace, "plan")
    workspace.job(policy='missing_input = "skip"')
    found = through(workspace, "plan")
    assert (found["state"], found["reason"]) == ("skipped", f"the input of {DAY} has no rows")


@pytest.mark.slow
def test_late_rows_brings_earlier_days_up_to_date(workspace: Workspace) -> None:
    workspace.job(schedule="lookback_days = 2")
    workspace.day(10, "2025-12-30")
    workspace.day(10)
    found = single_stage.run_task(workspace.context(), "late_rows", DAY)
    assert found == {"ds": DAY, "days": 1, "changed": ["2025-12-30"]}


@pytest.mark.slow
def test_earlier_brings_all_days_since_the_first_up_to_date_and_fails_for_one_without_input(
    workspace: Workspace,
) -> None:
    for ds in ("2025-12-28", "2025-12-29", "2025-12-31", DAY):
        workspace.day(10, ds)
    with pytest.raises(InputMissing, match="2025-12-30"):
        single_stage.run_task(workspace.context(), "earlier", DAY, since="2025-12-29")
    held = "SELECT DISTINCT ds FROM predictions ORDER BY ds"
    assert [str(row["ds"]) for row in workspace.stored(held)] == ["2025-12-29", "2025-12-31"]
    workspace.day(10, "2025-12-30")
    found = single_stage.run_task(workspace.context(), "earlier", DAY, since="2025-12-29")
    assert found == {"ds": DAY, "days": 3, "changed": ["2025-12-30"]}


def test_earlier_without_earlier_days_does_nothing(workspace: Workspace) -> None:
    assert single_stage.run_task(workspace.context(), "earlier", DAY) == {"ds": DAY, "days": 0, "changed": []}


def test_stage_unknown_name_is_refused(workspace: Workspace) -> None:
    with pytest.raises(UsageError, match="no stage is called 'scroe'"):
        through(workspace, "scroe")


@pytest.mark.parametrize(("name", "expected"), [("plan", []), ("validate_input", [True])])
def test_stage_that_goes_on_after_the_plan_imports_ahead(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, name: str, expected: list[bool]
) -> None:
    noted: list[bool] = []

    def note(_ctx: object, *, scores: bool) -> None:
        noted.append(scores)

    monkeypatch.setattr(startup, "import_ahead", note)
    workspace.day(5)
    single_stage.run_task(workspace.context(), name, DAY)
    assert noted == expected


def test_transient_errors_have_an_exit_code_of_their_own() -> None:
    lasting = {error.exit_code for error in (InputMissing, JobError, QualityStop, LedgerImbalance)}
    assert {InputChanged.exit_code, StorageUnavailable.exit_code} == {75}
    assert 75 not in lasting
