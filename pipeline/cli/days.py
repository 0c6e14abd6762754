"""Draws the calendar of a job: one line a month, one mark a day; then the days that need a look."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from rich.text import Text

from pipeline.cli.output import console, table
from pipeline.records import ModelRef
from pipeline.status import Completeness, PartitionStatus

MARKS = {
    Completeness.complete: ("■", "#", "green"),
    Completeness.partial: ("◧", "p", "yellow"),
    Completeness.stale: ("▲", "s", "magenta"),
    Completeness.missing: ("□", "m", "red"),
    Completeness.gone: ("✕", "x", "dim"),
}
"""Mark, mark where there is no Unicode, and colour."""
RULER = "1        10        20        30"
LISTED = 31
"""So many days, or fewer, are all shown in detail; of more, the newest of those that are not complete."""


def show(job: str, model: ModelRef | None, days: Sequence[PartitionStatus]) -> None:
    out = console()
    named = f"model {model.name} {model.version}" if model else "model not registered"
    if not days:
        out.print(f"{job}, {named}: no day has input or predictions", markup=False)
        return
    out.print(f"[bold]{job}[/], {named}: {len(days):,} days, {days[0].ds} to {days[-1].ds}\n")
    out.print(" " * 9 + RULER, style="dim")
    by_month: dict[str, dict[int, Completeness]] = defaultdict(dict)
    for day in days:
        by_month[day.ds[:7]][int(day.ds[8:])] = day.state
    for month, states in by_month.items():
        marks = (_mark(states[day]) if day in states else Text(" ") for day in range(1, 32))
        out.print(Text.assemble(f"{month}  ", *marks))
    _show_legend(days)
    _show_details(days)


def _show_legend(days: Sequence[PartitionStatus]) -> None:
    counts = Counter(day.state for day in days)
    legend = Text("\n")
    for state in MARKS:
        if counts[state]:
            legend.append_text(_mark(state)).append(f" {counts[state]:,} {state}   ")
    console().print(legend)


def _show_details(days: Sequence[PartitionStatus]) -> None:
    amiss = [day for day in days if day.state is not Completeness.complete]
    chosen = list(days) if len(days) <= LISTED else amiss[-LISTED:]
    if not chosen:
        return
    headings = ("day", "state", "model", "rows", "scored", "quarantined", "runs", "last run", "note")
    table(headings, (_row(day) for day in chosen))
    if len(days) > LISTED and len(amiss) > len(chosen):
        console().print(f"and {len(amiss) - len(chosen):,} earlier ones; --from and --to choose days")


def _row(day: PartitionStatus) -> tuple[object, ...]:
    last = f"{day.last_state} {day.last_at:%Y-%m-%d}" if day.last_state and day.last_at else None
    counts = (day.candidates, day.scored, day.quarantined)
    return (day.ds, day.state.value, day.version, *counts, day.runs, last, day.note or "")


def _mark(state: Completeness) -> Text:
    mark, plain, colour = MARKS[state]
    return Text(mark if console().encoding.startswith("utf") else plain, style=colour)
