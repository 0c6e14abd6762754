"""The message about a run, composed from what the lake has of it: the same with and without Airflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Literal

from pipeline.errors import counted
from pipeline.histograms.shares import percentages
from pipeline.job.config import Job
from pipeline.lake.layout import Lake
from pipeline.lake.states import in_words
from pipeline.publish.delivery import Delivery, DeliveryState
from pipeline.quality.verdict import described
from pipeline.records import RunRecord, State
from pipeline.report import facts

Level = Literal["success", "warning", "failure", "stopped"]


@dataclass(frozen=True)
class Message:
    level: Level
    title: str
    lines: tuple[str, ...]
    attachments: tuple[Path, ...] = ()

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def html(self) -> str:
        return "".join(f"<p>{escape(line)}</p>" for line in self.lines)


@dataclass(frozen=True)
class Predictions:
    """What the predictions of a period are like, or of the rows that a run scored where the period is not known."""

    shares: Mapping[str, float] = field(default_factory=dict)
    """Share of each class, or of the rows that have each label, 0 to 1."""
    confidence: float | None = None
    """Mean confidence, 0 to 1, if the model gives one."""
    whole: bool = False
    """Whether they are those of the whole period."""

    @classmethod
    def of(cls, lake: Lake, record: RunRecord) -> Predictions:
        return cls(*facts.predictions_of(lake, record))


def compose(
    lake: Lake,
    job: Job,
    ds: str,
    record: RunRecord | None,
    error: str | None = None,
    *,
    stopped: bool = False,
    report: str | None = None,
    deliveries: Sequence[Delivery] = (),
) -> Message:
    """Returns the message about a day: its run, if one was started, and the error that ended it, if any.

    `stopped` marks bad data as the cause if there is no run record with that state; `deliveries` are those of the run.
    """
    error = error or (record.error if record else None)
    predictions = Predictions.of(lake, record) if record else Predictions()
    odd = unusual(job, record, predictions) if record and not error else []
    level: Level = "warning" if odd else "success"
    if error is not None:
        level = "stopped" if stopped or (record and record.state is State.stopped) else "failure"
    undelivered = error is not None and record is not None and record.state is State.complete and bool(deliveries)
    rows = record.ledger.scored.rows if record and record.ledger else None
    outcome = {
        "success": f"{counted(rows or 0, 'row')} scored",
        "warning": f"{counted(rows or 0, 'row')} scored, but something is unusual",
        "failure": f"{counted(rows or 0, 'row')} scored, but not delivered" if undelivered else "failed",
        "stopped": "stopped because of bad data, nothing was published",
    }[level]
    lines = [
        f"{job.grain.capitalize()}: {ds}",
        *(f"Unusual: {text}" for text in odd),
        *(_about(job, record, predictions) if record else []),
    ]
    lines += [_delivery(each) for each in deliveries]
    if error is not None:
        lines += [f"Error: {error}", *(() if undelivered else ("Readers still see the predictions published before.",))]
    if report is not None:
        lines.append(f"Report: {report}")
    return Message(level, f"{job.name} {ds}: {outcome}", tuple(lines))


def _delivery(delivery: Delivery) -> str:
    rows = f", {counted(delivery.rows, 'row')}" if delivery.state is DeliveryState.delivered else ""
    why = f": {delivery.reason}" if delivery.reason else ""
    return f"Target {delivery.target} ({delivery.kind}): {delivery.state}{rows}{why}"


def skipped(job: Job, ds: str, reason: str) -> Message:
    """Returns the message about a day that the job skips: no failure, and nothing to do."""
    return Message("success", f"{job.name} {ds}: skipped", (f"{job.grain.capitalize()}: {ds}", f"Skipped: {reason}"))


def report_of(lake: Lake, job: Job, record: RunRecord | None) -> str | None:
    """Returns the address of the page of a run, else of the index of the lake, else None."""
    keys = (*((facts.page_of(record),) if record else ()), facts.INDEX)
    return next((facts.place_of(lake, job, key) for key in keys if lake.storage.head(key) is not None), None)


def unusual(job: Job, record: RunRecord, predictions: Predictions) -> list[str]:
    """Returns descriptions of what is unusual about a run without an error, and about the predictions of its period."""
    found, confidence = list(record.warnings), predictions.confidence
    if confidence is not None and confidence < job.notify.confidence_below:
        found.append(f"mean confidence {confidence:.3f}, below {job.notify.confidence_below}")
    for name, share in predictions.shares.items() if confidence is not None else ():
        if share > job.notify.share_above:
            found.append(f"{share:.1%} of the predictions {_of_what(job, predictions)} are {name}")
    found += [f"{check.suite}: {described(check)}" for check in record.checks if check.outcome == "noted"]
    if record.ledger is not None:
        ledger = record.ledger
        candidates = ledger.candidates.rows
        if candidates and not ledger.scored.rows + ledger.unchanged.rows:
            found.append(f"no prediction of {counted(candidates, 'candidate')}")
        if ledger.quarantined.rows:
            found.append(f"{counted(ledger.quarantined.rows, 'row')} in quarantine")
    return found


def _of_what(job: Job, predictions: Predictions) -> str:
    return f"of the {job.grain}" if predictions.whole else "of the rows scored now"


def _about(job: Job, record: RunRecord, predictions: Predictions) -> list[str]:
    lines = [f"Model: {record.model.name} {record.model.version}", f"Run: {record.run_id}, {in_words(record.state)}"]
    if record.ledger is not None:
        lines.append("Rows: " + ", ".join(f"{count:,} {name}" for name, count in record.ledger.counts().items()))
    of = _of_what(job, predictions)
    if shares := ", ".join(f"{name}: {share}" for name, share in percentages(predictions.shares).items()):
        lines.append(f"Predictions {of}: {shares}")
    if record.statistics.range:
        lines.append(f"Predictions of the rows scored now: {record.statistics.range}")
    if predictions.confidence is not None:
        lines.append(f"Mean confidence: {predictions.confidence:.3f}")
    return lines
