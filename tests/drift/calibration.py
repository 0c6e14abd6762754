"""`python -m tests.drift.calibration [--days 1000]`: writes false and true alarm rates into docs/drift.md.

Days are drawn as histograms, without rows: a column is a normal variable with the edges that a profile has.
"""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pipeline.drift import distances
from pipeline.drift.comparing import Comparison, compare_profile
from pipeline.histograms.counting import LEVELS, WHOLE, Counts, Spec
from pipeline.histograms.table import Profile
from pipeline.job.config import Drift
from tests.benchmarks.measuring import markdown

CONFIG = Drift()
WARM_UP = 2 * CONFIG.window_days
TRAINING = 20
"""Number of rows of the training data, as a multiple of a day's."""
FIRST = date(2026, 1, 1)
EDGES = tuple(float(edge) for edge in stats.norm.ppf(LEVELS))
DECILES = np.searchsorted(EDGES, stats.norm.ppf(np.arange(1, 10) / 10) + 1e-9)
RETURNING = 0.95
"""Share of a panel's rows that are those of the day before, 0 to 1: the same customers, unchanged."""

Kind = Literal["independent", "uneven", "panel"]


@dataclass(frozen=True)
class Setting:
    """Days of `rows` rows and `columns` columns.

    Each `uneven` day has its own shares, `dispersion` times as far apart as samples are; in a `panel` most rows stay.
    """

    rows: int
    columns: int
    kind: Kind = "independent"
    dispersion: float = 5.0


@dataclass(frozen=True)
class Rates:
    days: int
    significant: int
    """Number of days with a column whose PSI is significant at the stated level, whatever its size."""
    alarms: int
    naive: int
    """Number of days with a column whose PSI over ten bins exceeds 0.1, against training or the trailing window."""

    def interval(self) -> tuple[float, float]:
        """Returns the 99% binomial interval of the share of significant days (Clopper and Pearson 1934)."""
        found = stats.binomtest(self.significant, self.days).proportion_ci(0.99)
        return float(found.low), float(found.high)


@dataclass(frozen=True)
class Change:
    """A change of the first column of a day."""

    shift: float = 0.0
    """Shift of the mean, in standard deviations."""
    missing: float = 0.0

    def __str__(self) -> str:
        return f"{self.missing:.0%} missing" if self.missing else f"shift of {self.shift:g} deviations"


def without_change(setting: Setting, days: int, seed: int = 0) -> Rates:
    """Judges `days` days, each against training data and the days before it."""
    return _rates(setting, days, Change(), seed)


def with_change(setting: Setting, days: int, change: Change, seed: int = 1) -> Rates:
    """Judges `days` changed days, each the first one after days without change."""
    return _rates(setting, days, change, seed)


def _rates(setting: Setting, days: int, change: Change, seed: int) -> Rates:
    rng = np.random.default_rng(seed)
    training = _profile(_plain(rng, setting, TRAINING * setting.rows))
    history: deque[tuple[str, Profile]] = deque(maxlen=WARM_UP)
    significant = alarms = naive = 0
    for number, bins in enumerate(_days(rng, setting)):
        if number == WARM_UP + days:
            break
        ds = str(FIRST + timedelta(days=number))
        if number >= WARM_UP:
            day = _profile(_changed(rng, setting, bins, change), change.missing, setting.rows)
            found = compare_profile(ds, day, training, dict(history), CONFIG)
            significant += any(each.p_adjusted is not None and each.p_adjusted <= CONFIG.level for each in found)
            alarms += any(each.outcome in ("warning", "critical") for each in found)
            naive += _naive(day, training, [profile for _, profile in history])
        history.append((ds, _profile(bins)))
    return Rates(days, significant, alarms, naive)


def _days(rng: np.random.Generator, setting: Setting) -> Iterator[NDArray[np.int64]]:
    """Yields the histograms of one day after the other: (columns, bins)."""
    shares = _shares()
    bins = _plain(rng, setting, setting.rows)
    while True:
        yield bins
        if setting.kind == "panel":
            stay = np.array([rng.multivariate_hypergeometric(row, round(RETURNING * setting.rows)) for row in bins])
            bins = stay + rng.multinomial(setting.rows - stay.sum(axis=1)[0], shares, setting.columns)
        elif setting.kind == "uneven":
            own = rng.dirichlet(shares * setting.rows / (setting.dispersion - 1), setting.columns)
            bins = rng.multinomial(setting.rows, own)
        else:
            bins = _plain(rng, setting, setting.rows)


