"""Prints the calendar of a job: one line per month, one mark per day; then the days that need attention."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from rich.text import Text

from pipeline.cli.output import console, table
from pipeline.errors import counted
from pipeline.flow.status import PartitionStatus
from pipeline.job.config import Job
from pipeline.lake.states import PeriodState, in_words
from pipeline.records import ModelRef

MARKS = {
    PeriodState.complete: ("■", "#", "green"),
    PeriodState.partial: ("◧", "p", "yellow"),
    PeriodState.stale: ("▲", "s", "magenta"),
    PeriodState.stopped: ("▼", "!", "red"),
    PeriodState.failed: ("◆", "f", "red"),
    PeriodState.unfinished: ("…", "u", "yellow"),
    PeriodState.rolled_back: ("↶", "r", "yellow"),
    PeriodState.missing: ("□", "m", "red"),
    PeriodState.gone: ("✕", "x", "dim"),
    PeriodState.skipped: ("○", "o", "dim"),
}
"""Mark, ASCII mark for terminals without Unicode, and colour of each state."""
LISTED = 31
"""Maximum number of days shown in detail: all days if there are no more, else the newest incomplete ones."""


def show(job: Job, model: ModelRef | None, days: Sequence[PartitionStatus]) -> None:
    out = console()
    named = f"model {model.name} {model.version}" if model else "model not registered"
    if not days:
        out.print(f"{job.name}, {named}: no {job.grain} has input or predictions", markup=False)
        return
    out.print(f"[bold]{job.name}[/], {named}: {counted(len(days), str(job.grain))}, {days[0].ds} to {days[-1].ds}\n")
    rows: dict[str, dict[int, PeriodState]] = defaultdict(dict)
    for day in days:
        row, column = job.period(day.ds).place
        rows[row][column] = day.state
    columns = job.grain.columns
    ruler = "".join(f"{heading:<10}" for heading in (columns[0], *columns[10 - int(columns[0]) :: 10]))
    out.print(" " * (len(next(iter(rows))) + 2) + ruler.rstrip(), style="dim")
    for row, states in rows.items():
        marks = (_mark(states[at]) if at in states else Text(" ") for at in range(len(columns)))
        out.print(Text.assemble(f"{row}  ", *marks))
    _show_legend(days)
    _show_details(job, days)


def _show_legend(days: Sequence[PartitionStatus]) -> None:
    counts = Counter(day.state for day in days)
    legend = Text("\n")
    for state in MARKS:
        if counts[state]:
            legend.append_text(_mark(state)).append(f" {counts[state]:,} {in_words(state)}   ")
    console().print(legend)


def _show_details(job: Job, days: Sequence[PartitionStatus]) -> None:
    incomplete = [day for day in days if day.state.needs_attention]
    chosen = list(days) if len(days) <= LISTED else incomplete[-LISTED:]
    if not chosen:
        return
    headings = (str(job.grain), "state", "model", "rows", "scored", "quarantined", "runs", "last run", "note")
    table(headings, (_row(day) for day in chosen), whole=("last run",), below=("last run", "note"))
    if len(days) > LISTED and len(incomplete) > len(chosen):
        console().print(f"and {len(incomplete) - len(chosen):,} earlier ones; select them with --from and --to")


def _row(day: PartitionStatus) -> tuple[object, ...]:
    counts = (day.candidates, day.scored, day.quarantined)
    return (day.ds, in_words(day.state), day.version, *counts, day.runs, day.last_run, day.note or "")


def _mark(state: PeriodState) -> Text:
    mark, plain, colour = MARKS[state]
    return Text(mark if console().encoding.startswith("utf") else plain, style=colour)
