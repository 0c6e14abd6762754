"""Plots as inline SVG: no script, text kept as text, and colours that follow the page's light or dark mode."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from pipeline.periods import Grain, Period
from pipeline.report.facts import Day, JobFacts

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"
WIDTH, HEIGHT = 5.2, 2.7
"""Figure size in inches of 72 points, so that 11-point text stays legible on a phone 375 pixels wide."""
INK, FAINT = "#010101", "#020202"
SERIES = [f"#0300{number:02d}" for number in range(1, 9)]
OUTCOMES = {"none": "#040001", "ok": "#040002", "warning": "#040003", "critical": "#040004"}
REFERENCES = {"training": "the training data", "trailing": "the days before", "previous_model": "the model before"}
VARIABLES = {
    INK: "var(--ink)",
    FAINT: "var(--line)",
    **{colour: f"var(--series-{number})" for number, colour in enumerate(SERIES, 1)},
    **{colour: f"var(--drift-{outcome})" for outcome, colour in OUTCOMES.items()},
}
"""CSS variables of the style sheet that replace the placeholder colours above in the finished SVG."""
STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a class may be named $x$
    "font.size": 11,
    "font.sans-serif": ["DejaVu Sans"],
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": FAINT,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "path.simplify": False,
}


@dataclass(frozen=True)
class Plot:
    """One figure and the numbers behind it."""

    title: str
    about: str
    """Description of the figure in words, read by screen readers."""
    svg: Markup
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


def of_job(facts: JobFacts) -> list[Plot]:
    """Returns the plots of a job; empty if no day has a ledger. Plots without data are left out."""
    days = [day for day in facts.with_runs if day.counts]
    if not days:
        return []
    made = [_rows(facts.name, days), _speed(facts.name, days)]
    if facts.classes:
        made.append(_classes(facts, [day for day in days if day.classes]))
    if confident := [day for day in days if day.confidence is not None]:
        made.append(_confidence(facts.name, confident))
    if judged := [day for day in days if day.performance]:
        made += [_auc(facts.name, judged), _calibration(facts.name, judged)]
    return [*made, *(_drift(facts, reference) for reference in facts.references)]


def _rows(job: str, days: Sequence[Day]) -> Plot:
    terms = ("scored", "unchanged", "quarantined", "duplicates", "overtaken")
    shown = [term for term in terms if any(day.counts[term] for day in days)]

    def draw(axes: Axes) -> None:
        below = [0] * len(days)
        for term, colour in zip(shown, SERIES, strict=False):
            values = [day.counts[term] for day in days]
            axes.bar(_places(days), values, 0.8, below, color=colour, label=term)
            below = [low + value for low, value in zip(below, values, strict=True)]
        axes.legend(ncols=3, loc="lower left", bbox_to_anchor=(-0.02, 1.0), handlelength=1)
        _counted(axes)

    rows = [(day.ds, *(day.counts[term] for term in shown)) for day in days]
    first, last = days[0], days[-1]
    about = f"Bars: rows per {first.grain} from {first.ds} to {last.ds}; {last.counts['candidates']:,} on the last."
    return Plot(f"Rows per {first.grain}", about, _svg(f"{job} rows", about, days, draw), ("day", *shown), rows)


def _speed(job: str, days: Sequence[Day]) -> Plot:
    timed = [day for day in days if day.rows_per_s is not None]

    def draw(axes: Axes) -> None:
        values = [day.rows_per_s or 0.0 for day in timed]
        axes.plot(_places(timed), values, color=SERIES[0], marker="o", markersize=3, linewidth=1.5)
        axes.set_ylim(bottom=0)
        _counted(axes)

    about = "Line: rows scored per second by the newest complete run of each day."
    rows = [(day.ds, day.rows_per_s, sum(stage.wall_s for stage in day.record.stages)) for day in timed if day.record]
    columns = ("day", "rows/s", "total seconds")
    return Plot("Rows scored per second", about, _svg(f"{job} speed", about, timed or days, draw), columns, rows)


def _classes(facts: JobFacts, days: Sequence[Day]) -> Plot:
    names = facts.classes
    shares = [[day.classes.get(name, 0) / (sum(day.classes.values()) or 1) for name in names] for day in days]

    def draw(axes: Axes) -> None:
        for index, name in enumerate(names[: len(SERIES)]):
            values = [each[index] for each in shares]
            marker = "os^Dv<>P"[index]
            axes.plot(
                _places(days), values, color=SERIES[index], marker=marker, markersize=3, linewidth=1.5, label=name[:24]
            )
        axes.legend(ncols=4, loc="lower left", bbox_to_anchor=(-0.02, 1.0), handlelength=1.2)
        axes.set_ylim(0, 1)
        _percent(axes)

    over = (
        "whole days"
        if all(day.whole for day in days)
        else "whole days, or the rows that one run scored on days without a profile"
    )
    about = f"Lines: share of each predicted class, over {over}."
    rows = [(day.ds, *each) for day, each in zip(days, shares, strict=True)]
    return Plot("Class shares", about, _svg(f"{facts.name} classes", about, days, draw), ("day", *names), rows)


def _confidence(job: str, days: Sequence[Day]) -> Plot:
    def draw(axes: Axes) -> None:
        values = [day.confidence or 0.0 for day in days]
        axes.plot(_places(days), values, color=SERIES[0], marker="o", markersize=3, linewidth=1.5)
        low, high = min(values), max(values)
        room = max((high - low) / 2, 0.02)
        axes.set_ylim(max(0, low - room), min(1, high + room))
        _percent(axes, digits=0 if high - low > 0.04 else 1)

    about = "Line: mean probability of the predicted class."
    rows = [(day.ds, day.confidence) for day in days]
    return Plot("Mean confidence", about, _svg(f"{job} confidence", about, days, draw), ("day", "confidence"), rows)


def _auc(job: str, days: Sequence[Day]) -> Plot:
    found = [day for day in days if day.performance["auc"] is not None]

    def draw(axes: Axes) -> None:
        values = [day.performance["auc"] for day in found]
        axes.plot(_places(found), values, color=SERIES[0], marker="o", markersize=3, linewidth=1.5)
        axes.axhline(0.5, color=FAINT, linestyle="--", linewidth=1)
        axes.set_ylim(min([0.45, *(value - 0.05 for value in values)]), 1)

    about = "Line: AUC of each day with labels; at the dashed line, 0.5, the score is no better than chance."
    rows = [(day.ds, day.performance["auc"], day.performance["rows"]) for day in found]
    return Plot("AUC", about, _svg(f"{job} auc", about, found or days, draw), ("day", "AUC", "labelled rows"), rows)


def _calibration(job: str, days: Sequence[Day]) -> Plot:
    series = (("mean_score", "predicted", "o", "-"), ("base_rate", "observed", "s", "--"))

    def draw(axes: Axes) -> None:
        for (name, label, marker, line), colour in zip(series, SERIES, strict=False):
            values = [day.performance[name] for day in days]
            axes.plot(
                _places(days), values, line, color=colour, marker=marker, markersize=3, linewidth=1.5, label=label
            )
        axes.legend(ncols=2, loc="lower left", bbox_to_anchor=(-0.02, 1.0), handlelength=1.6)
        _percent(axes)

    judged = days[-1].performance["class"]
    about = f"Lines: mean predicted probability of class {judged}, and its observed share of the labelled rows."
    rows = [(day.ds, day.performance["mean_score"], day.performance["base_rate"]) for day in days]
    return Plot(
        "Predicted and observed",
        about,
        _svg(f"{job} calibration", about, days, draw),
        ("day", "predicted", "observed"),
        rows,
    )


def _drift(facts: JobFacts, reference: str) -> Plot:
    days = [day for day in facts.with_runs if reference in day.drift]
    columns = list(dict.fromkeys(column for day in days for column in day.drift[reference]))
    levels = list(OUTCOMES)

    def draw(axes: Axes) -> None:
        from matplotlib.patches import Patch, Rectangle

        places = _places(days)
        for place, day in zip(places, days, strict=True):
            for row, column in enumerate(columns):
                outcome = day.drift[reference].get(column, ("none", None))[0]
                axes.add_patch(Rectangle((place - 0.46, row - 0.44), 0.92, 0.88, color=OUTCOMES[outcome], linewidth=0))
                if outcome == "critical":  # also distinguishable without colour
                    axes.plot([place], [row], marker="x", color=INK, markersize=2.5)
        axes.set_xlim(places[0] - 0.6, max(places[-1], places[0] + 6) + 0.6)
        axes.set_ylim(len(columns) - 0.5, -0.5)
        axes.set_yticks(range(len(columns)), [column[:28] for column in columns])
        axes.tick_params(length=0)
        axes.grid(visible=False)
        patches = [Patch(color=OUTCOMES[level], label=level) for level in levels]
        axes.legend(handles=patches, ncols=4, loc="lower right", bbox_to_anchor=(1.0, 1.0), handlelength=1)

    alarms = [(day.ds, column) for day in days for column in columns if _outcome(day, reference, column) == "critical"]
    first = f" First critical drift: {alarms[0][1]} on {alarms[0][0]}." if alarms else ""
    against = REFERENCES[reference]
    about = f"Heat map: drift of each column from {against}, per day; a cross marks critical drift.{first}"
    height = 1.2 + 0.24 * len(columns)
    svg = _svg(f"{facts.name} drift {reference}", about, days, draw, height)
    rows = [(day.ds, *(_drift_text(day, reference, column) for column in columns)) for day in days]
    return Plot(f"Drift against {against}", about, svg, ("day", *columns), rows)


def _outcome(day: Day, reference: str, column: str) -> str:
    return day.drift[reference].get(column, ("none", None))[0]


def _drift_text(day: Day, reference: str, column: str) -> str:
    outcome, psi = day.drift[reference].get(column, ("none", None))
    return outcome if psi is None else f"{outcome}, PSI {psi:.3f}"


def of_scores(first: str, second: str, histogram: Sequence[dict[str, Any]]) -> Plot:
    """Returns a plot of the score distributions of two model versions; `histogram` is one row per bin (sql/compare)."""
    lows = [row["low"] for row in histogram]

    def draw(axes: Axes) -> None:
        for name, column, colour, line in ((first, "rows_a", SERIES[0], "-"), (second, "rows_b", SERIES[1], "--")):
            values = [row[column] for row in histogram]
            axes.stairs(values, [*lows, 1.0], color=colour, label=name[:24], linewidth=1.8, linestyle=line)
        axes.legend(ncols=2, loc="lower left", bbox_to_anchor=(-0.02, 1.0), handlelength=1.6)
        axes.set_xlim(0, 1)
        _counted(axes)

    about = f"Steps: rows per score bin, for {first} and {second}."
    rows = [(f"{row['low']:.2f} to {row['low'] + 0.05:.2f}", row["rows_a"], row["rows_b"]) for row in histogram]
    return Plot("Scores", about, _svg("compare", about, [], draw), ("score", first, second), rows)


# Shared by all plots


def _places(days: Sequence[Day]) -> list[int]:
    return [Period.parse(day.ds, day.grain).number for day in days]


def _counted(axes: Axes) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))


def _percent(axes: Axes, digits: int = 0) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(PercentFormatter(1, digits))


def _dates(axes: Axes, days: Sequence[Day]) -> None:
    places = _places(days)
    step = max(1, -(-(places[-1] - places[0] + 1) // 4))
    marks = list(range(places[0], places[-1] + 1, step))
    axes.set_xticks(marks, [_label(Period(days[0].grain, mark)) for mark in marks])


def _label(period: Period) -> str:
    text = period.first.strftime("%b %Y" if period.grain is Grain.month else "%d %b").lstrip("0")
    return f"{text} {period.ds[11:]}" if period.grain is Grain.hour else text


def _svg(name: str, about: str, days: Sequence[Day], draw: Callable[[Axes], None], height: float = HEIGHT) -> Markup:
    """Draws one figure; with `days`, the x-axis shows dates. `name` makes its ids unique in the page."""
    from markupsafe import Markup

    with _figure(height, name) as figure:
        axes = figure.add_subplot()
        axes.grid(axis="y", linewidth=0.6)
        draw(axes)
        if days:
            _dates(axes, days)
        content = io.BytesIO()
        figure.savefig(content, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return Markup(_themed(content.getvalue(), re.sub(r"\W", "-", name), about))  # noqa: S704 - serialised from a tree


@contextmanager
def _figure(height: float, salt: str) -> Iterator[Figure]:
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context({**STYLE, "svg.hashsalt": salt}):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        FigureCanvasSVG(figure)
        yield figure


def _themed(svg: bytes, name: str, about: str) -> str:
    """Adapts an SVG to a page: an ARIA role and label, unique ids, and the page's colours."""
    ET.register_namespace("", SVG)
    ET.register_namespace("xlink", XLINK)
    root = ET.fromstring(svg)  # noqa: S314 - matplotlib wrote it just now
    for metadata in root.findall(f"{{{SVG}}}metadata"):
        root.remove(metadata)
    for attribute in ("width", "height"):
        root.attrib.pop(attribute, None)
    root.attrib |= {"role": "img", "aria-label": about}
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == "id":
                element.attrib[key] = f"{name}-{value}"
            elif key == f"{{{XLINK}}}href" and value.startswith("#"):
                element.attrib[key] = f"#{name}-{value[1:]}"
            elif key in ("style", "clip-path"):
                element.attrib[key] = _restyled(value, name)
    return ET.tostring(root, encoding="unicode")


def _restyled(style: str, name: str) -> str:
    style = style.replace("url(#", f"url(#{name}-")
    style = re.sub(r"font: ([\d.]+px) [^;]*", r"font-size: \1", style)  # so that text takes the font of the page
    return re.sub(r"#[0-9a-f]{6}", lambda match: VARIABLES.get(match[0], match[0]), style)
