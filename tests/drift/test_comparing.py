"""What alarms and what does not, on made-up days."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pytest

from pipeline.drift import comparing
from pipeline.drift.comparing import Comparison, compare_profile
from pipeline.drift.rhythm import weekly
from pipeline.histograms.counting import WHOLE, Counts, Spec
from pipeline.histograms.table import Profile
from pipeline.job.config import Drift
from pipeline.periods import Grain
from tests.drift import calibration
from tests.drift.calibration import Change, Setting, with_change, without_change

TODAY = "2026-03-30"
EDGES = tuple(float(edge) for edge in range(-5, 6))


def day(values: np.ndarray, *, nulls: int = 0, name: str = "x", edges: tuple[float, ...] = EDGES) -> Profile:
    counts = Counts(Spec("feature", name, edges))
    counts.add_numbers(np.concatenate([values, np.full(nulls, np.nan)]).astype(np.float32), nulls)
    return {WHOLE: {name: counts}}


def normal(seed: int, *, rows: int = 2_000, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=rows) * 2 + shift


def history(days: int, *, shift_a_day: float = 0.0, every: int = 1) -> dict[str, Profile]:
    dates = [date.fromisoformat(TODAY) - timedelta(days=back * every) for back in range(1, days + 1)]
    return {str(each): day(normal(back, shift=-shift_a_day * back)) for back, each in enumerate(dates, start=1)}


def only(found: list[Comparison]) -> Comparison:
    assert len(found) == 1
    return found[0]


def test_day_like_those_before_is_ok() -> None:
    found = only(compare_profile(TODAY, day(normal(0)), None, history(56), Drift()))
    assert (found.outcome, found.reference, found.reference_days) == ("ok", "trailing", 28)
    assert found.threshold is not None
    assert found.psi is not None
    assert found.psi < found.threshold


@pytest.mark.parametrize("days", [0, 5, 9])
def test_too_few_days_before_give_no_outcome(days: int) -> None:
    found = only(compare_profile(TODAY, day(normal(0, shift=3)), None, history(days), Drift()))
    assert (found.outcome, found.p_adjusted) == ("none", None)


def test_shifted_day_alarms_and_a_greater_shift_is_critical() -> None:
    before = history(56)
    outcomes = [
        only(compare_profile(TODAY, day(normal(0, shift=s)), None, before, Drift())).outcome for s in (0, 0.5, 3)
    ]
    assert outcomes == ["ok", "warning", "critical"]


def test_significant_but_small_shift_is_ok() -> None:
    before = {ds: day(normal(index, rows=200_000)) for index, ds in enumerate(history(56))}
    found = only(compare_profile(TODAY, day(normal(99, rows=200_000, shift=0.05)), None, before, Drift()))
    assert found.p_adjusted is not None
    assert found.p_adjusted < 1e-6
    assert found.outcome == "ok"
    sharper = Drift(min_effect=0.0)
    assert (
        only(compare_profile(TODAY, day(normal(99, rows=200_000, shift=0.05)), None, before, sharper)).outcome
        == "warning"
    )


def test_column_that_always_moves_alarms_only_when_it_jumps() -> None:
    before = history(56, shift_a_day=0.1)
    steady = only(compare_profile(TODAY, day(normal(0)), None, before, Drift()))
    jump = only(compare_profile(TODAY, day(normal(0, shift=6)), None, before, Drift()))
    assert (steady.outcome, jump.outcome) == ("ok", "critical")
    assert steady.dispersion is not None
    assert steady.dispersion > 10


def test_missing_values_alarm_although_the_column_always_moves() -> None:
    before = history(56, shift_a_day=0.1)
    found = only(compare_profile(TODAY, day(normal(0, rows=1_900), nulls=100), None, before, Drift()))
    assert (found.outcome, found.missing, found.reference_missing) == ("critical", 0.05, 0.0)


@pytest.mark.parametrize("p_missing", [0.001, 0.9])
def test_missing_values_are_a_second_test_that_counts(monkeypatch: pytest.MonkeyPatch, p_missing: float) -> None:
    """Of two tests, the smaller p-value counts twice: else a column without drift would alarm twice as often."""
    profile = day(normal(0), nulls=10)
    alone = only(compare_profile(TODAY, day(normal(0)), None, history(56), Drift())).p_value
    monkeypatch.setattr(comparing, "_missing", lambda *_: (p_missing, 0.0))
    found = only(compare_profile(TODAY, profile, None, history(56), Drift())).p_value
    assert alone is not None
    assert found == pytest.approx(min(1.0, 2 * min(alone, p_missing)))


def test_values_that_are_usually_missing_are_ok() -> None:
    before = {ds: day(normal(i, rows=1_500), nulls=500 + i % 7) for i, ds in enumerate(history(56))}
    assert only(compare_profile(TODAY, day(normal(0, rows=1_500), nulls=505), None, before, Drift())).outcome == "ok"


def test_same_weekday_compares_with_these_alone() -> None:
    before = history(56)
    for ds in before:
        if date.fromisoformat(ds).weekday() >= 5:
            before[ds] = day(normal(date.fromisoformat(ds).toordinal(), shift=4))
    saturday = "2026-03-28"
    config = Drift(same_weekday=True, window_days=56)
    earlier = {ds: profile for ds, profile in before.items() if ds < saturday}
    earlier |= {str(date.fromisoformat(ds) - timedelta(days=56)): profile for ds, profile in earlier.items()}
    found = only(compare_profile(saturday, day(normal(0, shift=4)), None, earlier, config))
    assert (found.outcome, found.reference_days) == ("ok", 7)
    assert found.dispersion is not None
    assert found.dispersion < 2
    assert only(compare_profile(saturday, day(normal(0)), None, earlier, config)).outcome == "critical"


def test_training_counts_from_the_first_day_on() -> None:
    training = day(normal(7, rows=50_000))
    quiet, shifted = (compare_profile(TODAY, day(normal(0, shift=shift)), training, {}, Drift()) for shift in (0, 3))
    assert [each.outcome for each in quiet] == ["ok", "none"]
    assert [each.outcome for each in shifted] == ["critical", "none"]
    assert shifted[0].mean_shift == pytest.approx(1.5, abs=0.1)


def test_training_with_other_edges_is_not_compared() -> None:
    training = day(normal(7, rows=50_000), edges=(0.0, 1.0))
    assert [each.reference for each in compare_profile(TODAY, day(normal(0)), training, {}, Drift())] == ["trailing"]


def test_few_rows_give_no_outcome() -> None:
    found = compare_profile(TODAY, day(normal(0, rows=30, shift=5)), day(normal(7)), history(56), Drift())
    assert {each.outcome for each in found} == {"none"}


def test_more_columns_need_a_larger_psi() -> None:
    before = history(56)
    alone = only(compare_profile(TODAY, day(normal(0)), None, before, Drift()))
    wide = {WHOLE: {f"x{i}": day(normal(i), name=f"x{i}")[WHOLE][f"x{i}"] for i in range(20)}}
    many = {ds: {WHOLE: {f"x{i}": _renamed(p, f"x{i}") for i in range(20)}} for ds, p in before.items()}
    among = compare_profile(TODAY, wide, None, many, Drift())
    assert min(each.threshold or 0 for each in among) > (alone.threshold or 0)


def _renamed(profile: Profile, name: str) -> Counts:
    counts = profile[WHOLE]["x"]
    made = Counts(Spec("feature", name, counts.spec.edges))
    made.add(counts)
    return made


# How often it alarms: the full figures are made by `python -m tests.drift.calibration`


@pytest.mark.slow
@pytest.mark.parametrize(
    "setting",
    [
        *(Setting(rows, 4) for rows in (100, 1_000, 100_000)),
        Setting(100, 40),
        Setting(1_000, 12, "panel"),
        Setting(1_000, 12, "uneven"),
    ],
    ids=str,
)
def test_days_without_change_alarm_no_more_often_than_stated(setting: Setting) -> None:
    rates = without_change(setting, 150 if setting.columns < 40 else 60)
    assert rates.interval()[0] <= calibration.CONFIG.level
    assert rates.alarms <= rates.significant


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "change", "least"),
    [(100, Change(shift=1.0), 0.95), (1_000, Change(shift=0.5), 0.95), (1_000, Change(missing=0.05), 0.95)],
    ids=str,
)
def test_changed_days_are_found(rows: int, change: Change, least: float) -> None:
    rates = with_change(Setting(rows, 12), 40, change)
    assert rates.alarms / rates.days >= least


def against_training(today: Profile, training: Profile, before: dict[str, Profile]) -> Comparison:
    return next(e for e in compare_profile(TODAY, today, training, before, Drift()) if e.reference == "training")


@pytest.mark.parametrize("since", [0, 3, 7, 13, 14, 20, 27])
def test_lasting_change_alarms_against_training_as_long_as_it_lasts(since: int) -> None:
    """What has changed does not become the usual spread of the days that excuses it."""
    before = {ds: day(normal(i, shift=0.6 if i < since else 0)) for i, ds in enumerate(history(56))}
    found = against_training(day(normal(99, shift=0.6)), day(normal(7, rows=40_000)), before)
    assert found.outcome == "warning"
    assert found.dispersion == pytest.approx(1.0, abs=0.5)


@pytest.mark.parametrize("days", [2, 9, 12, 20, 50])
def test_days_far_from_training_are_critical_however_far_apart_they_are(days: int) -> None:
    """Three values in turn, where training had a whole range: the spread of the days is no excuse."""
    before = {ds: day(np.full(2_000, 3.5 * (i % 3) - 3.5)) for i, ds in enumerate(history(days))}
    found = against_training(day(np.full(2_000, 3.5)), day(normal(7, rows=40_000)), before)
    assert found.outcome == "critical"


def test_weekly_rhythm_is_no_drift_from_training() -> None:
    """A column such as the weekday: each day has one value, each week all of them."""
    before = {ds: weekday(ds) for ds in history(56)}
    training = day(np.repeat(np.arange(7) - 3.0, 5_000) + 0.5)
    found = against_training(weekday(TODAY), training, before)
    assert found.outcome == "ok"
    assert found.psi == pytest.approx(8, abs=3)


def weekday(ds: str) -> Profile:
    return day(np.full(2_000, date.fromisoformat(ds).weekday() - 2.5))


def test_columns_that_follow_the_weekday_are_named() -> None:
    """A weekend of its own is found; a column that moves by noise, or always, is not."""
    weekend = {
        ds: day(normal(i, shift=4 * (date.fromisoformat(ds).weekday() >= 5))) for i, ds in enumerate(history(56))
    }
    (found,) = weekly(TODAY, day(normal(0)), weekend, Drift(), Grain.day)
    assert found.column_name == "x"
    assert found.of_weekday == pytest.approx(1.0, abs=0.6)
    assert found.dispersion > 50
    assert weekly(TODAY, day(normal(0)), weekend, Drift(same_weekday=True), Grain.day) == []
    assert weekly(TODAY, day(normal(0)), history(56), Drift(), Grain.day) == []
    assert weekly(TODAY, day(normal(0)), history(56, shift_a_day=0.1), Drift(), Grain.day) == []
    assert weekly(TODAY, day(normal(0)), dict(list(weekend.items())[:20]), Drift(), Grain.day) == []
