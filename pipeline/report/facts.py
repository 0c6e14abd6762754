"""The data behind the pages: run records, profiles and drift files of the days in a bounded window.

The cost of a page does not grow with the history: only small files of the days in the window are read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pipeline.columns import HIVE
from pipeline.database import sql_files
from pipeline.database.aligning import aligned
from pipeline.database.connection import connect, read_parquet, translated_errors
from pipeline.errors import InputError
from pipeline.lake import skips, unplanned
from pipeline.lake.layout import Lake
from pipeline.lake.patterns import Pattern
from pipeline.periods import Grain, Period
from pipeline.profiles import store
from pipeline.quality.verdict import failed
from pipeline.query.stored_columns import OF_DAYS
from pipeline.records import CheckResult, RunRecord, State

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

    from pipeline.job.config import Job

ROOT = "reports"
INDEX = f"{ROOT}/index.html"
WINDOW_DAYS = 92
MOST_RUNS = 20
"""Number of runs per day that are read, newest first."""
THREADS = 8
PERFORMANCE = ("class", "rows", "auc", "mean_score", "base_rate", "bias", "mae", "k", "precision", "ndcg")
"""Columns of sql/report/performance.sql; those of other tasks are None."""

Drift = dict[str, tuple[str, float | None]]
"""Outcome and PSI of each column."""


@dataclass
class Day:
    """One day of a job, as its newest runs (MOST_RUNS) left it."""

    ds: str
    state: str
    """State of `record`; without a run `skipped`, `failed` if none could be planned, `missing` with input, `none`."""
    record: RunRecord | None = None
    """Run that finished last among the complete ones; if none is complete, the newest run."""
    newest: RunRecord | None = None
    """The newest run, which may have failed after `record` was complete."""
    runs: int = 0
    reason: str | None = None
    """Why no run could be planned, if that is why the day is `failed`."""
    grain: Grain = Grain.day
    classes: dict[str, int] = field(default_factory=dict)
    confidence: float | None = None
    whole: bool = False
    """Whether `classes` cover the whole day (from its profile), or only the rows that its largest run scored."""
    drift: dict[str, Drift] = field(default_factory=dict)
    """Drift of each reference: `training`, `trailing` or `previous_model`."""
    performance: dict[str, Any] = field(default_factory=dict)
    """Performance on the labelled rows: `class` (the one that sorts last), `rows`, `auc`, `mean_score`, `base_rate`."""

    @property
    def counts(self) -> dict[str, int]:
        return self.record.ledger.counts() if self.record and self.record.ledger else {}

    @property
    def rows_per_s(self) -> float | None:
        scored = [stage for stage in self.record.stages if stage.stage == "score"] if self.record else []
        return scored[-1].rows_per_s if scored and scored[-1].rows else None

    @property
    def findings(self) -> list[CheckResult]:
        return [check for check in failed(self.record.checks) if check.outcome != "off"] if self.record else []

    @property
    def page(self) -> str | None:
        """Path of the page of `record`, relative to the index."""
        return page_of(self.record).removeprefix(f"{ROOT}/") if self.record else None

    @property
    def page_path(self) -> str:
        """`page` as it stands in an address, empty if there is none."""
        return quote(self.page or "", safe="/=")

    @property
    def newest_page(self) -> str | None:
        """Path of the page of `newest`, relative to the index."""
        return page_of(self.newest).removeprefix(f"{ROOT}/") if self.newest else None


@dataclass(frozen=True)
class JobFacts:
    name: str
    days: tuple[Day, ...]
    """Every calendar day from the first to the last in the window, with or without runs."""
    earlier: int
    """Number of days with runs before the window."""
    grain: Grain = Grain.day

    @property
    def with_runs(self) -> list[Day]:
        return [day for day in self.days if day.record is not None]

    @property
    def newest(self) -> Day | None:
        return next(reversed(self.with_runs), None)

    @property
    def model_changes(self) -> list[tuple[Day, str]]:
        """The days from which on another model scores, each with that model's version."""
        scored = [(day, day.record.model) for day in self.with_runs if day.record and day.counts]
        pairs = pairwise(scored)
        return [(day, model.version) for (_, before), (day, model) in pairs if model != before]

    @property
    def classes(self) -> list[str]:
        return list(dict.fromkeys(name for day in self.days for name in day.classes))

    @property
    def findings(self) -> list[tuple[CheckResult, list[Day]]]:
        """Checks that did not pass, each as of its newest day, with its days; the most frequent first."""
        found: dict[tuple[str, str], tuple[CheckResult, list[Day]]] = {}
        for day in self.with_runs:
            for check in day.findings:
                _, days = found.get((check.suite, check.name), (check, []))
                found[check.suite, check.name] = check, [*days, day]
        return sorted(found.values(), key=lambda pair: -len(pair[1]))

    @property
    def validated(self) -> bool:
        """Whether any run in the window validated its input or its predictions; a job can switch validation off."""
        checks = (check for day in self.with_runs if day.record for check in day.record.checks)
        return any(check.suite != "model" for check in checks)

    @property
    def references(self) -> list[str]:
        return [
            name for name in ("training", "trailing", "previous_model") if any(name in day.drift for day in self.days)
        ]


