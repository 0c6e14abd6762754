"""Renders the pages. Jinja escapes every value; no page has a script, or asks for anything from anywhere.

reports/index.html                          the lake: calendar, plots, quality, ledger of each job
reports/job=<job>/ds=<ds>/<run_id>.html     one run
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pipeline import database, queries
from pipeline.drift import store
from pipeline.errors import UsageError
from pipeline.lake import Lake
from pipeline.quality.pages import ROOT as DOCS
from pipeline.quality.verdict import described
from pipeline.records import Ledger, RunRecord, now
from pipeline.report import facts, plots
from pipeline.report.facts import ROOT, WINDOW_DAYS, Day

if TYPE_CHECKING:
    from jinja2 import Environment

    from pipeline.compare.findings import Comparison

TONES = {
    "good": ("complete", "passed", "ok", "balanced"),
    "note": ("noted", "quarantined", "warning", "superseded", "overtaken", "planned", "scored"),
    "bad": ("failed", "stopped", "critical", "missing", "not balanced"),
}
MARKS = {"complete": "✓", "failed": "✕", "stopped": "!", "missing": "?", "rolled_back": "↶", "none": "·"}
ORDER = ("stopped", "quarantined", "noted", "off", "passed")
TERMS = tuple(Ledger.model_fields)


def write_run(lake: Lake, record: RunRecord) -> str:
    """Writes the page of a run; returns its key."""
    key = facts.page_of(record)
    lake.storage.write(key, run_page(lake, record).encode())
    return key


def write_runs(lake: Lake, job: str, ds: str | None, window: int) -> list[str]:
    """Writes the pages of a day's runs anew, or of the newest `window` days those that are absent; the newest first.

    Raises UsageError if the day has no run.
    """
    days = [ds] if ds is not None else sorted(lake.run_days(job), reverse=True)[:window]
    there = set() if ds is not None else {file.path for day in days for file in lake.storage.files(_folder(job, day))}
    records = [record for day in days for record in islice(lake.iter_records(job, day), facts.MOST_RUNS)]
    if ds is not None and not records:
        raise UsageError(f"{job} has no run of {ds}", next_step="lakescore status")
    return [write_run(lake, record) for record in records if facts.page_of(record) not in there]


def _folder(job: str, ds: str) -> str:
    return f"{ROOT}/job={job}/ds={ds}"


def write_index(lake: Lake, window: int = WINDOW_DAYS) -> str:
    """Writes the index, again if runs have ended meanwhile; returns its key."""
    shown: list[tuple[str, str]] | None = None
    found = [facts.job_facts(lake, job, window) for job in facts.jobs(lake)]
    while shown != (shown := facts.signature(found)):
        lake.storage.write(facts.INDEX, index_page(lake, found).encode())
        found = [facts.job_facts(lake, job, window) for job in facts.jobs(lake)]
    return facts.INDEX


def index_page(lake: Lake, jobs: Sequence[facts.JobFacts]) -> str:
    docs = f"{DOCS}/index.html"
    return render(
        "index.html",
        lake=str(lake.storage.where("")).rstrip("/").rpartition("/")[2],
        jobs=jobs,
        plots={job.name: plots.of_job(job) for job in jobs},
        docs=docs if lake.storage.head(docs) else None,
        terms=TERMS,
    )


def run_page(lake: Lake, record: RunRecord) -> str:
    profile = _rows(lake, store.key("profiles", record))
    classes = next((row for row in profile if row["kind"] == "class"), None)
    of_run = record.statistics.classes
    return render(
        "run.html",
        run=record,
        counts=record.ledger.counts() if record.ledger else {},
        terms=TERMS,
        whole=classes is not None,
        classes=dict(zip(classes["labels"], classes["counts"], strict=True)) if classes else of_run,
        checks=sorted(record.checks, key=lambda check: ORDER.index(check.outcome)),
        reasons=_reasons(lake, record),
        drift=sorted(_rows(lake, store.key("drift", record)), key=lambda row: (row["reference"], -(row["psi"] or 0))),
        profile=[_profiled(row) for row in profile if row["kind"] != "class"],
        stages=[
            (
                *(each.stage, round(each.wall_s, 3), round(each.cpu_s, 3), each.rows, each.rows_per_s),
                *(each.bytes_read, each.bytes_written, shares(each.busy)),
            )
            for each in record.stages
        ],
        engine=next((each.engine for each in record.stages if each.engine), None),
        files=[("read", file.path, file.size) for given in record.plan.input.values() for file in given]
        + [("published", file.path, file.size) for file in record.committed],
        docs=[(side, path) for side in ("input", "output") if lake.storage.head(path := _docs(record, side))],
    )


def write_comparison(lake: Lake, found: Comparison) -> str:
    """Writes the page of a comparison of two model versions; returns its key."""
    key = f"{ROOT}/job={found.job}/compare/{found.first}-{found.second}.html"
    plot = plots.of_scores(found.first, found.second, found.histogram)
    lake.storage.write(key, render("compare.html", found=found, plot=plot).encode())
    return key


def _docs(record: RunRecord, side: str) -> str:
    return f"{DOCS}/job={record.job}/ds={record.ds}/{record.run_id}-{side}.html"


def _rows(lake: Lake, key: str) -> list[dict[str, Any]]:
    """Returns the rows of a profile or drift file over the whole day; of an absent one, none."""
    import pyarrow.parquet as pq

    content = lake.storage.read(key)
    if content is None:
        return []
    rows: list[dict[str, Any]] = pq.read_table(io.BytesIO(content), partitioning=None).to_pylist()
    return [row for row in rows if not row["slice_column"]]


def _profiled(row: dict[str, Any]) -> tuple[Any, ...]:
    missing = (row["nulls"] + row["nans"]) / row["rows"] if row["rows"] else 0.0
    quantiles = row["quantiles"] or [None] * 7
    return (
        row["column_name"], row["kind"], row["rows"], percent(missing), row["mean"], row["deviation"],
        quantiles[1], quantiles[3], quantiles[5],
    )  # fmt: skip


def _reasons(lake: Lake, record: RunRecord) -> list[tuple[Any, ...]]:
    """Counts the reasons in the quarantine file that this run has written."""
    key = f"quarantine/job={record.job}/ds={record.ds}/{record.run_id}.parquet"
    if lake.storage.head(key) is None:
        return []
    with database.connection(threads=1) as con, database.explained(key):
        lake.storage.attach(con)
        database.parquet(con, [lake.storage.where(key)]).create_view("rejected")
        return con.sql(queries.load("quality/reasons")).fetchall()


# Jinja


def render(template: str, **values: Any) -> str:
    return _environment().get_template(template).render(**values, made_at=now())


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("pipeline.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "described": described,
        "found": lambda check: described(check).removeprefix(check.name).removeprefix(" found").strip(),
        "mark": lambda state: MARKS.get(state, "•"),
        "months": _months,
        "percent": percent,
        "shown": shown,
        "tone": tone,
        "urlpath": lambda path: quote(path, safe="/="),
        "utc": lambda time: f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC",
    }
    return made


def tone(state: str) -> str:
    return next((name for name, states in TONES.items() if state in states), "none")


def shown(value: object) -> str:
    """Returns a value as a person reads it."""
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, int | float | datetime):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:%Y-%m-%d %H:%M:%S}"


def shares(busy: Mapping[str, float]) -> str | None:
    """Returns where the time of a stage's workers went."""
    return ", ".join(f"{part} {share:.0%}" for part, share in busy.items()) or None


def percent(share: float) -> str:
    return f"{share:.1%}" if share == 0 or share >= 0.001 else "under 0.1%"


def _months(days: Iterable[Day]) -> Iterator[tuple[str, list[Day | None]]]:
    """Yields each month with its 31 places."""
    months: dict[str, list[Day | None]] = {}
    for day in days:
        months.setdefault(day.ds[:7], [None] * 31)[int(day.ds[8:]) - 1] = day
    yield from months.items()
