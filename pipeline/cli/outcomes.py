"""Prints what a run has done: for people in full or on one line, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from pipeline.cli.next_steps import completed
from pipeline.cli.output import bytes_text, console, table
from pipeline.cli.quality import show_checks
from pipeline.context import Context
from pipeline.errors import QualityStop, counted
from pipeline.flow.day import Outcome
from pipeline.histograms.shares import percentages
from pipeline.lake.states import in_words
from pipeline.quality import rejections
from pipeline.records import RunRecord, State
from pipeline.report import facts

if TYPE_CHECKING:
    from pipeline.quality.rejections import Reason

WORTH_A_SPEED = 1000
"""Number of scored rows from which on their number per second says something."""
MOST_WARNINGS = 5
"""Number of warnings of a run that are printed."""


def state_of(outcome: Outcome) -> str:
    """Returns the state in which a day was left: that of its run, `up to date`, `skipped`, `stopped` or `failed`."""
    if outcome.error is not None:
        return State.stopped.value if isinstance(outcome.error, QualityStop) else State.failed.value
    if outcome.up_to_date:
        return "up to date"
    return "skipped" if outcome.record is None else outcome.record.state.value


def as_dict(ctx: Context, outcome: Outcome) -> dict[str, Any]:
    record = outcome.record
    return {
        "ds": outcome.ds,
        "state": state_of(outcome),
        "skipped": outcome.skipped,
        "run_id": record.run_id if record else None,
        "ledger": record.ledger.counts() if record and record.ledger else None,
        "carried_left": record.carried_left if record else None,
        "withdrawn": record.withdrawn if record else None,
        "marked": record.marked.rows if record else None,
        "checks": [check.model_dump(mode="json") for check in record.checks] if record else [],
        "statistics": record.statistics.model_dump() if record else None,
        "drift": drift_of(ctx, record) if record else {},
        "stages": [stage.model_dump() for stage in record.stages] if record and not outcome.up_to_date else [],
        "peak_memory_bytes": record.peak_memory_bytes if record and not outcome.up_to_date else None,
        "page": page_of(ctx, record) if record else None,
        "warnings": list(record.warnings) if record else [],
        "error": outcome.error.as_dict() if outcome.error else None,
    }


def line(ctx: Context, outcome: Outcome) -> str:
    """Returns the line of a backfill for one day."""
    state, record = state_of(outcome), outcome.record
    colour = {"failed": "red", "stopped": "red", "complete": "green"}.get(state, "dim")
    text = f"{outcome.ds}  [{colour}]{in_words(state):<10}[/]"
    if outcome.error is not None:
        return f"{text}  {escape(outcome.error.what)}"
    if outcome.skipped:
        return f"{text}  {outcome.skipped}"
    if outcome.up_to_date or record is None or record.ledger is None:
        return text
    return f"{text}  {counted(record.ledger.candidates.rows, 'row')}: " + ", ".join(_parts(ctx, record))


def _parts(ctx: Context, record: RunRecord) -> Iterator[str]:
    """Yields what is worth knowing of a run, in a few words each."""
    counts = record.ledger.counts() if record.ledger else {}
    yield f"{counts.get('scored', 0):,} scored"
    yield from (f"{counts[name]:,} {name}" for name in ("quarantined", "duplicates", "overtaken") if counts.get(name))
    if record.withdrawn:
        yield f"{record.withdrawn:,} withdrawn"
    if record.carried_left:
        yield f"{record.carried_left:,} with other carried values"
    for level, columns in drift_of(ctx, record).items():
        yield f"[{LEVELS[level]}]drift {level}: {escape(', '.join(columns))}[/]"
    if others := len(not_drift(record)):
        yield f"[yellow]{counted(others, 'warning')}[/]"


LEVELS = {"critical": "red", "warning": "yellow"}
"""Colours of the levels of drift, the worse one first."""


def drift_of(ctx: Context, record: RunRecord) -> dict[str, list[str]]:
    """Returns the columns of a complete run that have drifted, by level, the worse one first."""
    if record.state is not State.complete or not ctx.job.drift.enabled or not drift_warnings(record):
        return {}
    from pipeline.drift.stage import alarmed

    found = alarmed(ctx, record)
    return {level: found[level] for level in LEVELS if found[level]}


def drift_warnings(record: RunRecord) -> list[str]:
    from pipeline.drift.stage import ALARM

    return [text for text in record.warnings if ALARM.search(text)]


def not_drift(record: RunRecord) -> list[str]:
    """Returns the warnings of a run beside those of drifted columns."""
    drifted = drift_warnings(record)
    return [text for text in record.warnings if text not in drifted]


def page_of(ctx: Context, record: RunRecord) -> str | None:
    """Returns where the page of a run is; None if there is none."""
    key = facts.page_of(record)
    return facts.place_of(ctx.lake, ctx.job, key) if ctx.lake.storage.head(key) is not None else None


def show_reasons(reasons: Sequence[Reason]) -> None:
    """Prints why rows are in quarantine, with a few of their keys."""
    if reasons:
        table(
            ("quarantined because", "rows", "keys, for example"),
            [(each.reason, each.rows, " ".join(each.keys)) for each in reasons],
        )


def show_outcome(ctx: Context, outcome: Outcome) -> None:
    """Prints the result of a run: ledger, quarantine, checks, predictions, time and memory, drift, and its page."""
    out = console()
    record = outcome.record
    if record is None or record.ledger is None:
        out.print(f"{outcome.ds}: skipped, {outcome.skipped}", markup=False)
        return
    if outcome.up_to_date:
        candidates = record.ledger.candidates.rows
        out.print(f"{outcome.ds}: up to date, {counted(candidates, 'row')} (run {record.run_id}); no data was read")
        return
    out.print(
        f"[bold]{record.job}[/] {record.ds}, model {record.model.name} {record.model.version}, run {record.run_id}"
    )
    ledger = record.ledger.counts()
    rows = [
        (name, count, "") for name, count in ledger.items() if count or name in ("candidates", "scored", "unchanged")
    ]
    rows[1] = ("scored", ledger["scored"], reasons_text(record.statistics.reasons))
    table(("", "rows", ""), rows)
    if record.renews:
        out.print(f"the results of run {record.renews} are current again; no data was read")
    marks = record.job_config.get("policy", {}).get("withdrawn") == "mark"
    for line in changes(record.carried_left, record.withdrawn, record.marked.rows, marks=marks):
        out.print(line)
    if record.ledger.quarantined.rows:
        show_reasons(rejections.of_run(ctx.lake, record))
    show_checks(record.checks)
    _show_statistics(record)
    _show_warnings(record)
    for level, columns in drift_of(ctx, record).items():
        out.print(f"[{LEVELS[level]}]drift {level}[/]: {escape(', '.join(columns))}")
    if drift_warnings(record):
        out.print(completed(f"details: lakescore drift --job {record.job} --date {record.ds}"), markup=False)
    if (page := page_of(ctx, record)) is not None:
        out.print(f"page: {page}", markup=False)


def _show_warnings(record: RunRecord) -> None:
    """Prints what did not stop the run, beside drift. The run's page has all of it."""
    found = not_drift(record)
    for text in found[:MOST_WARNINGS]:
        console().print(f"[yellow]warning[/]: {escape(text)}")
    if (more := len(found) - MOST_WARNINGS) > 0:
        console().print(f"and {counted(more, 'more warning')}: lakescore report shows all")


