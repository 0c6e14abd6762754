"""The pages of validations, made from the history that `quality/history.py` writes, and an index of the newest ones.

    quality/docs/index.html                                 validations of a window of days, newest first
    quality/docs/job=<job>/ds=<ds>/<run_id>-<suite>.html    one validation: failed checks first, limits beside results

Runs share only the index, and each rebuilds it from the history, so concurrent runs lose nothing.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

from pipeline.database import sql_files
from pipeline.database.connection import connect, read_parquet, translated_errors
from pipeline.errors import LakeDamaged
from pipeline.quality import history
from pipeline.records import CheckResult, Severity
from pipeline.report import facts
from pipeline.report.rendering import render
from pipeline.storage.parquet import from_bytes

if TYPE_CHECKING:
    from pipeline.lake.layout import Lake

ROOT = "quality/docs"
INDEX = f"{ROOT}/index.html"
SUITES = ("model", "input", "output")
MOST = 200
"""Largest number of validations on the index."""
MOST_CHECKS = 500
"""Largest number of checks on a page, the failed ones first."""
MOST_JOBS = 20
"""Largest number of jobs by which the index can be filtered."""
EARLIER = 10
"""Number of earlier days whose outcome a page shows beside each check."""
OURS = b'<meta name="generator" content="Lakescore">'
"""In each of our pages, and in none that a version of Lakescore before this one let Great Expectations render."""
ORDER = ("stopped", "quarantined", "noted", "off", "passed")
"""The outcomes of a check, worst first."""
WORDS = {"stopped": "stopped", "quarantined": "warnings", "noted": "warnings", "off": "passed", "passed": "passed"}
"""The result of a validation by the worst outcome of its checks."""


@dataclass(frozen=True)
class Validation:
    """One validation of the index."""

    job: str
    ds: str
    suite: str
    run_id: str
    at: datetime
    passed: int
    total: int
    failed: list[dict[str, str]]
    """`outcome`, `severity` and `name` of the checks that did not pass, worst first."""

    @property
    def page(self) -> str:
        return page_of(self.job, self.ds, self.run_id, self.suite)

    @property
    def link(self) -> str:
        """Path of the page, relative to the index."""
        return posixpath.relpath(self.page, ROOT)

    @property
    def result(self) -> str:
        return result(each["outcome"] for each in self.failed)


def page_of(job: str, ds: str, run_id: str, suite: str) -> str:
    return f"{ROOT}/job={job}/ds={ds}/{run_id}-{suite}.html"


def result(outcomes: Iterable[str]) -> str:
    """Returns `stopped`, `warnings` or `passed`."""
    return WORDS[min(outcomes, key=ORDER.index, default="passed")]


def worst_first(checks: Iterable[CheckResult]) -> list[CheckResult]:
    """Returns the checks by outcome and severity; rules of a suite come before built-in checks."""
    severities = list(Severity)
    built_in = ("built-in", "guard")
    return sorted(
        checks,
        key=lambda each: (ORDER.index(each.outcome), severities.index(each.severity), each.expectation in built_in),
    )


def write(lake: Lake, job: str, ds: str, run_id: str, *, followed: bool = False) -> None:
    """Writes a page for each suite of a run in the history. `followed` says that the run's own page is to follow."""
    results = {suite: rows for suite in SUITES if (rows := _results(lake, history.key(job, ds, run_id, suite)))}
    pages = {suite: page_of(job, ds, run_id, suite) for suite in results}
    of_run = {"lake": facts.INDEX, "run": f"{facts.ROOT}/job={job}/ds={ds}/{run_id}.html"}
    of_run = {name: path for name, path in of_run.items() if followed or lake.storage.head(path) is not None}
    links = _relative(f"{ROOT}/job={job}/ds={ds}", {**of_run, **pages, "validations": INDEX})
    earlier = _earlier(lake, job, ds) if results else {}
    for suite, rows in results.items():
        checks = worst_first(CheckResult.model_validate(row) for row in rows)
        page = render(
            "validation.html",
            job=job,
            ds=ds,
            run_id=run_id,
            suite=suite,
            at=rows[0]["validated_at"],
            model=rows[0]["model_version"],
            checks=checks,
            result=result(check.outcome for check in checks),
            examples=_examples(rows),
            earlier=earlier,
            links={name: path for name, path in links.items() if name != suite},
            order=ORDER,
            most=MOST_CHECKS,
        )
        lake.storage.write(pages[suite], page.encode())