def _plain(rng: np.random.Generator, setting: Setting, rows: int) -> NDArray[np.int64]:
    return rng.multinomial(rows, _shares(), setting.columns)


def _changed(rng: np.random.Generator, setting: Setting, bins: NDArray[np.int64], change: Change) -> NDArray[np.int64]:
    changed = bins.copy()
    if change.shift:
        changed[0] = rng.multinomial(setting.rows, _shares(change.shift))
    if change.missing:
        changed[0] = rng.multivariate_hypergeometric(bins[0], round(setting.rows * (1 - change.missing)))
    return changed


def _shares(shift: float = 0.0) -> NDArray[np.float64]:
    return np.diff(stats.norm.cdf(np.array(EDGES) - shift), prepend=0.0, append=1.0)


def _profile(bins: NDArray[np.int64], missing: float = 0.0, rows: int = 0) -> Profile:
    columns = {}
    for index, row in enumerate(bins):
        counts = Counts(Spec("feature", f"x{index}", EDGES))
        counts.bins, counts.finite = row, int(row.sum())
        counts.rows = rows if missing and index == 0 else counts.finite
        counts.nulls = counts.rows - counts.finite
        columns[f"x{index}"] = counts
    return {WHOLE: columns}


def _naive(day: Profile, training: Profile, history: list[Profile]) -> bool:
    window = history[-CONFIG.window_days :]
    for name, counts in day[WHOLE].items():
        trailing = sum(profile[WHOLE][name].bins for profile in window)
        for reference in (training[WHOLE][name].bins, trailing):
            missing = counts.nulls
            left = np.append(np.add.reduceat(counts.bins, [0, *DECILES]), missing).astype(np.float64)
            right = np.append(np.add.reduceat(reference, [0, *DECILES]), 0).astype(np.float64)
            kept = left + right > 0
            if distances.psi(left[kept], right[kept]) > 0.1:
                return True
    return False


def alarmed(found: list[Comparison], column: str) -> bool:
    return any(each.column_name == column and each.outcome in ("warning", "critical") for each in found)


# The tables of docs/drift.md

SETTINGS = [
    *(Setting(rows, columns) for rows in (100, 1_000, 100_000) for columns in (4, 12, 40)),
    Setting(1_000, 12, "panel"),
    Setting(1_000, 12, "uneven"),
]
CHANGES = [Change(shift=0.1), Change(shift=0.25), Change(shift=0.5), Change(shift=1.0), Change(missing=0.05)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=int, default=1000)
    days = parser.parse_args().days
    quiet = []
    for setting in SETTINGS:
        rates = without_change(setting, days)
        low, high = rates.interval()
        share = f"{rates.significant / days:.1%} ({low:.1%} to {high:.1%})"
        row = (f"{setting.rows:,}", setting.columns, setting.kind, share, f"{rates.alarms / days:.1%}")
        quiet.append((*row, f"{rates.naive / days:.1%}"))
        print(quiet[-1], flush=True)  # noqa: T201
    found = []
    for rows in (100, 1_000, 100_000):
        for change in CHANGES:
            rates = with_change(Setting(rows, 12), max(days // 5, 1), change)
            found.append(
                (f"{rows:,}", str(change), f"{rates.alarms / rates.days:.0%}", f"{rates.naive / rates.days:.0%}")
            )
            print(found[-1], flush=True)  # noqa: T201
    head = ("rows per day", "columns", "days", "significant (99% interval)", "alarm", "0.1 always")
    text = f"{days:,} days without change; level {CONFIG.level:.0%}.\n\n{markdown(head, quiet)}\n\n"
    text += f"{max(days // 5, 1)} days on which the first of 12 columns changes.\n\n"
    text += markdown(("rows per day", "change", "alarm", "0.1 always"), found)
    _write(text)


def _write(text: str) -> None:
    path = Path(__file__).parents[2] / "docs" / "drift.md"
    begin, end = "<!-- calibration -->", "<!-- /calibration -->"
    before, rest = path.read_text("utf-8").split(begin)
    path.write_text(f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}", "utf-8")


if __name__ == "__main__":
    main()