def changes(carried_left: int, withdrawn: int, marked: int, *, marks: bool) -> Iterator[str]:
    """Yields what became of rows of which only carried values changed, and of predictions without an input row."""
    if carried_left:
        rows, have = counted(carried_left, "unchanged row"), "has" if carried_left == 1 else "have"
        yield f"{rows} {have} other carried values now; the stored ones are kept"
    if withdrawn:
        fate = f"the job marks such rows, {marked:,} of them now" if marks else "their predictions are kept"
        rows, are = counted(withdrawn, "predicted row"), "is" if withdrawn == 1 else "are"
        yield f"{rows} {are} no longer in the input; {fate}"


def _show_statistics(record: RunRecord) -> None:
    out = console()
    shares = ", ".join(f"{name}: {share}" for name, share in percentages(record.statistics.shares).items())
    if shares and record.statistics.mean_confidence is not None:
        out.print(f"predictions {shares}; mean confidence {record.statistics.mean_confidence:.3f}", markup=False)
    elif shares:
        out.print(f"labels {shares}", markup=False)
    if record.statistics.range:
        out.print(record.statistics.range)
    total, scoring = (
        sum(each.wall_s for each in record.stages),
        next((each for each in record.stages if each.stage == "score" and each.rows), None),
    )
    speed = f", scoring {scoring.wall_s:.1f} s" if scoring else ""
    if scoring and scoring.rows >= WORTH_A_SPEED:
        speed += f" at {scoring.rows_per_s:,.0f} rows/s"
    out.print(f"took {total:.1f} s{speed}; peak memory {bytes_text(record.peak_memory_bytes)}")


def reasons_text(reasons: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in reasons.items() if count)


def scored_rows(outcome: Outcome) -> int:
    """Returns how many rows the run of a day has scored now."""
    if outcome.up_to_date or outcome.record is None or outcome.record.ledger is None:
        return 0
    return outcome.record.ledger.scored.rows
