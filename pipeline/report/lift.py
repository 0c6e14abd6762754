"""What campaigns have changed: outcomes of those who were sent an export, beside those of its control group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.database import sql_files
from pipeline.database.connection import connect, translated_errors
from pipeline.lake.layout import Lake
from pipeline.query import views
from pipeline.report.facts import JobFacts

MOST_PERIODS = 31
"""Number of periods that are read: the latest ones with labels."""


@dataclass(frozen=True)
class Lift:
    """The labelled keys of one export and its control group; rates are from 0 to 1."""

    targets: tuple[str, ...]
    """Exports of the same people in several formats have one lift."""
    campaign: str
    ds: str
    sent: int
    sent_rate: float | None
    held_out: int
    held_out_rate: float | None
    lift: float | None
    """`sent_rate - held_out_rate`."""
    margin_95: float | None
    """Half of the width of the 95% confidence interval of the lift."""

    @property
    def significant(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return self.lift is not None and self.margin_95 is not None and abs(self.lift) > self.margin_95


@dataclass(frozen=True)
class Campaigns:
    outcome: str
    """The label that is counted: the class whose score is that of the model."""
    lifts: tuple[Lift, ...]
    """Newest period first."""


def of_job(lake: Lake, job: JobFacts) -> Campaigns | None:
    """Returns the lifts of the exports in the window that have a control group and labels; None if there are none."""
    labelled = {day.ds: day.performance["class"] for day in job.with_runs if day.performance.get("class")}
    exported = {folder.removeprefix("ds=") for folder in lake.storage.folders(f"exports/job={job.name}")}
    days = sorted(labelled.keys() & exported)[-MOST_PERIODS:]
    if not days:
        return None
    outcome = str(labelled[days[-1]])
    with connect(threads=1) as con, translated_errors(lake.storage):
        lake.storage.attach(con)
        views.create(con, lake, ("exports", "labels"), only={job.name: days})
        wanted = {"outcome": outcome, "target": None, "job": job.name}
        rows = con.sql(sql_files.load("query/named/campaign_lift"), params=wanted).fetchall()
    targets: dict[tuple[Any, ...], list[str]] = {}
    for _, target, *figures in rows:
        targets.setdefault(tuple(figures), []).append(target)
    lifts = sorted((Lift(tuple(names), *of) for of, names in targets.items()), key=lambda each: each.ds, reverse=True)
    return Campaigns(outcome, tuple(lifts)) if lifts else None
