"""The distribution of each column of a run's day, beside those of the training data and of the window before it.

They are drawn from stored profiles alone, in the groups of bins that drift compares. The figures are small and many, so
they are written as SVG directly: matplotlib takes longer to be imported than all of them to be drawn.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from pydantic import ValidationError

from pipeline.drift import distances
from pipeline.drift.comparing import places_of
from pipeline.drift.days_before import Calendar
from pipeline.drift.rhythm import Rhythm, weekly
from pipeline.errors import LakescoreError, counted
from pipeline.histograms.counting import WHOLE, Counts
from pipeline.histograms.table import from_table
from pipeline.job.config import Drift
from pipeline.periods import Grain, Period
from pipeline.profiles import store
from pipeline.report.facts import against, anchor, schedule_of
from pipeline.storage.parquet import from_bytes

if TYPE_CHECKING:
    from markupsafe import Markup
    from numpy.typing import NDArray

    from pipeline.drift.distances import Numbers
    from pipeline.histograms.table import Profile
    from pipeline.lake.layout import Lake
    from pipeline.model.registry import Registry
    from pipeline.records import RunRecord

    Places = NDArray[np.intp]
    """The group of each bin of a column (bins,)."""

MOST = 60
"""Largest number of columns that are drawn: those that drift most come first."""
MOST_LABELS = 12
"""Largest number of classes of one column that are drawn; the rarest share the last bar."""
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 320, 150, 38, 30, 6
"""Measures of a figure in the units of its view box."""
COLOURS = {"day": "var(--series-1)", "training": "var(--series-2)", "trailing": "var(--series-3)"}
DASHES = {"training": "none", "trailing": "5 3"}
ORDER = ("critical", "warning", "ok", "none")


@dataclass(frozen=True)
class Distribution:
    """One column, as it was on the day and in its references."""

    column: str
    kind: str
    outcome: str
    """The worst outcome of the column's comparisons; `none` if there is none."""
    facts: tuple[tuple[str, ...], ...]
    """One row for the day and each reference: what it is, rows, missing, mean and deviation, as text."""
    groups: tuple[tuple[str, ...], ...]
    """One row for each bar: its values, then the share of the day and of each reference, as text."""
    heads: tuple[str, ...]
    """The names of the day and of the references."""
    svg: Markup

    @property
    def anchor(self) -> str:
        return anchor(self.column)


@dataclass(frozen=True)
class Distributions:
    columns: tuple[Distribution, ...] = ()
    """The columns that are drawn, those that drift first."""
    weekly: tuple[Rhythm, ...] = ()
    """Columns that follow the weekday, which `same_weekday` would compare more sharply."""


def of_run(lake: Lake, record: RunRecord, outcomes: Mapping[str, str], registry: Registry | None) -> Distributions:
    """Returns the distributions of the columns of a run's day; none without a profile.

    `outcomes` has the worst outcome of a column, by name. Without a registry, the training data are not shown.
    """
    content = lake.storage.read(store.key("profiles", record))
    if content is None:
        return Distributions()
    profile, grain, config = from_table(from_bytes(content)), schedule_of(record)[0], _config(record)
    day, training = profile.get(WHOLE, {}), _training(record, registry).get(WHOLE, {})
    period = Period.parse(record.ds, grain)
    history = store.profiles_before(lake, record.job, period, record.model, 2 * config.window_days)
    calendar = Calendar(period, WHOLE, history, config)
    kinds = ("score", "class", "feature")
    shown = sorted(
        (counts for counts in day.values() if counts.spec.kind in kinds),
        key=lambda counts: (ORDER.index(outcomes.get(counts.spec.name, "none")), kinds.index(counts.spec.kind)),
    )
    found = []
    for counts in shown[:MOST]:
        others: dict[str, Counts] = {}
        trained = training.get(counts.spec.name)
        if trained is not None and trained.spec == counts.spec:
            others["training"] = trained
        window, days = calendar.window_of(counts)
        if days:
            others["trailing"] = window
        found.append(distribution(counts, others, outcomes.get(counts.spec.name, "none"), grain, days))
    return Distributions(tuple(found), tuple(weekly(record.ds, profile, history, config, grain)))


def _config(record: RunRecord) -> Drift:
    """Returns how the job of a run compares its periods."""
    try:
        return Drift.model_validate(record.job_config.get("drift") or {})
    except ValidationError:  # keys of another version of Lakescore
        return Drift()


def _training(record: RunRecord, registry: Registry | None) -> Profile:
    """Returns the profile of the training data of the run's model; empty if it has none, or is no longer registered."""
    if registry is None:
        return {}
    try:
        manifest = registry.resolve(record.model.name, record.model.version)
        content = registry.baseline(manifest) if manifest.digest == record.model.digest else None
    except LakescoreError:  # the page does without: runs of the model say what is wrong with it
        return {}
    return {} if content is None else from_table(from_bytes(content))


def distribution(counts: Counts, others: Mapping[str, Counts], outcome: str, grain: Grain, days: int) -> Distribution:
    """Returns the distribution of a column beside those of its references; `days` is the length of the window."""
    every = {"day": counts, **others}
    today = distances.histogram(counts)
    reference = distances.histogram(next(iter(others.values()), counts))
    places = _places(counts, today, reference)
    shares = {name: _shares(each, places) for name, each in every.items()}
    labels = _labels(counts, places)
    heads = {
        "day": f"this {grain}",
        "training": "training",
        "trailing": f"{counted(days, grain)} before",
    }
    about = f"Distribution of {counts.spec.name} on this {grain}" + "".join(
        f", and in {against(name, grain)}" for name in others
    )
    return Distribution(
        counts.spec.name,
        counts.spec.kind,
        outcome,
        tuple((heads[name], *_facts(each)) for name, each in every.items()),
        tuple((label, *(f"{share[place]:.1%}" for share in shares.values())) for place, label in enumerate(labels)),
        tuple(heads[name] for name in every),
        _drawn(about, shares, _ticks(counts, places, labels)),
    )


