"""What the pages show: from run records, profiles and drift files of a bounded number of days.

The cost of a page does not grow with the history: each file read here is small, and of the days in the window.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

from pipeline import database, queries
from pipeline.drift import store
from pipeline.lake import Lake
from pipeline.quality.verdict import failed
from pipeline.records import CheckResult, RunRecord, State, is_day

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

ROOT = "reports"
INDEX = f"{ROOT}/index.html"
WINDOW_DAYS = 92
MOST_RUNS = 20
"""Of one day that are looked at, the newest."""
THREADS = 8

Drift = dict[str, tuple[str, float | None]]
"""Outcome and PSI by column."""


@dataclass
class Day:
    """One day of a job, as its newest runs left it."""

    ds: str
    state: str
    """That of the newest complete run, or else of the newest; `missing` is input without a run, `none` is neither."""
    record: RunRecord | None = None
    """The newest complete run; or else the newest."""
    runs: int = 0
    classes: dict[str, int] = field(default_factory=dict)
    confidence: float | None = None
    whole: bool = False
    """Whether these are over the whole day (its profile), or over what its largest run scored."""
    drift: dict[str, Drift] = field(default_factory=dict)
    """By reference: `training`, `trailing`."""
    performance: dict[str, Any] = field(default_factory=dict)
    """Once labels have come: `class`, `rows`, `auc`, `mean_score`, `base_rate` of the class that is judged last."""

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
        """Relative to the index."""
        return page_of(self.record).removeprefix(f"{ROOT}/") if self.record else None


@dataclass(frozen=True)
class JobFacts:
    name: str
    days: tuple[Day, ...]
    """Each day of the calendar from the first to the last in the window."""
    earlier: int
    """Days with runs before the window."""

    @property
    def with_runs(self) -> list[Day]:
        return [day for day in self.days if day.record is not None]

    @property
    def newest(self) -> Day | None:
        return next(reversed(self.with_runs), None)

    @property
    def classes(self) -> list[str]:
        return list(dict.fromkeys(name for day in self.days for name in day.classes))

    @property
    def findings(self) -> list[tuple[CheckResult, list[Day]]]:
        """Each check that did not pass, as on its newest day, with the days; that of most days first."""
        found: dict[tuple[str, str], tuple[CheckResult, list[Day]]] = {}
        for day in self.with_runs:
            for check in day.findings:
                _, days = found.get((check.suite, check.name), (check, []))
                found[check.suite, check.name] = check, [*days, day]
        return sorted(found.values(), key=lambda pair: -len(pair[1]))

    @property
    def validated(self) -> bool:
        """Whether any run here validated its input or its predictions; a job need not."""
        checks = (check for day in self.with_runs if day.record for check in day.record.checks)
        return any(check.suite != "model" for check in checks)

    @property
    def references(self) -> list[str]:
        return [name for name in ("training", "trailing") if any(name in day.drift for day in self.days)]


def page_of(record: RunRecord) -> str:
    return f"{ROOT}/job={record.job}/ds={record.ds}/{record.run_id}.html"


def jobs(lake: Lake) -> list[str]:
    return [name.removeprefix("job=") for name in lake.storage.folders("runs") if name.startswith("job=")]


def job_facts(lake: Lake, job: str, window: int = WINDOW_DAYS) -> JobFacts:
    """Returns the days of a job up to its newest run, `window` at most."""
    known = sorted(day for day in lake.run_days(job) if is_day(day))
    if not known:
        return JobFacts(job, (), 0)
    last = date.fromisoformat(known[-1])
    first = max(date.fromisoformat(known[0]), last - timedelta(days=window - 1)).isoformat()
    shown = [day for day in known if day >= first]
    with ThreadPoolExecutor(THREADS) as pool:
        found = dict(zip(shown, pool.map(lambda ds: _day(lake, job, ds), shown), strict=True))
    newest = next((day.record for day in reversed(list(found.values())) if day.record), None)
    calendar = [(last - timedelta(days=back)).isoformat() for back in range(window - 1, -1, -1)]
    days = [found.get(ds) or _without_run(lake, newest, ds) for ds in calendar if ds >= first]
    _add_profiles(lake, days)
    return JobFacts(job, tuple(days), len(known) - len(shown))


def _day(lake: Lake, job: str, ds: str) -> Day:
    records = list(islice(lake.iter_records(job, ds), MOST_RUNS))
    complete = [record for record in records if record.state is State.complete]
    if not records:
        return Day(ds, "none")
    chosen = max(complete, key=lambda record: record.finished_at or record.started_at, default=records[0])
    day = Day(ds, chosen.state.value, chosen, len(records))
    same = [record for record in complete if record.model == chosen.model]
    largest = max(same, key=lambda record: sum(record.statistics.reasons.values()), default=chosen)
    day.classes, day.confidence = dict(largest.statistics.classes), largest.statistics.mean_confidence
    return day


def _without_run(lake: Lake, newest: RunRecord | None, ds: str) -> Day:
    """Tells a day with input that no run has seen from one without. Where input lies, the newest run says."""
    source = (newest.job_config.get("input") or {}) if newest else {}
    patterns = {"unscored": source["path"]} if source.get("path") else source.get("sources") or {}
    there = bool(patterns) and all(lake.input_files(patterns, ds).values())
    return Day(ds, "missing" if there else "none")


def _add_profiles(lake: Lake, days: Iterable[Day]) -> None:
    """Fills in what profiles and drift files say, if there are any (docs/drift.md)."""
    by_run = {day.record.run_id: day for day in days if day.record is not None and day.record.state is State.complete}
    with database.connection(threads=1) as con:
        lake.storage.attach(con)
        for ds, run_id, column, labels, counts, mean in _ask(con, lake, by_run.values(), "profiles", "report/profiles"):
            day = by_run[run_id]
            assert day.ds == ds
            if column == "prediction":
                day.classes, day.whole = dict(zip(labels, counts, strict=True)), True
            else:
                day.confidence = mean
        for run_id, *values in _ask(con, lake, by_run.values(), "performance", "report/performance"):
            by_run[run_id].performance = dict(
                zip(("class", "rows", "auc", "mean_score", "base_rate"), values, strict=True)
            )
        for _, run_id, reference, column, outcome, psi in _ask(con, lake, by_run.values(), "drift", "report/drift"):
            by_run[run_id].drift.setdefault(reference, {})[column] = (outcome, psi)


def _ask(con: Connection, lake: Lake, days: Iterable[Day], kind: store.Kind, query: str) -> list[tuple[Any, ...]]:
    keys = [store.key(kind, day.record) for day in days if day.record is not None]
    with ThreadPoolExecutor(THREADS) as pool:
        paths = [lake.storage.where(file.path) for file in pool.map(lake.storage.head, keys) if file is not None]
    if not paths:
        return []
    with database.explained(lake.storage, paths):
        database.parquet(con, paths).create_view(kind, replace=True)
        return con.sql(queries.load(query)).fetchall()


def signature(facts: Sequence[JobFacts]) -> list[tuple[str, str]]:
    """Returns what tells whether a run has ended since."""
    newest = [day.record for job in facts for day in job.with_runs if day.record]
    return [(record.run_id, record.state.value) for record in newest]
