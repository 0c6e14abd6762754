"""Which periods a DAG run is for, and when a DAG starts: every question about time that Airflow asks."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pipeline.errors import UsageError
from pipeline.job.config import Job
from pipeline.job.loading import read_job
from pipeline.periods import Period
from pipeline.settings import Settings

PARAMETERS = frozenset({"date"})
"""Keys that the configuration of a DAG run may have."""
ON_SCHEDULE = ("scheduled", "backfill")


@dataclass(frozen=True)
class DagRun:
    """What decides which periods a DAG run is for."""

    run_type: str
    run_after: datetime
    logical_date: datetime | None = None
    """For a run on schedule, the moment at which the run before it was due. By hand, any moment, or none."""
    conf: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, run: Any) -> DagRun:
        """Takes Airflow's DAG run: the object in a task's context, or the mapping that a callback is given."""
        named = run.get if isinstance(run, Mapping) else lambda name: getattr(run, name)
        kind = str(getattr(named("run_type"), "value", named("run_type")))
        return cls(kind, _moment(named("run_after")), _moment(named("logical_date")), named("conf"))


def periods_due(job: Job, run: DagRun, params: Mapping[str, Any] | None = None) -> tuple[Period, ...]:
    """Returns the periods that a DAG run is for, oldest first.

    A period that is named, in the run's configuration or its parameters, is the only one. Otherwise it is the last one
    that was due when the run was due; if the job says `since_last_run`, also those that have become due since the run
    before. A run by hand with an earlier logical date is for the period in which that date lies. Airflow's data
    interval is not used: for a run by hand it is derived from the time of the request.

    Raises UsageError for an unknown parameter, or for a value that names no period of the job.
    """
    asked = {**(params or {}), **(run.conf or {})}
    if unknown := sorted(set(asked) - PARAMETERS):
        raise UsageError(
            f"a run of {job.name} has no parameter {unknown[0]!r}",
            expected=", ".join(sorted(PARAMETERS)),
            got=", ".join(map(repr, sorted(asked))),
            next_step=f'trigger it with \'{{"date": "{job.last_due(run.run_after).ds}"}}\', or without parameters',
        )
    if (named := asked.get("date")) is not None:
        return (job.period(named),)
    last = job.last_due(run.run_after)
    if run.logical_date is None:
        return (last,)
    if run.run_type not in ON_SCHEDULE:
        return (min(last, Period.at(last.grain, run.logical_date, job.schedule.timezone)),)
    if not job.schedule.since_last_run:
        return (last,)
    first = max(job.last_due(run.logical_date) + 1, job.first_period)
    return tuple(min(first, last).through(last))


def start_of(job: Job) -> datetime:
    """Returns the start date of a job's DAG: with it, the first run is the first at which the first period is due.

    Airflow makes a run at the end of each interval between two moments of the cron expression, and only of intervals
    that begin after the start date: the run for the first period may need an earlier one. An invalid expression is left
    to Airflow, which reports it with the DAG.
    """
    cron, zone = job.schedule.cron, job.schedule.timezone
    first = job.first_period.start(zone).astimezone(UTC)
    if job.schedule.assets or not cron:
        return first
    try:
        return last_tick(cron, zone, job.due_from(job.first_period))
    except ValueError:
        return first


def runs_for(job: Job, first: Period, last: Period) -> Iterator[tuple[datetime, tuple[Period, ...]]]:
    """Yields logical date and periods of each scheduled run for these periods that is due by now; needs `cron`."""
    import pendulum
    from airflow.timetables.base import TimeRestriction
    from airflow.timetables.interval import CronDataIntervalTimetable

    cron, zone = job.schedule.cron, job.schedule.timezone
    timetable, interval = CronDataIntervalTimetable(cron, zone), None
    begin = pendulum.instance(last_tick(cron, zone, job.due_from(first)))
    while info := timetable.next_dagrun_info(
        last_automated_data_interval=interval, restriction=TimeRestriction(begin, None, catchup=True)
    ):
        interval = info.data_interval
        assert interval is not None
        if info.run_after >= min(job.due_from(last + 1), datetime.now(UTC)):
            return
        yield interval.start, periods_due(job, DagRun("backfill", info.run_after, interval.start))


def last_scheduled(job: Job, now: datetime) -> tuple[Period, ...]:
    """Returns the periods of the last scheduled run that was due before a moment; needs `cron`."""
    cron, zone = job.schedule.cron, job.schedule.timezone
    due = last_tick(cron, zone, now)
    return periods_due(job, DagRun("scheduled", due, last_tick(cron, zone, due)))


def last_tick(cron: str, zone: str, before: datetime) -> datetime:
    """Returns the last moment of a cron expression before a given one. Raises ValueError for an invalid expression."""
    import pendulum
    from airflow.timetables.interval import CronDataIntervalTimetable

    moment = pendulum.instance(before - timedelta(microseconds=1))
    return CronDataIntervalTimetable(cron, zone).infer_manual_data_interval(run_after=moment).end


def _moment(value: Any) -> Any:
    return datetime.fromisoformat(value) if isinstance(value, str) else value


if __name__ == "__main__":
    # FOLDER FIRST LAST prints what `runs_for` yields, FOLDER alone the periods of the last scheduled run.
    folder, *ends = sys.argv[1:]
    of = read_job(Path(folder), Settings.from_environment())
    printed: list[Any]
    if ends:
        found = runs_for(of, *map(of.period, ends))
        printed = [(at.isoformat(), [each.ds for each in periods]) for at, periods in found]
    else:
        printed = [each.ds for each in last_scheduled(of, datetime.now(UTC))]
    sys.stdout.write(json.dumps(printed) + "\n")