def examples(lake: Lake, job: str, ds: str, run_id: str, suite: str) -> dict[str, list[str]]:
    """Returns examples of values that break a check, by its name; only jobs that allow samples have any."""
    return _examples(_results(lake, history.key(job, ds, run_id, suite)))


def _examples(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    return {row["name"]: row["examples"] for row in rows if row.get("examples")}


def write_missing(lake: Lake, window: int = facts.WINDOW_DAYS) -> str:
    """Writes the pages that are missing in a window, or were made by Great Expectations, and the index."""
    for each in _validations(lake, _newest(lake, window)):
        content = lake.storage.read(each.page)
        if content is None or OURS not in content:
            write(lake, each.job, each.ds, each.run_id)
    return write_index(lake, window)


def has_any(lake: Lake) -> bool:
    """Tells whether anything was ever validated."""
    return any(folder.startswith("job=") for folder in lake.storage.folders("quality"))


def write_index(lake: Lake, window: int = facts.WINDOW_DAYS) -> str:
    """Rebuilds the index from the history of the newest days; returns its key."""
    shown: list[str] | None = None
    while shown != (found := _newest(lake, window)):  # another run may have added one since
        validations = _validations(lake, found)
        with ThreadPoolExecutor(facts.THREADS) as pool:
            there = list(pool.map(lambda each: lake.storage.head(each.page) is not None, validations))
        links = _relative(ROOT, {"lake": facts.INDEX}) if lake.storage.head(facts.INDEX) else {}
        rows = list(zip(validations, there, strict=True))
        page = render("validations.html", rows=rows, validations=validations, links=links, most_jobs=MOST_JOBS)
        lake.storage.write(INDEX, page.encode())
        shown = found
    return INDEX


def _results(lake: Lake, key: str) -> list[dict[str, Any]]:
    """Returns the rows of a validation in the history; none if it is not there. Raises LakeDamaged."""
    import pyarrow as pa

    content = lake.storage.read(key)
    try:
        return [] if content is None else from_bytes(content).to_pylist()
    except pa.ArrowInvalid as error:
        raise LakeDamaged("a validation cannot be read", where=lake.storage.where(key), got=str(error)) from None


def _relative(folder: str, pages: Mapping[str, str]) -> dict[str, str]:
    return {name: posixpath.relpath(path, folder) for name, path in pages.items()}


def _earlier(lake: Lake, job: str, ds: str) -> dict[str, list[tuple[str, str]]]:
    """Returns, by `<suite>:<check>`, its outcome on each of the days before, oldest first: of the last such run."""
    found: dict[str, list[tuple[str, str]]] = {}
    days = [day for day in reversed(lake.records.days(job)) if day < ds]
    for day in reversed(days[:EARLIER]):
        of_day: dict[str, str] = {}
        for record in islice(lake.records.iter_day(job, day), facts.MOST_RUNS):
            of_day = {f"{check.suite}:{check.name}": check.outcome for check in record.checks} | of_day
        for name, outcome in of_day.items():
            found.setdefault(name, []).append((day, outcome))
    return found


def _newest(lake: Lake, window: int) -> list[str]:
    """Returns the files of the history of the newest days of each job, newest validation first."""
    folders = [
        f"quality/{job}/{day}"
        for job in lake.storage.folders("quality")
        if job.startswith("job=")
        for day in lake.storage.folders(f"quality/{job}")[-window:]
    ]
    with ThreadPoolExecutor(facts.THREADS) as pool:
        found = [file.path for files in pool.map(lake.storage.files, folders) for file in files]
    own = [path for path in found if path.endswith(".parquet")]
    return sorted(own, key=lambda path: path.rpartition("/")[2], reverse=True)[:MOST]


def _validations(lake: Lake, files: Sequence[str]) -> list[Validation]:
    if not files:
        return []
    paths = [lake.storage.where(path) for path in files]
    with connect(threads=1) as con, translated_errors(lake.storage, paths):
        lake.storage.attach(con)
        read_parquet(con, paths, folders=("job", "ds"), filename="path").create_view("quality")
        rows = con.sql(sql_files.load("report/validations")).fetchall()
    found = [Validation(*(*row[:-1], row[-1] or [])) for row in rows]
    for each in found:
        each.failed.sort(key=lambda check: ORDER.index(check["outcome"]))
    return found
