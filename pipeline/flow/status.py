"""The calendar of a job: which days are complete, and what the others lack. Reads listings and run records only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from pipeline.errors import InputError, counted
from pipeline.flow import stage_list
from pipeline.job.config import Job
from pipeline.lake import skips, unplanned
from pipeline.lake.layout import Lake, Partition
from pipeline.lake.states import OF_NEWEST_RUN, PeriodState
from pipeline.periods import Period
from pipeline.records import FileInfo, ModelRef, RunRecord, State, same_files

Input = dict[str, tuple[FileInfo, ...]]


@dataclass(frozen=True)
class PartitionStatus:
    """One day of a job."""

    ds: str
    state: PeriodState
    note: str | None
    """Reason for the state, or a remark on a complete day."""
    version: str | None
    """Model version of the newest complete run, preferably of the job's version. The counts are of the same run."""
    candidates: int | None
    scored: int | None
    unchanged: int | None
    quarantined: int | None
    withdrawn: int | None
    """Number of keys that had a prediction but no row in the input at the time of that run."""
    runs: int
    last_run: str | None
    last_state: State | None
    last_at: datetime | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def status(
    lake: Lake, job: Job, model: ModelRef | None, first: Period | None = None, last: Period | None = None
) -> list[PartitionStatus]:
    """Returns the days from `first` to `last` that have input or predictions or were skipped, in order.

    `model` is None if it is not registered: each day then counts by the version of its newest complete run, and none is
    stale. Raises LakeDamaged if a run record cannot be read, or a part file is missing.
    """
    days = {*lake.input_days(job.patterns.values()), *lake.prediction_days(job.name)}
    days.update(skips.days(lake, job.name))
    known = sorted(period for ds in days if (period := Period.stored(ds, job.grain)) is not None)
    wanted = [period for period in known if (first or period) <= period <= (last or period)]
    return [_status_of(lake, job, model, period.ds) for period in wanted]


def _status_of(lake: Lake, job: Job, model: ModelRef | None, ds: str) -> PartitionStatus:
    records = lake.records.of_day(job.name, ds)
    complete = [record for record in records if record.state is State.complete]
    version = model.version if model else complete[0].model.version if complete else None
    done = next((record for record in complete if record.model.version == version), None)
    try:
        input_now = lake.input_files(job.patterns, ds)
    except InputError as error:
        why = f"{error.what}: {error.where}"
        return _filled(ds, PeriodState.failed, why, records, done or next(iter(complete), None))
    note: str | None
    if version is not None and (found := _of_version(lake, Partition(job.name, ds, version), done, input_now)):
        state, note = found
    else:
        state, note = _without(lake, job, ds, input_now)
    if done is not None and done.withdrawn and state is PeriodState.complete:
        are = "is" if done.withdrawn == 1 else "are"
        note = f"{counted(done.withdrawn, 'predicted row')} {are} no longer in the input"
    if state not in (PeriodState.complete, PeriodState.gone, PeriodState.skipped):
        state, note = _as_tried(lake, job, ds, records, input_now) or (state, note)
    if done is not None and done.job_digest != job.digest and state is PeriodState.complete:
        note = "the job changed since"
    return _filled(ds, state, note, records, done or next(iter(complete), None))


def _of_version(
    lake: Lake, partition: Partition, done: RunRecord | None, input_now: Input
) -> tuple[PeriodState, str | None] | None:
    """Returns state and note of a day that has predictions of the version, or was complete without any; else None."""
    if not lake.parts(partition) and (done is None or done.parts):
        return None
    if not any(input_now.values()):
        return PeriodState.gone, "no input any more"
    if note := _why_not_complete(lake, partition, done, input_now):
        return PeriodState.partial, note
    return PeriodState.complete, None


def _why_not_complete(lake: Lake, partition: Partition, done: RunRecord | None, input_now: Input) -> str | None:
    if done is None:
        return f"no run of {partition.version} is complete"
    if done.expired_at is not None:
        return "expired"
    if not same_files(done.plan.input, input_now):
        return "the input changed since"
    if done.parts != lake.parts(partition):
        return "the predictions changed since"
    return None if lake.storage.head(partition.success) else "not marked as complete"


def _without(lake: Lake, job: Job, ds: str, input_now: Input) -> tuple[PeriodState, str | None]:
    """Returns state and note of a day without predictions of the job's version."""
    if (skip := skips.find(lake, job.name, ds, input_now)) is not None:
        return PeriodState.skipped, skip.reason
    others = [version for version in lake.versions(job.name, ds) if lake.parts(Partition(job.name, ds, version))]
    if not any(input_now.values()):
        return PeriodState.gone, "no input any more"
    if others:
        return PeriodState.stale, f"scored by {', '.join(others)}"
    if lacking := [name for name, files in input_now.items() if not files]:
        return PeriodState.missing, f"no files of {', '.join(lacking)}"
    return PeriodState.missing, None


def _as_tried(
    lake: Lake, job: Job, ds: str, records: Sequence[RunRecord], input_now: Input
) -> tuple[PeriodState, str] | None:
    """Returns state and note of a day whose newest run has not completed it; None if that run says nothing of it."""
    newest = records[0] if records else None
    if (tried := unplanned.find(lake, job.name, ds, input_now, newest)) is not None:
        return PeriodState.failed, f"in plan: {tried.error.splitlines()[0]}"
    if newest is None or (state := OF_NEWEST_RUN.get(newest.state)) is None:
        return None
    if state is PeriodState.rolled_back:
        return state, f"run {newest.run_id} was rolled back"
    stage = stage_list.next_of(job, newest)
    if newest.error:
        where = f"in {stage}: " if stage else ""
        return state, f"{where}{newest.error.splitlines()[0]}"
    return state, f"{stage} is next" if stage else "not committed"


def _filled(
    ds: str, state: PeriodState, note: str | None, records: Sequence[RunRecord], done: RunRecord | None
) -> PartitionStatus:
    counts = done.ledger.counts() if done and done.ledger else {}
    newest = records[0] if records else None
    return PartitionStatus(
        ds=ds,
        state=state,
        note=note,
        version=done.model.version if done else None,
        candidates=counts.get("candidates"),
        scored=counts.get("scored"),
        unchanged=counts.get("unchanged"),
        quarantined=counts.get("quarantined"),
        withdrawn=done.withdrawn if done else None,
        runs=len(records),
        last_run=newest.run_id if newest else None,
        last_state=newest.state if newest else None,
        last_at=(newest.finished_at or newest.started_at) if newest else None,
    )
