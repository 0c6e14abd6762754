"""The period that a run is for: a day, week, month or hour, and all arithmetic on periods.

A period is stored as `ds`: `2026-01-31` for a day, the first day for a week (a Monday) or a month, and `2026-01-31T05Z`
for an hour, always in UTC. Days, weeks and months begin at midnight in the job's time zone. Text of one grain sorts by
time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

from pipeline.errors import UsageError

DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
DS = re.compile(rf"{DAY.pattern}(?:T[0-9]{{2}}Z)?")
"""Matches the stored text of a period of any grain."""
EPOCH = datetime(1, 1, 1, tzinfo=UTC)
SINCE_1 = date(1970, 1, 1).toordinal() * 24 - 24
"""Hours from EPOCH to the epoch of timestamps."""
HOUR = timedelta(hours=1)


class Grain(StrEnum):
    hour = "hour"
    day = "day"
    week = "week"
    month = "month"

    @property
    def example(self) -> str:
        """How a period of this grain is written, for error messages."""
        return {
            Grain.hour: "an hour in UTC such as 2026-01-31T05Z",
            Grain.day: "a day such as 2026-01-31",
            Grain.week: "a day of the week, such as 2026-01-26",
            Grain.month: "a day of the month, such as 2026-01-01",
        }[self]

    @property
    def columns(self) -> list[str]:
        """The headings of a calendar's columns; `Period.place` says which period is where."""
        return {
            Grain.hour: [str(hour) for hour in range(24)],
            Grain.month: [str(month) for month in range(1, 13)],
        }.get(self, [str(day) for day in range(1, 32)])


@dataclass(frozen=True, order=True)
class Period:
    grain: Grain
    number: int
    """The consecutive number of the period among those of its grain."""

    @classmethod
    def of_date(cls, grain: Grain, day: date) -> Period:
        """Returns the day, week or month that a date lies in; for hours, the first hour of that date in UTC."""
        match grain:
            case Grain.hour:
                return cls(grain, (day.toordinal() - 1) * 24)
            case Grain.day:
                return cls(grain, day.toordinal())
            case Grain.week:
                return cls(grain, (day.toordinal() - 1) // 7)
            case Grain.month:
                return cls(grain, day.year * 12 + day.month - 1)

    @classmethod
    def at(cls, grain: Grain, moment: datetime, zone: str) -> Period:
        """Returns the period in which a moment lies; `moment` has a time zone."""
        if grain is Grain.hour:
            return cls(grain, math.floor(moment.timestamp()) // 3600 + SINCE_1)
        return cls.of_date(grain, moment.astimezone(ZoneInfo(zone)).date())

    @classmethod
    def parse(cls, text: str, grain: Grain = Grain.day) -> Period:
        """Returns the period that a person or a file names; a week or month may be named by any of its days.

        Raises UsageError if the text names no period of this grain.
        """
        reason = f"not written as {'YYYY-MM-DDTHHZ' if grain is Grain.hour else 'YYYY-MM-DD'}"
        try:
            if grain is Grain.hour and DS.fullmatch(text) and text.endswith("Z"):
                return cls.at(grain, datetime.strptime(text, "%Y-%m-%dT%HZ").replace(tzinfo=UTC), "UTC")
            if grain is not Grain.hour and DAY.fullmatch(text):
                return cls.of_date(grain, date.fromisoformat(text))
        except ValueError as error:
            reason = str(error)
        raise UsageError(f"{text!r} is not {_a(grain)}: {reason}", expected=grain.example, got=repr(text))

    @classmethod
    def stored(cls, ds: str, grain: Grain = Grain.day) -> Period | None:
        """Returns the period with this `ds`, or None if none of this grain has it: a foreign folder, another grain."""
        try:
            found = cls.parse(ds, grain)
        except UsageError:
            return None
        return found if found.ds == ds else None

    @property
    def ds(self) -> str:
        """The text under which the period is stored."""
        if self.grain is Grain.hour:
            return (EPOCH + self.number * HOUR).isoformat()[:13] + "Z"
        return self.first.isoformat()

    @property
    def first(self) -> date:
        """The first day; for an hour, the day in UTC that it lies in."""
        match self.grain:
            case Grain.hour:
                return (EPOCH + self.number * HOUR).date()
            case Grain.day:
                return date.fromordinal(self.number)
            case Grain.week:
                return date.fromordinal(self.number * 7 + 1)
            case Grain.month:
                return date(self.number // 12, self.number % 12 + 1, 1)

    @property
    def place(self) -> tuple[str, int]:
        """The row and the column, from 0, in a calendar: hours by day, days and weeks by month, months by year."""
        match self.grain:
            case Grain.hour:
                return self.ds[:10], int(self.ds[11:13])
            case Grain.month:
                return self.ds[:4], self.first.month - 1
            case _:
                return self.ds[:7], self.first.day - 1

    def start(self, zone: str) -> datetime:
        """Returns the moment at which the period begins, in the time zone."""
        if self.grain is Grain.hour:
            return (EPOCH + self.number * HOUR).astimezone(ZoneInfo(zone))
        return datetime(self.first.year, self.first.month, self.first.day, tzinfo=ZoneInfo(zone))

    def end(self, zone: str) -> datetime:
        """Returns the moment at which the period is over, which is the start of the next one."""
        return (self + 1).start(zone)

    def __add__(self, periods: int) -> Period:
        return Period(self.grain, self.number + periods)

    def __sub__(self, periods: int) -> Period:
        return self + -periods

    def through(self, last: Period) -> Iterator[Period]:
        """Yields the periods from this one to `last`, inclusive."""
        return (Period(self.grain, number) for number in range(self.number, last.number + 1))

    def before(self, count: int) -> list[Period]:
        """Returns the `count` periods before this one, oldest first."""
        return [self - back for back in range(count, 0, -1)]


def check_ds(value: str) -> str:
    """Returns `value` if it is the stored text of a period of any grain. Raises UsageError."""
    grain = Grain.hour if "T" in value else Grain.day
    return Period.parse(value, grain).ds


def is_ds(value: str) -> bool:
    try:
        return bool(check_ds(value))
    except UsageError:
        return False


def _a(grain: Grain) -> str:
    return f"an {grain}" if grain is Grain.hour else f"a {grain}"