def against(reference: str, grain: Grain) -> str:
    """Returns what a reference of a comparison is, in words."""
    words = {"training": "the training data", "trailing": f"the {grain}s before", "previous_model": "the model before"}
    return words[reference]


def anchor(column: str) -> str:
    """Returns the id of a column's distributions on the page of a run: any name makes a valid one."""
    return f"column-{hashlib.sha256(column.encode()).hexdigest()[:10]}"


def page_of(record: RunRecord) -> str:
    return page_key(record.job, record.ds, record.run_id)


def page_key(job: str, ds: str, run_id: str) -> str:
    return f"{ROOT}/job={job}/ds={ds}/{run_id}.html"


def place_of(lake: Lake, job: Job, key: str) -> str:
    """Returns the address of a page: that of the web server which the job names, else its place in the lake."""
    address = job.report.address
    return f"{address.rstrip('/')}/{quote(key, safe='/=')}" if address else lake.storage.where(key)


def jobs(lake: Lake) -> list[str]:
    return lake.records.jobs()


def job_facts(lake: Lake, job: str, window: int = WINDOW_DAYS) -> JobFacts:
    """Returns the days of a job up to its newest day with a run, at most `window` of them."""
    newest = next(
        (record for ds in reversed(lake.records.days(job)) for record in lake.records.iter_day(job, ds)), None
    )
    grain, zone = schedule_of(newest)
    folders = {*lake.records.days(job), *skips.days(lake, job)}
    known = sorted(period for ds in folders if (period := Period.stored(ds, grain)) is not None)
    if not known:
        return JobFacts(job, (), 0, grain)
    first = max(known[0], known[-1] - (window - 1))
    shown = [period for period in known if period >= first]
    with ThreadPoolExecutor(THREADS) as pool:
        found = dict(zip(shown, pool.map(lambda period: _day(lake, job, period), shown), strict=True))
    of_calendar = [(period, found.get(period)) for period in first.through(known[-1])]
    days = [day if day and day.runs else _without_run(lake, newest, period, zone) for period, day in of_calendar]
    _add_profiles(lake, days)
    return JobFacts(job, tuple(days), len(known) - len(shown), grain)


def _day(lake: Lake, job: str, period: Period) -> Day:
    ds = period.ds
    records = list(islice(lake.records.iter_day(job, ds), MOST_RUNS))
    complete = [record for record in records if record.state is State.complete]
    if not records:
        return Day(ds, "none", grain=period.grain)
    chosen = max(complete, key=lambda record: record.finished_at or record.started_at, default=records[0])
    day = Day(ds, chosen.state.value, chosen, records[0], len(records), grain=period.grain)
    same = [record for record in complete if record.model == chosen.model]
    largest = max(same, key=lambda record: sum(record.statistics.reasons.values()), default=chosen)
    day.classes, day.confidence = dict(largest.statistics.classes), largest.statistics.mean_confidence
    return day


