"""The calendar of a job: the state of each day, and the reason."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from pipeline.errors import LakeDamaged, UnreadableFile
from pipeline.flow.status import PartitionStatus, status
from pipeline.job.config import Job
from pipeline.job.loading import read_job
from pipeline.lake.layout import Lake, Partition
from pipeline.lake.record_store import OPEN
from pipeline.lake.states import PeriodState
from pipeline.records import ModelRef, StageReport, State
from pipeline.settings import Settings
from tests import lakes
from tests.workspace import DAY, Workspace, table

V1 = ModelRef(name="churn_model", version="v1", digest="digest-of-v1")
V2 = ModelRef(name="churn_model", version="v2", digest="digest-of-v2")


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return lakes.open_lake(tmp_path / "lake")


@pytest.fixture
def job(tmp_path: Path) -> Job:
    (tmp_path / "jobs" / "churn").mkdir(parents=True)
    text = f'[model]\nname = "churn_model"\n[input]\npath = "{lakes.PATTERN}"\nkey = ["id"]\n'
    (tmp_path / "jobs" / "churn" / "job.toml").write_text(text)
    return read_job(tmp_path / "jobs" / "churn", Settings()).model_copy(update={"digest": "0" * 64})


def one(lake: Lake, job: Job, model: ModelRef | None = V1) -> PartitionStatus:
    (day,) = status(lake, job, model)
    return day


def test_day_as_its_complete_run_left_it_is_complete(lake: Lake, job: Job) -> None:
    record = lakes.add_day(lake, DAY, ["a", "b"])
    day = one(lake, job)
    assert (day.state, day.note, day.version) == (PeriodState.complete, None, "v1")
    assert (day.candidates, day.scored, day.unchanged, day.quarantined) == (2, 2, 0, 0)
    assert (day.runs, day.last_run, day.last_state) == (1, record.run_id, State.complete)
    assert day.last_at == record.finished_at


def test_day_that_a_run_skipped_is_skipped_until_it_has_other_files(workspace: Workspace) -> None:
    workspace.job(policy='missing_input = "skip"')
    workspace.run()
    workspace.day(table(5).slice(0, 0), "2026-01-02")
    workspace.run("2026-01-02")
    ctx = workspace.context()

    def states() -> list[tuple[str, str, str | None]]:
        return [(day.ds, day.state, day.note) for day in status(ctx.lake, ctx.job, ctx.manifest().ref)]

    empty = ("2026-01-02", "skipped", "the input of 2026-01-02 has no rows")
    assert states() == [(DAY, "skipped", f"there is no input for {DAY}"), empty]
    workspace.day(5)
    assert states() == [(DAY, "missing", None), empty]
    workspace.run()
    assert states() == [(DAY, "complete", None), empty]


def test_day_with_input_alone_is_missing(lake: Lake, job: Job) -> None:
    lakes.add_input(lake, DAY, lakes.input_rows(["a"]))
    day = one(lake, job)
    assert (day.state, day.note, day.candidates, day.runs, day.last_at) == (PeriodState.missing, None, None, 0, None)


@pytest.mark.parametrize("state", OPEN)
def test_day_whose_run_waits_for_a_stage_names_it(lake: Lake, job: Job, state: State) -> None:
    lakes.add_input(lake, DAY, lakes.input_rows(["a"]))
    record = lakes.add_run(lake, Partition("churn", DAY, "v1"), state=state)
    done = [StageReport(stage=name, wall_s=1.0, cpu_s=1.0) for name in ("plan", "validate_input", "score")]
    lakes.put_record(lake, record.with_(stages=tuple(done if state is State.scored else done[:2])))
    expected = "validate_output" if state is State.scored else "score"
    day = one(lake, job)
    assert day.state is PeriodState.unfinished
    assert day.note == f"{expected} is next"


def test_day_whose_run_failed_is_failed_and_says_why(lake: Lake, job: Job) -> None:
    lakes.add_input(lake, DAY, lakes.input_rows(["a"]))
    lakes.add_run(lake, Partition("churn", DAY, "v1"), state=State.failed)
    day = one(lake, job)
    assert (day.state, day.note, day.last_state) == (
        PeriodState.failed,
        "in validate_input: the disk is full",
        State.failed,
    )


def test_day_with_predictions_whose_newest_run_was_stopped_is_stopped(lake: Lake, job: Job) -> None:
    lakes.add_day(lake, DAY, ["a"])
    lakes.add_input(lake, DAY, lakes.input_rows(["z"]), "late.parquet")
    lakes.add_run(lake, Partition("churn", DAY, "v1"), number=1, state=State.stopped)
    day = one(lake, job)
    assert (day.state, day.version, day.candidates) == (PeriodState.stopped, "v1", 1)
    assert day.last_run == lakes.run_id(DAY, 1)


def test_day_that_could_not_be_planned_is_failed_until_its_files_change(workspace: Workspace) -> None:
    workspace.day(table(5))
    (path,) = (workspace.lake / f"unscored/ds={DAY}").iterdir()
    path.write_bytes(b"PAR1 is not a Parquet file PAR1")
    with pytest.raises(UnreadableFile):
        workspace.run()
    ctx = workspace.context()
    (day,) = status(ctx.lake, ctx.job, ctx.manifest().ref)
    assert (day.state, day.note, day.runs) == (PeriodState.failed, "in plan: a file cannot be read", 0)
    workspace.day(table(5))
    (day,) = status(ctx.lake, ctx.job, ctx.manifest().ref)
    assert day.state is PeriodState.missing


def test_day_whose_input_changed_is_partial(lake: Lake, job: Job) -> None:
    lakes.add_day(lake, DAY)
    lakes.add_input(lake, DAY, lakes.input_rows(["z"]), "late.parquet")
    day = one(lake, job)
    assert (day.state, day.note) == (PeriodState.partial, "the input changed since")


def test_day_whose_input_was_touched_is_partial(lake: Lake, job: Job) -> None:
    """Its rows may be unchanged: the next run finds out."""
    lakes.add_day(lake, DAY)
    os.utime(lake.workspace.path(f"unscored/ds={DAY}/rows.parquet"), (0, 0))
    assert one(lake, job).state is PeriodState.partial


def test_day_with_parts_that_no_complete_run_knows_is_partial(lake: Lake, job: Job) -> None:
    lakes.add_day(lake, DAY)
    partition = Partition("churn", DAY, "v1")
    lakes.add_part(lake, partition, lakes.prediction_rows({"id": ["q"]}, run="x", ds=DAY))
    day = one(lake, job)
    assert (day.state, day.note) == (PeriodState.partial, "the predictions changed since")


def test_day_without_its_mark_is_partial(lake: Lake, job: Job) -> None:
    lakes.add_day(lake, DAY)
    lake.storage.delete(Partition("churn", DAY, "v1").success)
    day = one(lake, job)
    assert (day.state, day.note) == (PeriodState.partial, "not marked as complete")


def test_day_that_only_a_crashed_run_has_scored_is_unfinished(lake: Lake, job: Job) -> None:
    partition = Partition("churn", DAY, "v1")
    lakes.add_input(lake, DAY, lakes.input_rows(["a"]))
    lakes.add_part(lake, partition, lakes.prediction_rows({"id": ["a"]}, run="x", ds=DAY))
    lakes.add_run(lake, partition, state=State.scored)
    day = one(lake, job)
    assert (day.state, day.note) == (PeriodState.unfinished, "validate_input is next")


def test_day_of_another_version_is_stale(lake: Lake, job: Job) -> None:
    lakes.add_day(lake, DAY, ["a", "b"])
    day = one(lake, job, V2)
    assert (day.state, day.note, day.version, day.candidates) == (PeriodState.stale, "scored by v1", "v1", 2)


def test_day_without_a_model_is_measured_by_its_newest_version(lake: Lake, job: Job) -> None:
    lakes.add_day(lake, DAY, version="v1")
    lakes.add_day(lake, DAY, version="v2", number=1)
    day = one(lake, job, None)
    assert (day.state, day.version) == (PeriodState.complete, "v2")


def test_day_whose_input_is_removed_is_gone(lake: Lake, job: Job) -> None:
    lakes.add_day(lake, DAY)
    shutil.rmtree(lake.workspace.path(f"unscored/ds={DAY}"))
    for model in (V1, V2, None):
        assert one(lake, job, model).state is PeriodState.gone


def test_day_whose_predictions_are_removed_is_missing(lake: Lake, job: Job) -> None:
    lakes.add_day(lake, DAY)
    shutil.rmtree(lake.workspace.path(f"predictions/job=churn/ds={DAY}"))
    assert one(lake, job).state is PeriodState.missing


def test_day_of_which_every_row_is_rejected_is_complete(lake: Lake, job: Job) -> None:
    partition = Partition("churn", DAY, "v1")
    lakes.add_input(lake, DAY, lakes.input_rows(["a"]))
    lakes.add_run(lake, partition, quarantined=1)
    lakes.mark(lake, partition)
    day = one(lake, job)
    assert (day.state, day.scored, day.quarantined) == (PeriodState.complete, 0, 1)


def test_day_scored_before_the_job_changed_is_complete_with_a_note(lake: Lake, job: Job) -> None:
    lakes.add_day(lake, DAY)
    day = one(lake, job.model_copy(update={"digest": "1" * 64}))
    assert (day.state, day.note) == (PeriodState.complete, "the job changed since")


def test_day_that_lacks_one_of_its_sources_is_missing(lake: Lake, job: Job) -> None:
    lakes.add_input(lake, DAY, lakes.input_rows(["a"]))
    source = {"orders": lakes.PATTERN, "users": "users/{ds}.parquet"}
    two = job.input.model_copy(update={"path": None, "select": "x.sql", "sources": source})
    day = one(lake, job.model_copy(update={"input": two}))
    assert (day.state, day.note) == (PeriodState.missing, "no files of users")


def test_days_come_in_order_and_within_the_range(lake: Lake, job: Job) -> None:
    for ds in ("2026-01-03", "2026-01-01", "2025-12-31", "2026-02-01"):
        lakes.add_day(lake, ds)
    assert [day.ds for day in status(lake, job, V1, *job.range("2026-01-01", "2026-01-31"))] == [
        "2026-01-01",
        "2026-01-03",
    ]
    assert len(status(lake, job, V1)) == 4


def test_folders_that_are_no_days_are_ignored(lake: Lake, job: Job) -> None:
    for name in ("2026-13-01", "2026-02-30", "latest"):
        lakes.write_parquet(lake.workspace.path(f"unscored/ds={name}/rows.parquet"), lakes.input_rows(["a"]))
        lake.workspace.path(f"predictions/job=churn/ds={name}").mkdir(parents=True)
    assert status(lake, job, V1) == []


def test_damaged_record_is_named(lake: Lake, job: Job) -> None:
    lakes.add_day(lake, DAY)
    lake.storage.write(f"runs/job=churn/ds={DAY}/{lakes.run_id(DAY, 1)}.json", b"{}")
    with pytest.raises(LakeDamaged, match=lakes.run_id(DAY, 1)):
        status(lake, job, V1)


def test_days_of_the_flow_are_complete_and_then_not(workspace: Workspace) -> None:
    workspace.day(table(20))
    workspace.run()
    ctx = workspace.context()
    model = ctx.registry.resolve("toy", "production").ref
    assert [day.state for day in status(ctx.lake, ctx.job, model)] == [PeriodState.complete]
    workspace.day(table(30))
    assert [day.state for day in status(ctx.lake, ctx.job, model)] == [PeriodState.partial]
    workspace.run()
    assert [day.state for day in status(ctx.lake, ctx.job, model)] == [PeriodState.complete]
