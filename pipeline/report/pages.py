"""The index of the lake and the pages of runs.

reports/index.html                          the lake: calendar, plots, quality, ledger of each job
reports/job=<job>/ds=<ds>/<run_id>.html     one run
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from pipeline.errors import UsageError
from pipeline.lake.layout import Lake
from pipeline.profiles import store
from pipeline.publish.delivery import DeliveryStore
from pipeline.quality import rejections
from pipeline.records import Ledger, RunRecord
from pipeline.report import facts, lift, plots, quality_pages
from pipeline.report.facts import ROOT, WINDOW_DAYS
from pipeline.report.rendering import percent, render, shares

if TYPE_CHECKING:
    from pipeline.compare.findings import Comparison

TERMS = tuple(Ledger.model_fields)


def write_run(lake: Lake, record: RunRecord) -> str:
    """Writes the page of a run, and those of its validations; returns the key of the first."""
    key = facts.page_of(record)
    quality_pages.write(lake, record.job, record.ds, record.run_id, followed=True)
    lake.storage.write(key, run_page(lake, record).encode())
    return key


def write_runs(lake: Lake, job: str, ds: str | None, window: int) -> list[str]:
    """Rewrites the pages of the runs of day `ds`; without `ds`, writes those missing from the newest `window` days.

    Returns the keys written, newest first. Raises UsageError if day `ds` has no run.
    """
    days = [ds] if ds is not None else sorted(lake.records.days(job), reverse=True)[:window]
    there = set() if ds is not None else {file.path for day in days for file in lake.storage.files(_folder(job, day))}
    records = [record for day in days for record in islice(lake.records.iter_day(job, day), facts.MOST_RUNS)]
    if ds is not None and not records:
        raise UsageError(
            f"{job} has no run for {ds}",
            next_step=f"lakescore run --job {job} --date {ds}; lakescore status --job {job} shows the days",
        )
    return [write_run(lake, record) for record in records if facts.page_of(record) not in there]


def _folder(job: str, ds: str) -> str:
    return f"{ROOT}/job={job}/ds={ds}"


def write_index(lake: Lake, window: int = WINDOW_DAYS) -> str:
    """Writes the index, and that of the validations if there are any; returns the key of the first.

    Repeats it if runs have ended meanwhile.
    """
    shown: list[tuple[str, str]] | None = None
    if quality_pages.has_any(lake):
        quality_pages.write_index(lake, window)
    found = [facts.job_facts(lake, job, window) for job in facts.jobs(lake)]
    while shown != (shown := facts.signature(found)):
        lake.storage.write(facts.INDEX, index_page(lake, found).encode())
        found = [facts.job_facts(lake, job, window) for job in facts.jobs(lake)]
    return facts.INDEX


def index_page(lake: Lake, jobs: Sequence[facts.JobFacts]) -> str:
    return render(
        "index.html",
        lake=str(lake.storage.where("")).rstrip("/").rpartition("/")[2],
        jobs=jobs,
        plots={job.name: plots.of_job(job) for job in jobs},
        campaigns={job.name: lift.of_job(lake, job) for job in jobs},
        docs=quality_pages.INDEX if lake.storage.head(quality_pages.INDEX) else None,
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
        checks=quality_pages.worst_first(record.checks),
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
        deliveries=[
            (
                *(each.target, each.kind, each.state.value, each.rows, each.delivered_at),
                *(each.place or None, each.reason),
            )
            for each in DeliveryStore(lake).of_run(record)
        ],
        files=[("read", file.path, file.size) for given in record.plan.input.values() for file in given]
        + [("published", file.path, file.size) for file in record.committed],
        docs=[(suite, path) for suite in quality_pages.SUITES if lake.storage.head(path := _docs(record, suite))],
    )


def write_comparison(lake: Lake, found: Comparison) -> str:
    """Writes the page that compares two model versions and returns its key."""
    key = f"{ROOT}/job={found.job}/compare/{found.first}-{found.second}.html"
    plot = plots.of_scores(found.first, found.second, found.histogram)
    lake.storage.write(key, render("compare.html", found=found, plot=plot).encode())
    return key


def _docs(record: RunRecord, suite: str) -> str:
    return quality_pages.page_of(record.job, record.ds, record.run_id, suite)


def _rows(lake: Lake, key: str) -> list[dict[str, Any]]:
    """Returns the rows of a profile or drift file that cover the whole day, without slices; empty if it is missing."""
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


def _reasons(lake: Lake, record: RunRecord) -> list[tuple[str, int, str | None]]:
    """Returns reason, number of rows and a few keys of the rows in quarantine, or that a stopped run would put there.

    Keys may be personal data: they are only named if the job allows samples.
    """
    samples = record.job_config.get("quality", {}).get("samples", False)
    found = rejections.of_run(lake, record)
    return [(each.reason, each.rows, ", ".join(each.keys) if samples else None) for each in found]
