"""Turns templates into pages. Jinja escapes every value; no page has a script or makes a request."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pipeline.errors import counted
from pipeline.periods import Period
from pipeline.quality.verdict import described, found
from pipeline.records import now
from pipeline.report.facts import Day

if TYPE_CHECKING:
    from jinja2 import Environment

TONES = {
    "good": ("complete", "passed", "ok", "balanced"),
    "note": (
        "noted",
        "quarantined",
        "warning",
        "warnings",
        "superseded",
        "overtaken",
        "planned",
        "scored",
        "stale",
        "partial",
        "drifted",
    ),
    "bad": ("failed", "stopped", "critical", "missing", "not balanced", "unfinished", "late", "undelivered"),
}
TONE_OF = {state: name for name, states in TONES.items() for state in states}
OPTION = re.compile(r"--\S+ (?!--)\S+|\S+")
"""Matches the parts of a command that stay on one line: an option with its value, or a word."""
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
        "duration": duration,
        "words": OPTION.findall,
        "size": size,
        "percent": percent,
        "shown": shown,
        "counted": counted,
        "tone": tone,
        "urlpath": lambda path: quote(path, safe="/="),
        "utc": lambda time: f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC",
    }
    return made


def tone(state: str) -> str:
    return TONE_OF.get(state, "none")


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


def duration(seconds: float) -> str:
    """Returns a time in the units in which people say it."""
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def size(count: int | None) -> str | None:
    """Returns a number of bytes in decimal units."""
    if count is None:
        return None
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{count} B" if units[0] == "B" else f"{value:.3g} {units[0]}"


def percent(share: float) -> str:
    return f"{share:.1%}" if share == 0 or share >= 0.001 else "under 0.1%"


def _calendar_rows(days: Iterable[Day]) -> Iterator[tuple[str, list[Day | None]]]:
    """Yields the rows of a calendar, the newest first: by default one per month with 31 entries, None for no day."""
    rows: dict[str, list[Day | None]] = {}
    for day in days:
        row, column = Period.parse(day.ds, day.grain).place
        rows.setdefault(row, [None] * len(day.grain.columns))[column] = day
    yield from reversed(rows.items())
