"""Draws figures as inline SVG: no script, text kept as text, and colours that follow the page's light or dark mode."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from pipeline.periods import Grain, Period
from pipeline.report.facts import Day

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


MOST_LABELS = 6
"""Largest number of model changes whose versions are written beside their lines."""


def places(days: Sequence[Day]) -> list[int]:
    return [Period.parse(day.ds, day.grain).number for day in days]


def counted(axes: Axes) -> None:
    """Labels the y-axis with numbers of rows."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))


def percent(axes: Axes) -> None:
    """Labels the y-axis with shares, with as many digits as make the labels differ. The limits must be set before."""
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    locator = MaxNLocator(4)
    ticks = [100 * float(tick) for tick in locator.tick_values(*axes.get_ylim())]
    exact = (digits for digits in range(5) if all(abs(round(tick, digits) - tick) < 1e-9 for tick in ticks))
    axes.yaxis.set_major_locator(locator)
    axes.yaxis.set_major_formatter(PercentFormatter(1, next(exact, 5)))


def _dates(axes: Axes, days: Sequence[Day]) -> None:
    numbers = places(days)
    step = max(1, -(-(numbers[-1] - numbers[0] + 1) // 4))
    marks = [Period(days[0].grain, mark) for mark in range(numbers[0], numbers[-1] + 1, step)]
    years = marks[0].first.year != marks[-1].first.year
    axes.set_xticks([mark.number for mark in marks], [_label(mark, year=years) for mark in marks])


def _label(period: Period, *, year: bool) -> str:
    """Returns a date for an axis, with the year if the axis has several."""
    form = "%b %Y" if period.grain is Grain.month else "%d %b %Y" if year else "%d %b"
    text = period.first.strftime(form).lstrip("0")
    return f"{text} {period.ds[11:]}" if period.grain is Grain.hour else text


Changes = Sequence[tuple[Day, str]]
"""The days from which on another model scores, each with its version."""


def _mark_models(axes: Axes, days: Sequence[Day], changes: Changes, *, above: bool) -> None:
    """Draws a line before each day with another model, with its version beside it, or above the axes."""
    low, high = places([days[0], days[-1]])
    shown = [(place, version) for (place,), version in ((places([day]), version) for day, version in changes)]
    shown = [(place, version) for place, version in shown if low <= place <= high]
    for place, version in shown:
        axes.axvline(place - 0.5, color=INK, linestyle=":", linewidth=1.2)
        if len(shown) <= MOST_LABELS:
            near_end = place - low > 0.8 * (high - low)
            axes.annotate(
                f"{version[:16]} " if near_end else f" {version[:16]}",
                (place - 0.5, 1.0),
                xycoords=("data", "axes fraction"),
                ha="right" if near_end else "left",
                va="bottom" if above else "top",
                fontsize=10,
            )


def svg(
    name: str,
    about: str,
    days: Sequence[Day],
    draw: Callable[[Axes], None],
    height: float = HEIGHT,
    *,
    changes: Changes = (),
    above: bool = False,
) -> Markup:
    """Draws one figure; with `days`, the x-axis shows dates and model changes. `name` makes its ids unique."""
    from markupsafe import Markup

    with _figure(height, name) as figure:
        axes = figure.add_subplot()
        axes.grid(axis="y", linewidth=0.6)
        draw(axes)
        if days:
            _dates(axes, days)
            _mark_models(axes, days, changes, above=above)
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
        element.attrib.pop("target", None)  # of links, which matplotlib opens in new windows
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
