"""What people are told about a run: made from its record alone, the same under Airflow and without."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Literal

from pipeline.job import Job
from pipeline.lake import Lake
from pipeline.quality.verdict import described
from pipeline.records import RunRecord, State
from pipeline.report import facts

Level = Literal["success", "warning", "failure", "stopped"]


@dataclass(frozen=True)
class Message:
    level: Level
    title: str
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def html(self) -> str:
        return "".join(f"<p>{escape(line)}</p>" for line in self.lines)


def compose(
    job: Job,
    ds: str,
    record: RunRecord | None,
    error: str | None = None,
    *,
    stopped: bool = False,
    report: str | None = None,
) -> Message:
    """Returns the message about a day: its run, if one was begun, and the error that ended it, if one did.

    `stopped` says that bad data was the reason, where there is no record that says it.
    """
    error = error or (record.error if record else None)
    odd = unusual(job, record) if record and not error else []
    level: Level = "warning" if odd else "success"
    if error is not None:
        level = "stopped" if stopped or (record and record.state is State.stopped) else "failure"
    rows = record.ledger.scored.rows if record and record.ledger else None
    outcome = {
        "success": f"{rows or 0:,} rows scored",
        "warning": f"{rows or 0:,} rows scored, but something is unusual",
        "failure": "failed",
        "stopped": "stopped because of bad data, nothing was published",
    }[level]
    lines = [f"Day: {ds}", *(f"Unusual: {text}" for text in odd), *(_about(record) if record else [])]
    if error is not None:
        lines += [f"Error: {error}", "Readers still see what was published before."]
    if report is not None:
        lines.append(f"Report: {report}")
    return Message(level, f"{job.name} {ds}: {outcome}", tuple(lines))


def report_of(lake: Lake, record: RunRecord | None) -> str | None:
    """Returns where the page of a run is, or else the index of the lake, if there is one."""
    keys = (*((facts.page_of(record),) if record else ()), facts.INDEX)
    return next((lake.storage.where(key) for key in keys if lake.storage.head(key) is not None), None)


def unusual(job: Job, record: RunRecord) -> list[str]:
    """Returns what a person should look at, although the run is complete."""
    found, statistics = list(record.warnings), record.statistics
    confidence = statistics.mean_confidence
    if confidence is not None and confidence < job.notify.confidence_below:
        found.append(f"mean confidence {confidence:.3f}, under {job.notify.confidence_below}")
    for name, share in statistics.shares.items() if confidence is not None else ():
        if share > job.notify.share_above:
            found.append(f"{share:.1%} of the predictions are {name}")
    found += [f"{check.suite}: {described(check)}" for check in record.checks if check.outcome == "noted"]
    if record.ledger is not None:
        ledger = record.ledger
        if ledger.candidates.rows and not ledger.scored.rows + ledger.unchanged.rows:
            found.append(f"no prediction, although there were {ledger.candidates.rows:,} candidates")
        if ledger.quarantined.rows:
            found.append(f"{ledger.quarantined.rows:,} rows are in quarantine")
    return found


def _about(record: RunRecord) -> list[str]:
    lines = [f"Model: {record.model.name} {record.model.version}", f"Run: {record.run_id}, {record.state}"]
    if record.ledger is not None:
        lines.append("Rows: " + ", ".join(f"{count:,} {name}" for name, count in record.ledger.counts().items()))
    if shares := ", ".join(f"{name}: {share:.1%}" for name, share in record.statistics.shares.items()):
        lines.append(f"Predictions: {shares}")
    if record.statistics.range:
        lines.append(f"Predictions: {record.statistics.range}")
    if record.statistics.mean_confidence is not None:
        lines.append(f"Mean confidence: {record.statistics.mean_confidence:.3f}")
    return lines
