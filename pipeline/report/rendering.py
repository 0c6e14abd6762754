"""Turns templates into pages. Jinja escapes every value; no page has a script or makes a request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pipeline.periods import Period
from pipeline.quality.verdict import described, found
from pipeline.records import now
from pipeline.report.facts import Day

if TYPE_CHECKING:
    from jinja2 import Environment

TONES = {
    "good": ("complete", "passed", "ok", "balanced"),
    "note": ("noted", "quarantined", "warning", "warnings", "superseded", "overtaken", "planned", "scored"),
    "bad": ("failed", "stopped", "critical", "missing", "not balanced"),
}
MARKS = {
    "complete": "✓",
    "failed": "✕",
    "stopped": "!",
    "missing": "?",
    "rolled_back": "↶",
    "skipped": "○",
    "none": "·",
    "passed": "✓",
    "noted": "▲",
    "warnings": "▲",
    "quarantined": "◆",
    "off": "○",
}


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
        "found": found,
        "mark": lambda state: MARKS.get(state, "•"),
        "calendar_rows": _calendar_rows,
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
    """Returns a value formatted for reading."""
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
    """Returns the share of time that a stage's workers spent on each part of the work, as text."""
    return ", ".join(f"{part} {share:.0%}" for part, share in busy.items()) or None


def percent(share: float) -> str:
    return f"{share:.1%}" if share == 0 or share >= 0.001 else "under 0.1%"


def _calendar_rows(days: Iterable[Day]) -> Iterator[tuple[str, list[Day | None]]]:
    """Yields the rows of a calendar, by default one per month with 31 entries, None where there is no such day."""
    rows: dict[str, list[Day | None]] = {}
    for day in days:
        row, column = Period.parse(day.ds, day.grain).place
        rows.setdefault(row, [None] * len(day.grain.columns))[column] = day
    yield from rows.items()
