"""The calendar of a job: which days are complete, and what the others lack. Reads listings and run records only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from pipeline.job import Job
from pipeline.lake import Lake, Partition
from pipeline.records import FileInfo, ModelRef, RunRecord, State, is_day

Input = dict[str, tuple[FileInfo, ...]]


class Completeness(StrEnum):
    complete = "complete"
    """A run of the job's model version was complete, over the input as it lies there now."""
    partial = "partial"
    """There are predictions of that version, but they are not complete, or the input changed since."""
    stale = "stale"
    """There are predictions, but only of other versions."""
    missing = "missing"
    """There is input, but no prediction."""
    gone = "gone"
    """There are predictions, but no input any more."""


@dataclass(frozen=True)
class PartitionStatus:
    """One day of a job."""

    ds: str
    state: Completeness
    note: str | None
    """What is amiss."""
    version: str | None
    """Of the newest complete run: if there is one, of the job's model version. The counts are that run's."""
    candidates: int | None
    scored: int | None
    unchanged: int | None
    quarantined: int | None
    withdrawn: int | None
    """Keys that have a prediction, but had no row in the input when that run looked."""
    runs: int
    last_run: str | None
    last_state: State | None
    last_at: datetime | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def status(
    lake: Lake, job: Job, model: ModelRef | None, first: str | None = None, last: str | None = None
) -> list[PartitionStatus]:
    """Returns the days from `first` to `last` that have input or predictions, in order.

    Without a model, which is not registered then, each day is measured by the version of its newest complete run, and
    none is stale. Raises LakeDamaged for a run record that cannot be read, or a part file that is not there.
    """
    days = {*lake.input_days(job.input.patterns.values()), *lake.prediction_days(job.name)}
    wanted = [day for day in sorted(days) if is_day(day) and (first or day) <= day <= (last or day)]
    return [_status_of(lake, job, model, day) for day in wanted]


def _status_of(lake: Lake, job: Job, model: ModelRef | None, ds: str) -> PartitionStatus:
    records = lake.records(job.name, ds)
    complete = [record for record in records if record.state is State.complete]
    version = model.version if model else complete[0].model.version if complete else None
    done = next((record for record in complete if record.model.version == version), None)
    input_now = lake.input_files(job.input.patterns, ds)
    if version is not None and (found := _of_version(lake, Partition(job.name, ds, version), done, input_now)):
        state, note = found
    else:
        state, note = _without(lake, job.name, ds, records, input_now)
    if done is not None and done.withdrawn and state is Completeness.complete:
        note = f"{done.withdrawn:,} predicted rows are no longer in the input"
    if records and records[0].state is State.rolled_back and state is not Completeness.complete:
        note = f"run {records[0].run_id} was rolled back"
    if done is not None and done.job_digest != job.digest and state is Completeness.complete:
        note = "the job changed since"
    return _filled(ds, state, note, records, done or next(iter(complete), None))


def _of_version(
    lake: Lake, partition: Partition, done: RunRecord | None, input_now: Input
) -> tuple[Completeness, str | None] | None:
    """Returns state and note of a day that has predictions of the version, or was complete without any; else None."""
    if not lake.parts(partition) and (done is None or done.parts):
        return None
    if not any(input_now.values()):
        return Completeness.gone, "no input any more"
    if note := _why_not_complete(lake, partition, done, input_now):
        return Completeness.partial, note
    return Completeness.complete, None


def _why_not_complete(lake: Lake, partition: Partition, done: RunRecord | None, input_now: Input) -> str | None:
    if done is None:
        return f"no run of {partition.version} is complete"
    if done.plan.input != input_now:
        return "the input changed since"
    if done.parts != lake.parts(partition):
        return "the predictions changed since"
    return None if lake.storage.head(partition.success) else "not marked as complete"


def _without(
    lake: Lake, job: str, ds: str, records: Sequence[RunRecord], input_now: Input
) -> tuple[Completeness, str | None]:
    """Returns state and note of a day without predictions of the job's version."""
    others = [version for version in lake.versions(job, ds) if lake.parts(Partition(job, ds, version))]
    if not any(input_now.values()):
        return Completeness.gone, "no input any more"
    if others:
        return Completeness.stale, f"scored by {', '.join(others)}"
    if lacking := [name for name, files in input_now.items() if not files]:
        return Completeness.missing, f"no files of {', '.join(lacking)}"
    if records and records[0].error:
        return Completeness.missing, f"{records[0].state}: {records[0].error.splitlines()[0]}"
    return Completeness.missing, None


def _filled(
    ds: str, state: Completeness, note: str | None, records: Sequence[RunRecord], done: RunRecord | None
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