def predictions_of(lake: Lake, record: RunRecord) -> tuple[dict[str, float], float | None, bool]:
    """Returns what the period of a complete run has now: shares of the classes, mean confidence, and if they are whole.

    They come from the profile of the run. Without one they are of the largest run of the period, or of this one if
    another has completed it since: then they are of the rows that were scored, not of the period as a whole.
    """
    own = record.statistics
    period = Period.stored(record.ds, schedule_of(record)[0])
    if record.state is not State.complete or own.mean_confidence is None or period is None:
        return own.shares, own.mean_confidence, False
    day = _day(lake, record.job, period)
    if day.record is None or day.record.run_id != record.run_id:
        return own.shares, own.mean_confidence, False
    _add_profiles(lake, [day])
    total = sum(day.classes.values())
    return {name: count / total for name, count in day.classes.items()} if total else {}, day.confidence, day.whole


def schedule_of(record: RunRecord | None) -> tuple[Grain, str]:
    """Returns the length of the period of a run, and its time zone; days in UTC without a run."""
    schedule = (record.job_config.get("schedule") or {}) if record else {}
    return Grain(schedule.get("every", Grain.day)), str(schedule.get("timezone", "UTC"))


def _without_run(lake: Lake, newest: RunRecord | None, period: Period, zone: str) -> Day:
    """Returns a day without runs; see `Day.state`. The newest run knows where input is."""
    source = (newest.job_config.get("input") or {}) if newest else {}
    texts = {"unscored": source["path"]} if source.get("path") else source.get("sources") or {}
    patterns = {name: Pattern(text, period.grain, zone) for name, text in texts.items()}
    try:
        files = lake.input_files(patterns, period.ds)
    except InputError as error:
        return Day(period.ds, "failed", reason=str(error), grain=period.grain)
    if newest is not None and (found := unplanned.find(lake, newest.job, period.ds, files, None)) is not None:
        return Day(period.ds, "failed", reason=found.error, grain=period.grain)
    if newest is not None and skips.find(lake, newest.job, period.ds, files) is not None:
        return Day(period.ds, "skipped", grain=period.grain)
    return Day(period.ds, "missing" if files and all(files.values()) else "none", grain=period.grain)


def _add_profiles(lake: Lake, days: Iterable[Day]) -> None:
    """Fills in class counts, confidence, performance and drift of the days that have such files (docs/drift.md)."""
    by_run = {day.record.run_id: day for day in days if day.record is not None and day.record.state is State.complete}
    with connect(threads=1) as con:
        lake.storage.attach(con)
        for ds, run_id, column, labels, counts, mean in _ask(con, lake, by_run.values(), "profiles", "report/profiles"):
            day = by_run[run_id]
            assert day.ds == ds
            if column == "prediction":
                day.classes, day.whole = dict(zip(labels, counts, strict=True)), True
            else:
                day.confidence = mean
        for run_id, *values in _ask(con, lake, by_run.values(), "performance", "report/performance"):
            by_run[run_id].performance = dict(zip(PERFORMANCE, values, strict=True))
        for _, run_id, reference, column, outcome, psi in _ask(con, lake, by_run.values(), "drift", "report/drift"):
            by_run[run_id].drift.setdefault(reference, {})[column] = (outcome, psi)


def _ask(con: Connection, lake: Lake, days: Iterable[Day], kind: store.Kind, query: str) -> list[tuple[Any, ...]]:
    keys = [store.key(kind, day.record) for day in days if day.record is not None]
    with ThreadPoolExecutor(THREADS) as pool:
        paths = [lake.storage.where(file.path) for file in pool.map(lake.storage.head, keys) if file is not None]
    if not paths:
        return []
    with translated_errors(lake.storage, paths):
        (rows,) = aligned([read_parquet(con, paths, folders=HIVE)], OF_DAYS[kind])
        rows.create_view(kind, replace=True)
        return con.sql(sql_files.load(query)).fetchall()


def signature(facts: Sequence[JobFacts]) -> list[tuple[str, str]]:
    """Returns run ids and states, which differ once another run has ended."""
    newest = [day.record for job in facts for day in job.with_runs if day.record]
    return [(record.run_id, record.state.value) for record in newest]
