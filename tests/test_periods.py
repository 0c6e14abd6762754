"""Days, weeks, months and hours: their text, their order, and the moments at which they begin and end."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from pipeline.errors import UsageError
from pipeline.periods import Grain, Period, check_ds, is_ds

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "America/Havana", "Asia/Kathmandu", "Pacific/Auckland")


@pytest.mark.parametrize(
    ("grain", "text", "ds"),
    [
        (Grain.day, "2026-02-28", "2026-02-28"),
        (Grain.week, "2026-01-01", "2025-12-29"),
        (Grain.week, "2025-12-29", "2025-12-29"),
        (Grain.week, "2026-01-04", "2025-12-29"),
        (Grain.week, "2026-01-05", "2026-01-05"),
        (Grain.month, "2026-02-28", "2026-02-01"),
        (Grain.month, "2025-12-31", "2025-12-01"),
        (Grain.hour, "2026-03-29T01Z", "2026-03-29T01Z"),
    ],
)
def test_period_is_stored_by_its_first_day_or_hour(grain: Grain, text: str, ds: str) -> None:
    assert Period.parse(text, grain).ds == ds
    assert Period.stored(ds, grain) == Period.parse(text, grain)


@pytest.mark.parametrize(
    ("grain", "text"),
    [
        *((Grain.day, text) for text in ("2026-02-29", "2026-1-1", "20260101", "2026-01-01T00Z", "", "../../x", "\n")),
        *((Grain.day, text) for text in ("2026-01-01\n", "202\u0666-01-01", "0000-01-01")),
        *((Grain.hour, text) for text in ("2026-01-01", "2026-01-01T24Z", "2026-01-01T05", "2026-01-01T05+01:00")),
        (Grain.week, "2026-W01"),
        (Grain.month, "2026-13-01"),
    ],
)
def test_text_that_is_no_period_is_refused(grain: Grain, text: str) -> None:
    with pytest.raises(UsageError, match=grain):
        Period.parse(text, grain)
    assert Period.stored(text, grain) is None


def test_folder_of_another_grain_is_no_period() -> None:
    assert Period.stored("2026-01-01", Grain.week) is None  # a Thursday
    assert Period.stored("2026-01-05", Grain.month) is None
    assert Period.stored("2026-01-05", Grain.hour) is None
    assert [is_ds(text) for text in ("2026-01-05", "2026-01-05T07Z", "2026-01-05T7Z", "..")] == [
        True,
        True,
        False,
        False,
    ]
    with pytest.raises(UsageError):
        check_ds("ds=2026-01-05")


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("grain", Grain)
def test_periods_follow_each_other_without_a_gap(grain: Grain, zone: str) -> None:
    """Each moment, every half hour, lies in the one period that it is between start and end of.

    Around the ends of a year and of February, and where clocks change in March, April, September, October, November.
    """
    for first in ("2025-12-24", "2026-02-26", "2026-03-26", "2026-09-24", "2026-10-22"):
        moment = datetime.fromisoformat(first).replace(tzinfo=UTC)
        last = moment + timedelta(days=12)
        period = Period.at(grain, moment, zone)
        while moment < last:
            if moment >= period.end(zone):
                assert period.end(zone) == (period + 1).start(zone)
                assert period.ds < (period + 1).ds
                period += 1
            assert period.start(zone) <= moment < period.end(zone)
            assert Period.at(grain, moment, zone) == period
            moment += timedelta(minutes=30)


def test_day_on_which_the_clocks_change_has_23_or_25_hours() -> None:
    lengths = {
        ds: (Period.parse(ds).end("Europe/Berlin") - Period.parse(ds).start("Europe/Berlin").astimezone(UTC))
        for ds in ("2026-03-29", "2026-10-25", "2026-10-26")
    }
    assert [length // timedelta(hours=1) for length in lengths.values()] == [23, 25, 24]


def test_week_begins_on_monday_and_month_on_its_first_day() -> None:
    assert Period.parse("2026-01-07", Grain.week).first == date(2026, 1, 5)
    berlin = ZoneInfo("Europe/Berlin")
    assert Period.parse("2026-03-31", Grain.month).start("Europe/Berlin") == datetime(2026, 3, 1, tzinfo=berlin)
    assert [each.ds for each in Period.parse("2026-02-01", Grain.month).before(2)] == ["2025-12-01", "2026-01-01"]


def test_through_lists_periods_from_first_to_last() -> None:
    first, last = Period.parse("2024-02-28"), Period.parse("2024-03-01")
    assert [each.ds for each in first.through(last)] == ["2024-02-28", "2024-02-29", "2024-03-01"]
    assert list(last.through(first)) == []
