"""Writes the pages: the index of the lake, those of runs, and those that compare two models.

reports/index.html                          the lake: what needs attention; calendar, plots, quality, ledger of each job
reports/job=<job>/ds=<ds>/<run_id>.html     one run
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING

from pipeline.compare import tables
from pipeline.errors import UsageError
from pipeline.lake.layout import Lake
from pipeline.records import RunRecord, now
from pipeline.report import attention, facts, lift, plots, quality_pages, run_page
from pipeline.report.facts import ROOT, WINDOW_DAYS
from pipeline.report.rendering import render

if TYPE_CHECKING:
    from pipeline.compare.findings import Comparison
    from pipeline.model.registry import Registry


def write_run(lake: Lake, record: RunRecord, registry: Registry | None = None) -> str:
    """Writes the page of a run, and those of its validations; returns the key of the first."""
    quality_pages.write(lake, record.job, record.ds, record.run_id, followed=True)
    return run_page.write(lake, record, registry)


def write_runs(lake: Lake, job: str, ds: str | None, window: int, registry: Registry | None = None) -> list[str]:
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
    left = [record for record in records if facts.page_of(record) not in there]
    return [write_run(lake, record, registry) for record in reversed(left)][::-1]


def _folder(job: str, ds: str) -> str:
    return f"{ROOT}/job={job}/ds={ds}"


def write_index(lake: Lake, window: int = WINDOW_DAYS, registry: Registry | None = None) -> str:
    """Writes the index, and that of the validations if there are any; returns the key of the first.

    Repeats it if runs have ended meanwhile.
    """
    shown: list[tuple[str, str]] | None = None
    if quality_pages.has_any(lake):
        quality_pages.write_index(lake, window)
    found = [facts.job_facts(lake, job, window) for job in facts.jobs(lake)]
    while shown != (shown := facts.signature(found)):
        lake.storage.write(facts.INDEX, index_page(lake, found, registry).encode())
        found = [facts.job_facts(lake, job, window) for job in facts.jobs(lake)]
    return facts.INDEX


def index_page(lake: Lake, jobs: Sequence[facts.JobFacts], registry: Registry | None = None) -> str:
    return render(
        "index.html",
        lake=str(lake.storage.where("")).rstrip("/").rpartition("/")[2],
        jobs=jobs,
        troubles=attention.of_jobs(lake, jobs, now(), registry),
        meanings=attention.MEANINGS,
        plots={job.name: plots.of_job(job) for job in jobs},
        campaigns={job.name: lift.of_job(lake, job) for job in jobs},
        docs=quality_pages.INDEX if lake.storage.head(quality_pages.INDEX) else None,
        terms=run_page.TERMS,
    )


def write_comparison(lake: Lake, found: Comparison) -> str:
    """Writes the page that compares two model versions and returns its key."""
    key = f"{ROOT}/job={found.job}/compare/{found.first}-{found.second}.html"
    plot = plots.of_scores(found.first, found.second, found.histogram) if found.histogram else None
    lake.storage.write(key, render("compare.html", found=found, plot=plot, tables=tables).encode())
    return key
