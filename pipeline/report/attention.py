"""What needs a person's attention: of all jobs, what is wrong, since when, why, who owns it, and what to type."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from pipeline.errors import InputError, LakescoreError, ModelNotFound, counted
from pipeline.histograms.shares import percentages
from pipeline.job.schedule import Schedule
from pipeline.lake import liveness
from pipeline.lake.layout import Lake
from pipeline.lake.patterns import Pattern
from pipeline.lake.record_store import OPEN
from pipeline.periods import Grain, Period
from pipeline.publish.delivery import Delivery, DeliveryState, DeliveryStore
from pipeline.quality import rejections
from pipeline.quality.verdict import described
from pipeline.records import RunRecord, State, same_files
from pipeline.report.facts import Day, JobFacts, against
from pipeline.settings import Settings

if TYPE_CHECKING:
    from pipeline.model.registry import Registry

RECENT = 14
"""Number of periods, the newest ones, of which input and deliveries are looked at."""
ON_SCHEDULE = 2
"""A job whose newest run began within so many periods after it was due runs by its schedule, and can be late."""
UNSENT = (DeliveryState.failed, DeliveryState.delivering)
WORDS = (
    "stopped", "failed", "unfinished", "late", "missing", "undelivered", "partial", "stale", "drifted", "quarantined",
)  # fmt: skip
"""What can be wrong, worst first."""
MEANINGS = {
    "stopped": "bad data: a critical check failed, and nothing was published",
    "failed": "an error ended the run, or none could be planned, and nothing was published",
    "unfinished": "the process of the run is gone; the next run continues",
    "late": "due by the schedule, but not run",
    "missing": "there is input, but no run has tried",
    "partial": "there are predictions, but the input has changed since",
    "stale": "there are predictions, but of another model",
    "undelivered": "published in the lake, but not handed on",
    "drifted": "the newest values differ from their reference",
    "quarantined": "rows without a prediction, as they break a rule",
}


ADVICE = {
    "stopped": "correct the input or the suite, then",
    "failed": "remove the cause, then",
    "unfinished": "to resume it:",
    "late": "see whether the scheduler runs, then",
    "missing": "to score it:",
    "undelivered": "see to the target, then",
    "partial": "to score what has changed:",
    "stale": "to score it by the new model:",
    "drifted": "to look at it:",
    "quarantined": "to look at them:",
}
"""What to do before the command is typed, or what the command is for."""


@dataclass(frozen=True)
class Trouble:
    """One thing that is wrong with a job, over one or several periods."""

    word: str
    """One of WORDS."""
    job: str
    owner: str | None
    """None if the job names no owner."""
    grain: Grain
    since: str
    """The first of the periods."""
    ds: str
    """The last of the periods."""
    periods: int
    reason: str
    advice: str
    """One of ADVICE."""
    command: str
    page: str | None
    """Path of the page of the newest run concerned, relative to the index."""


def of_jobs(
    lake: Lake, jobs: Sequence[JobFacts], at: datetime, registry: Registry | None = None
) -> tuple[Trouble, ...]:
    """Returns what needs attention at a moment, worst first; with a registry, also what an older model has scored."""
    found = [each for job in jobs for each in of_job(lake, job, at, registry)]
    return tuple(sorted(found, key=lambda each: WORDS.index(each.word)))  # of one kind, by job


def of_job(lake: Lake, job: JobFacts, at: datetime, registry: Registry | None = None) -> Iterator[Trouble]:
    newest = job.newest
    if newest is None or newest.record is None:
        return
    say = _Saying(lake, job, newest.record)
    yield from _ended(say)
    yield from _unfinished(say, at)
    yield from _late(say, at)
    if missing := [day for day in job.days if day.state == "missing"]:
        yield say.of("missing", missing, "there is input, but it was never run", say.again(missing))
    yield from _stale(say, registry)
    yield from _undelivered(say)
    yield from _drifted(say)
    yield from _quarantined(say)


@dataclass(frozen=True)
class _Saying:
    """Puts the troubles of one job into words."""

    lake: Lake
    job: JobFacts
    record: RunRecord
    """The newest run, which knows the job."""

    @property
    def schedule(self) -> Schedule | None:
        """The job's schedule; None if another version of Lakescore wrote one that this one does not know."""
        try:
            return Schedule.model_validate(self.record.job_config.get("schedule") or {})
        except ValidationError:
            return None

    @property
    def owner(self) -> str | None:
        named = (self.record.job_config.get("schedule") or {}).get("owner")
        return None if named == Schedule.model_fields["owner"].default else named

    def of(self, word: str, days: Sequence[Day], reason: str, command: str) -> Trouble:
        """Returns a trouble over some days, oldest first."""
        last, advice = days[-1], ADVICE[word]
        return Trouble(
            *(word, self.job.name, self.owner, self.job.grain, days[0].ds, last.ds, len(days), reason, advice, command),
            page=last.newest_page if word in ("stopped", "failed", "unfinished") else last.page,
        )

    def type(self, command: str, *options: str) -> str:
        return command_line(self.lake, command, self.job.name, *options)

    def again(self, days: Sequence[Day]) -> str:
        """Returns the command that runs some days."""
        if len(days) == 1:
            return self.type("run", "--date", days[0].ds)
        return self.type("backfill", "--from", days[0].ds, "--to", days[-1].ds)


