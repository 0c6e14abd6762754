"""The plots of a job on the index, and the one of a comparison of two models."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.report.drawing import FAINT, HEIGHT, INK, OUTCOMES, SERIES, Plot, counted, percent, places, svg
from pipeline.report.facts import Day, JobFacts, against, anchor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_COLUMNS = 60
"""Largest number of columns in a heat map of drift: those with the most alarms."""
MARKERS = "os^Dv<>P"


def of_job(facts: JobFacts) -> list[Plot]:
    """Returns the plots of a job; empty if no day has a ledger. Plots without data are left out."""
    days = [day for day in facts.with_runs if day.counts]
    if not days:
        return []
    made = [_rows(facts, days)]
    if facts.classes:
        made.append(_classes(facts, [day for day in days if day.classes]))
    if confident := [day for day in days if day.confidence is not None]:
        made.append(_confidence(facts, confident))
    if judged := [day for day in days if day.performance.get("class")]:
        made += [_auc(facts, judged), _calibration(facts, judged)]
    if judged := [day for day in days if day.performance.get("mae") is not None]:
        made.append(_errors(facts, judged))
    if judged := [day for day in days if day.performance.get("ndcg") is not None]:
        made.append(_ranks(facts, judged))
    made += [_drift(facts, reference) for reference in facts.references]
    return [*made, _speed(facts, days)]


def _plot(  # noqa: PLR0913 -- what a plot has
    facts: JobFacts,
    title: str,
    about: str,
    days: Sequence[Day],
    draw: Callable[[Axes], None],
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    height: float = HEIGHT,
    above: bool = False,
) -> Plot:
    changes = [(day, version) for day, version in facts.model_changes if days[0].ds <= day.ds <= days[-1].ds]
    if changes:
        listed = ", ".join(f"{version} from {day.ds}" for day, version in changes[:6])
        about += f" Dotted lines: another model, {listed}{' and others' if changes[6:] else ''}."
    made = svg(f"{facts.name} {title}", about, days, draw, height, changes=changes, above=above)
    return Plot(title, about, made, (facts.grain.value, *columns), rows)


def _legend(axes: Axes, columns: int) -> None:
    axes.legend(ncols=columns, loc="lower left", bbox_to_anchor=(-0.02, 1.0), handlelength=1.2)


def _line(axes: Axes, days: Sequence[Day], values: Sequence[Any], number: int = 0, label: str | None = None) -> None:
    style: dict[str, Any] = {"marker": MARKERS[number], "markersize": 3, "linewidth": 1.5, "label": label}
    axes.plot(places(days), values, color=SERIES[number], **style)


def _rows(facts: JobFacts, days: Sequence[Day]) -> Plot:
    terms = ("scored", "unchanged", "quarantined", "duplicates", "overtaken")
    shown = [term for term in terms if any(day.counts[term] for day in days)]

    def draw(axes: Axes) -> None:
        below = [0] * len(days)
        for term, colour in zip(shown, SERIES, strict=False):
            values = [day.counts[term] for day in days]
            axes.bar(places(days), values, 0.8, below, color=colour, label=term)
            below = [low + value for low, value in zip(below, values, strict=True)]
        if shown:
            _legend(axes, 3)
        counted(axes)

    rows = [(day.ds, *(day.counts[term] for term in shown)) for day in days]
    first, last = days[0], days[-1]
    about = f"Bars: rows per {first.grain} from {first.ds} to {last.ds}; {last.counts['candidates']:,} on the last."
    return _plot(facts, f"Rows per {first.grain}", about, days, draw, shown, rows)


def _speed(facts: JobFacts, days: Sequence[Day]) -> Plot:
    timed = [day for day in days if day.rows_per_s is not None]

    def draw(axes: Axes) -> None:
        _line(axes, timed, [day.rows_per_s or 0.0 for day in timed])
        axes.set_ylim(bottom=0)
        counted(axes)

    about = f"Line: rows scored per second by the newest complete run of each {facts.grain}."
    rows = [(day.ds, day.rows_per_s, sum(stage.wall_s for stage in day.record.stages)) for day in timed if day.record]
    return _plot(facts, "Rows scored per second", about, timed or days, draw, ("rows/s", "total seconds"), rows)


def _classes(facts: JobFacts, days: Sequence[Day]) -> Plot:
    names = facts.classes
    shares = [[day.classes.get(name, 0) / (sum(day.classes.values()) or 1) for name in names] for day in days]

    def draw(axes: Axes) -> None:
        for index, name in enumerate(names[: len(SERIES)]):
            _line(axes, days, [each[index] for each in shares], index, name[:24])
        _legend(axes, 4)
        axes.set_ylim(0, 1)
        percent(axes)

    over = f"whole {facts.grain}s"
    if not all(day.whole for day in days):
        over += f", or the rows that one run scored on {facts.grain}s without a profile"
    about = f"Lines: share of each predicted class, over {over}."
    rows = [(day.ds, *each) for day, each in zip(days, shares, strict=True)]
    return _plot(facts, "Class shares", about, days, draw, names, rows)


def _confidence(facts: JobFacts, days: Sequence[Day]) -> Plot:
    def draw(axes: Axes) -> None:
        values = [day.confidence or 0.0 for day in days]
        _line(axes, days, values)
        low, high = min(values), max(values)
        room = max((high - low) / 2, 0.02)
        axes.set_ylim(max(0, low - room), min(1, high + room))
        percent(axes)

    about = "Line: mean probability of the predicted class."
    rows = [(day.ds, day.confidence) for day in days]
    return _plot(facts, "Mean confidence", about, days, draw, ("confidence",), rows)


def _auc(facts: JobFacts, days: Sequence[Day]) -> Plot:
    found = [day for day in days if day.performance["auc"] is not None]

    def draw(axes: Axes) -> None:
        values = [day.performance["auc"] for day in found]
        _line(axes, found, values)
        axes.axhline(0.5, color=FAINT, linestyle="--", linewidth=1)
        axes.set_ylim(min([0.45, *(value - 0.05 for value in values)]), 1)

    about = f"Line: AUC of each {facts.grain} with labels; at the dashed line, 0.5, the score is no better than chance."
    rows = [(day.ds, day.performance["auc"], day.performance["rows"]) for day in found]
    return _plot(facts, "AUC", about, found or days, draw, ("AUC", "labelled rows"), rows)


def _calibration(facts: JobFacts, days: Sequence[Day]) -> Plot:
    series = (("mean_score", "predicted", "o", "-"), ("base_rate", "observed", "s", "--"))

    def draw(axes: Axes) -> None:
        for (name, label, marker, line), colour in zip(series, SERIES, strict=False):
            style: dict[str, Any] = {"marker": marker, "markersize": 3, "linewidth": 1.5, "label": label}
            axes.plot(places(days), [day.performance[name] for day in days], line, color=colour, **style)
        _legend(axes, 2)
        percent(axes)

    judged = days[-1].performance["class"]
    about = f"Lines: mean predicted probability of class {judged}, and its observed share of the labelled rows."
    rows = [(day.ds, day.performance["mean_score"], day.performance["base_rate"]) for day in days]
    return _plot(facts, "Predicted and observed", about, days, draw, ("predicted", "observed"), rows)


def _errors(facts: JobFacts, days: Sequence[Day]) -> Plot:
    about = f"Lines: mean absolute error and mean error (value minus label) of each {facts.grain} with labels."
    return _measured(facts, "Error", about, days, {"mae": "absolute", "bias": "mean"})


def _ranks(facts: JobFacts, days: Sequence[Day]) -> Plot:
    k = days[-1].performance["k"]
    about = f"Lines: NDCG and precision of the first {k} items, means over the lists of each {facts.grain} with labels."
    return _measured(facts, f"Ranking at {k}", about, days, {"ndcg": "NDCG", "precision": "precision"})


def _measured(facts: JobFacts, title: str, about: str, days: Sequence[Day], names: Mapping[str, str]) -> Plot:
    """Returns a plot with a line for each of these metrics, by what they are called."""

    def draw(axes: Axes) -> None:
        for number, (name, label) in enumerate(names.items()):
            _line(axes, days, [day.performance[name] for day in days], number, label)
        axes.axhline(0, color=FAINT, linestyle="--", linewidth=1)
        _legend(axes, 2)

    rows = [(day.ds, *(day.performance[name] for name in names), day.performance["rows"]) for day in days]
    return _plot(facts, title, about, days, draw, (*names.values(), "labelled rows"), rows)


def _drift(facts: JobFacts, reference: str) -> Plot:
    days = [day for day in facts.with_runs if reference in day.drift]
    every = list(dict.fromkeys(column for day in days for column in day.drift[reference]))
    alarms = {
        column: [day.ds for day in days if _outcome(day, reference, column) in ("warning", "critical")]
        for column in every
    }
    columns = every
    if len(every) > MOST_COLUMNS:
        most = sorted(every, key=lambda column: -len(alarms[column]))[:MOST_COLUMNS]
        columns = [column for column in every if column in most]

    def draw(axes: Axes) -> None:
        from matplotlib.patches import Patch, Rectangle

        numbers = places(days)
        for place, day in zip(numbers, days, strict=True):
            for row, column in enumerate(columns):
                outcome, corner = _outcome(day, reference, column), (place - 0.46, row - 0.44)
                url = f"{day.page_path}#{anchor(column)}"
                axes.add_patch(Rectangle(corner, 0.92, 0.88, color=OUTCOMES[outcome], linewidth=0, url=url))
                if outcome == "critical":  # also distinguishable without colour
                    axes.plot([place], [row], marker="x", color=INK, markersize=2.5)
        axes.set_xlim(numbers[0] - 0.6, max(numbers[-1], numbers[0] + 6) + 0.6)
        axes.set_ylim(len(columns) - 0.5, -0.5)
        axes.set_yticks(range(len(columns)), [column[:28] for column in columns])
        axes.tick_params(length=0)
        axes.grid(visible=False)
        patches = [Patch(color=colour, label=level) for level, colour in OUTCOMES.items()]
        axes.figure.legend(handles=patches, ncols=4, loc="outside lower right", handlelength=1)

    critical = [(day.ds, column) for day in days for column in every if _outcome(day, reference, column) == "critical"]
    than = against(reference, facts.grain)
    about = f"Heat map: drift of each column from {than}, per {facts.grain}; a cross marks critical drift."
    about += " A cell leads to the distributions of its column."
    if critical:
        about += f" First critical drift: {critical[0][1]} on {critical[0][0]}."
    if columns is not every:
        about += f" Of {len(every):,} columns, the {len(columns)} with the most alarms are shown."
    rows = [(day.ds, *(_drift_text(day, reference, column) for column in columns)) for day in days]
    height = 1.2 + 0.24 * len(columns)
    return _plot(facts, f"Drift against {than}", about, days, draw, columns, rows, height=height, above=True)


def _outcome(day: Day, reference: str, column: str) -> str:
    return day.drift[reference].get(column, ("none", None))[0]


def _drift_text(day: Day, reference: str, column: str) -> str:
    outcome, psi = day.drift[reference].get(column, ("none", None))
    return outcome if psi is None else f"{outcome}, PSI {psi:.3f}"


def of_scores(first: str, second: str, histogram: Sequence[dict[str, Any]]) -> Plot:
    """Returns a plot of the score distributions of two model versions; `histogram` is one row per bin (sql/compare)."""
    lows, high = [row["low"] for row in histogram], histogram[-1]["high"]
    decimals = max(2, 2 - math.floor(math.log10(high - lows[0])))

    def draw(axes: Axes) -> None:
        for name, column, colour, line in ((first, "rows_a", SERIES[0], "-"), (second, "rows_b", SERIES[1], "--")):
            values = [row[column] for row in histogram]
            axes.stairs(values, [*lows, high], color=colour, label=name[:24], linewidth=1.8, linestyle=line)
        axes.legend(ncols=2, loc="lower left", bbox_to_anchor=(-0.02, 1.0), handlelength=1.6)
        axes.set_xlim(lows[0], high)
        counted(axes)

    about = f"Steps: rows per score bin, for {first} and {second}."
    bins = [f"{row['low']:.{decimals}f} to {row['high']:.{decimals}f}" for row in histogram]
    rows = [(text, row["rows_a"], row["rows_b"]) for text, row in zip(bins, histogram, strict=True)]
    return Plot("Scores", about, svg("compare", about, [], draw), ("score", first, second), rows)