def _places(counts: Counts, today: Numbers, reference: Numbers) -> Places:
    """Returns the group of each bin: as drift compares them, if both sides have values; of labels, MOST_LABELS."""
    if counts.spec.labels:
        order = np.argsort(-(today[1:] + reference[1:]), kind="stable")
        kept = np.sort(order[: MOST_LABELS - 1]) if len(order) > MOST_LABELS else np.arange(len(order))
        places = np.full(len(order), len(kept), np.intp)
        places[kept] = np.arange(len(kept))
        return places
    if not today[1:].sum() or not reference[1:].sum():
        return np.arange(len(today) - 1, dtype=np.intp)
    return places_of(counts, today, reference)


def _shares(counts: Counts, places: Places) -> list[float]:
    rows = distances.grouped(distances.histogram(counts)[1:], places)
    return [float(value) for value in rows / max(rows.sum(), 1.0)]


def _labels(counts: Counts, places: Places) -> list[str]:
    """Returns the values of each group in words."""
    if labels := counts.spec.labels:
        members = [[label for label, at in zip(labels, places, strict=True) if at == place] for place in _count(places)]
        return [each[0] if len(each) == 1 else f"{len(each):,} others" for each in members]
    edges = _edges(counts, places)
    if not edges:
        return ["all values"]
    between = [f"{_number(low)} to {_number(high)}" for low, high in itertools.pairwise(edges)]
    return [f"below {_number(edges[0])}", *between, f"{_number(edges[-1])} and above"]


def _count(places: Places) -> range:
    return range(int(places.max()) + 1)


def _edges(counts: Counts, places: Places) -> list[float]:
    """Returns the edges between neighbouring groups."""
    return [counts.spec.edges[bin_] for bin_ in range(len(places) - 1) if places[bin_] != places[bin_ + 1]]


def _facts(counts: Counts) -> tuple[str, str, str, str]:
    missing = (counts.nulls + counts.nans) / counts.rows if counts.rows else 0.0
    known = counts.finite > 0 and not counts.spec.labels
    mean = _number(counts.mean) if known else "-"
    deviation = _number(counts.deviation) if known and counts.deviation is not None else "-"
    return f"{counts.rows:,}", f"{missing:.1%}", mean, deviation


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


Tick = tuple[float, str]
"""A place, as a share of the width, and its text."""


def _ticks(counts: Counts, places: Places, labels: Sequence[str]) -> list[Tick]:
    count = len(labels)
    if counts.spec.labels:
        room = max(3, 46 // count)
        return [((place + 0.5) / count, _cut(label, room)) for place, label in enumerate(labels)]
    edges = _edges(counts, places)
    step = max(1, math.ceil(len(edges) / 4))
    return [((place + 1) / count, _number(edges[place])) for place in range(0, len(edges), step)]


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else text[: room - 1] + "…"


def _drawn(about: str, shares: Mapping[str, Sequence[float]], ticks: Sequence[Tick]) -> Markup:
    """Draws the day as bars, and each reference as a line of steps."""
    from markupsafe import Markup, escape

    top = max(max(values) for values in shares.values()) or 1.0
    right, base = WIDTH - 4, HEIGHT - BOTTOM
    count = len(shares["day"])
    step = (right - LEFT) / count

    def height(share: float) -> float:
        return base - (base - TOP) * share / top

    parts = [
        f'<line x1="{LEFT}" y1="{y}" x2="{right}" y2="{y}" stroke="var(--line)"/>'
        for y in (TOP, (TOP + base) / 2, base)
    ]
    digits = 0 if top >= 0.05 else 1
    parts += [
        f'<text x="{LEFT - 4}" y="{y + 4:.1f}" text-anchor="end">{share:.{digits}%}</text>'
        for y, share in ((TOP + 4, top), ((TOP + base) / 2, top / 2))
    ]
    for place, share in enumerate(shares["day"]):
        x, y = LEFT + place * step + step * 0.08, height(share)
        parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{step * 0.84:.1f}" height="{base - y:.1f}" '
            f'fill="{COLOURS["day"]}" fill-opacity=".55"/>'
        )
    for name, values in shares.items():
        if name != "day":
            corners = " ".join(
                f"{LEFT + side * step:.1f},{height(share):.1f}"
                for place, share in enumerate(values)
                for side in (place, place + 1)
            )
            parts.append(
                f'<polyline points="{corners}" fill="none" stroke="{COLOURS[name]}" stroke-width="2" '
                f'stroke-dasharray="{DASHES[name]}"/>'
            )
    for share, text in ticks:
        x = LEFT + share * (right - LEFT)
        parts.append(f'<text x="{x:.1f}" y="{base + 15}" text-anchor="middle">{escape(text)}</text>')
    # All but the escaped texts are numbers and constants of this module.
    return Markup(  # noqa: S704
        f'<svg class="small" viewBox="0 0 {WIDTH} {HEIGHT - 8}" role="img" aria-label="{escape(about)}">'
        f"{''.join(parts)}</svg>"
    )