def command_line(lake: Lake, command: str, job: str, *options: str) -> str:
    """Returns a command to be pasted in the folder of the project; the lake is named if it is elsewhere."""
    where = lake.storage.where("").rstrip("/")
    default = "://" not in where and Path(where) == Path(Settings().lake).absolute()
    named = () if default else ("--lake", where)
    return f"lakescore {command} {shlex.join(('--job', job, *options, *named))}"


def _ended(say: _Saying) -> Iterator[Trouble]:
    """Yields the days whose newest run was stopped or has failed, or for which none could be planned."""
    for state in (State.stopped, State.failed):
        days = [day for day in say.job.days if (day.newest.state if day.newest else day.state) == state]
        if days:
            last = days[-1]
            why = reason(last.newest) if last.newest else f"no run could be planned: {in_one_line(last.reason or '')}"
            yield say.of(state.value, days, why, say.again(days))


def reason(record: RunRecord) -> str:
    """Returns in one line why a run has failed or was stopped, and in which stage."""
    stopped = [check for check in record.checks if check.outcome == "stopped"]
    text = described(stopped[0]) if stopped else in_one_line(record.error or "no reason is known")
    more = f" (and {counted(len(stopped) - 1, 'more check')})" if len(stopped) > 1 else ""
    return f"{text}{more}{f', in {record.ended_in}' if record.ended_in else ''}"


def in_one_line(error: str) -> str:
    """Returns the text of an error without its details, except for where it occurred."""
    first, *details = error.splitlines()
    where = next((line.split(maxsplit=1)[1] for line in details if line.startswith("  where ")), None)
    return f"{first}: {where}" if where else first


def _unfinished(say: _Saying, at: datetime) -> Iterator[Trouble]:
    days = [day for day in say.job.with_runs if day.newest and _is_dead(say.lake, day.newest, at)]
    if days and (last := days[-1].newest):
        done = last.stages[-1].stage if last.stages else "plan"
        yield say.of("unfinished", days, f"the process of the run is gone, after {done}", say.again(days))


def _is_dead(lake: Lake, record: RunRecord, at: datetime) -> bool:
    if record.state not in OPEN:
        return False
    alive = liveness.is_at_work(lake, record)
    return alive is False or (alive is None and at - record.started_at > timedelta(days=1))


def _late(say: _Saying, at: datetime) -> Iterator[Trouble]:
    """Yields what is due since half a period, if the newest period was run on schedule: others are run by hand."""
    schedule, last = say.schedule, say.job.days[-1]
    if schedule is None or schedule.every is not say.job.grain or not (schedule.cron or schedule.assets):
        return
    newest = Period.parse(last.ds, say.job.grain)
    if say.record.started_at > schedule.due_from(newest + ON_SCHEDULE):
        return
    due = schedule.last_due(at)
    if (at - schedule.due_from(due)) * 2 < schedule.due_from(due + 1) - schedule.due_from(due):
        due -= 1
    if due > newest:
        since, days = schedule.due_from(newest + 1), [Day(each.ds, "none") for each in (newest + 1).through(due)]
        reason = f"no run since {newest.ds}; the next was due at {since:%Y-%m-%d %H:%M %Z}"
        yield say.of("late", days, reason, say.again(days))


def _stale(say: _Saying, registry: Registry | None) -> Iterator[Trouble]:
    recent = [day for day in say.job.with_runs if day.state == State.complete][-RECENT:]
    if days := [day for day in recent if day.record and _is_changed(say.lake, day.record)]:
        yield say.of("partial", days, "the input has changed since the run", say.again(days))
    if not recent or registry is None or (record := recent[-1].record) is None:
        return
    wanted = record.job_config.get("model") or {}
    try:
        current = registry.resolve(record.model.name, wanted.get("version", "production"))
    except ModelNotFound:  # runs say so
        return
    if current.digest != record.model.digest:
        text = f"scored by {record.model.version}, but {wanted.get('version', 'production')} is {current.version}"
        yield say.of("stale", recent[-1:], text, say.again(recent[-1:]))


def _is_changed(lake: Lake, record: RunRecord) -> bool:
    """Tells whether files that are of this period alone have changed since the run."""
    schedule, given = record.job_config.get("schedule") or {}, record.job_config.get("input") or {}
    grain, zone = Grain(schedule.get("every", Grain.day)), str(schedule.get("timezone", "UTC"))
    texts = {"unscored": given["path"]} if given.get("path") else given.get("sources") or {}
    patterns = {name: Pattern(text, grain, zone) for name, text in texts.items()}
    own = {name: each for name, each in patterns.items() if each.dated and not each.same_paths}
    try:
        now = lake.input_files(own, record.ds)
    except InputError:  # the next run says what is wrong with it
        return True
    then = {name: files for name, files in record.plan.input.items() if name in own}
    return any(now.values()) and not same_files(then, now)


def _undelivered(say: _Saying) -> Iterator[Trouble]:
    recent = [day for day in say.job.with_runs if day.state == State.complete][-RECENT:]
    found = [(day, open_) for day in recent if day.record and (open_ := undelivered(say.lake, day.record))]
    if current := {delivery.target for _, each in found[-1:] for delivery in each}:
        days = [day for day, each in found if current & {delivery.target for delivery in each}]
        last = found[-1][1][0]
        more = f" (and {counted(len(found[-1][1]) - 1, 'more target')})" if len(found[-1][1]) > 1 else ""
        why = f": {in_one_line(last.reason)}" if last.reason else ""
        yield say.of(
            "undelivered", days, f"target {last.target}{more}{why}", say.type("publish", "--date", days[-1].ds)
        )


def undelivered(lake: Lake, record: RunRecord) -> list[Delivery]:
    """Returns the deliveries of a run that have failed or were begun only."""
    if not record.job_config.get("publish"):
        return []
    return [delivery for delivery in DeliveryStore(lake).of_run(record) if delivery.state in UNSENT]


def _drifted(say: _Saying) -> Iterator[Trouble]:
    compared = [day for day in say.job.with_runs if day.drift]
    level = next((level for level in ("critical", "warning") if compared and _alarms(compared[-1], level)), None)
    if level is None:
        return
    days = _streak(compared, lambda day: bool(_alarms(day, level)))
    found = sorted(_alarms(days[-1], level), key=lambda each: -each[2])
    first: dict[str, list[str]] = {}
    for reference, column, psi in found[:3]:
        first.setdefault(against(reference, say.job.grain), []).append(f"{column} (PSI {psi:.2g})")
    parts = [f"against {reference}, {', '.join(columns)}" for reference, columns in first.items()]
    more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
    text = f"{level}: {'; '.join(parts)}{more}"
    yield say.of("drifted", days, text, say.type("drift", "--date", days[-1].ds))


def _alarms(day: Day, level: str) -> list[tuple[str, str, float]]:
    """Returns reference, column and PSI of the alarms of a day."""
    return [
        (reference, column, psi or 0.0)
        for reference, columns in day.drift.items()
        for column, (outcome, psi) in columns.items()
        if outcome == level
    ]


def _quarantined(say: _Saying) -> Iterator[Trouble]:
    complete = [day for day in say.job.with_runs if day.state == State.complete]
    days = _streak(complete, lambda day: day.counts.get("quarantined", 0) > 0)
    if not days or (record := days[-1].record) is None:
        return
    rows, of = days[-1].counts["quarantined"], days[-1].counts["candidates"]
    share = percentages({"": rows / of})[""]
    try:
        reasons = rejections.listed(rejections.of_run(say.lake, record)[:3])
    except LakescoreError as error:
        reasons = f"the reasons cannot be read: {error.what}"
    text = f"{rows:,} of {counted(of, 'row')} ({share}): {reasons}"
    yield say.of("quarantined", days, text, say.type("quarantine show", "--date", days[-1].ds))


def _streak(days: Sequence[Day], holds: Callable[[Day], bool]) -> list[Day]:
    """Returns the last days in a row for which something holds, oldest first; none if it does not for the last one."""
    found: list[Day] = []
    for day in reversed(days):
        if not holds(day):
            break
        found.insert(0, day)
    return found
