"""The table `[schedule]` of `job.toml`: the period that a run is for, and when it is due."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, Field, model_validator

from pipeline.periods import Grain, Period
from pipeline.records import Frozen

DURATION = r"^[1-9]\d{0,5}[smhd]$"
LAG = r"^(0|[1-9]\d{0,5})[smhd]$"
CRONS = {"hour": "5 * * * *", "day": "0 2 * * *", "week": "0 2 * * 1", "month": "0 2 1 * *"}
"""Default of `cron`, by grain."""


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"{name!r} is not a time zone of the IANA database") from error
    return name


Duration = Annotated[str, Field(pattern=DURATION)]


def seconds(duration: str) -> int:
    """Returns the seconds of a duration such as `5m`."""
    return int(duration[:-1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[duration[-1]]


class Schedule(Frozen):
    """When a day is run, and who owns the job. All keys but the first two apply only to Airflow."""

    every: Grain = Grain.day
    """The period that a run is for. Days, weeks and months begin at midnight in the job's time zone."""
    timezone: Annotated[str, AfterValidator(_known_zone)] = "UTC"
    lag: Annotated[str, Field(pattern=LAG)] | None = None
    """How long before a run is due its period lies; by default, the run is for the last period that is over."""
    lookback: int = Field(default=0, ge=0, le=366, strict=True)
    """Number of earlier periods that a run also checks for late rows, 0 to 366."""
    lookback_days: int = Field(default=0, ge=0, le=366, strict=True)
    """The same, of a job of days."""
    cron: str = "0 2 * * *"
    """Cron expression in the job's time zone; if empty, runs start only manually or by an asset.

    The default is at night, for hours five minutes after the hour, for weeks on Monday, for months on the first day.
    """
    assets: tuple[str, ...] = ()
    """Names of Airflow assets; a run starts when all have been updated. Replaces `cron`."""
    start_date: date = date(2026, 1, 1)
    """The day in whose period scheduled runs begin, in the job's time zone."""
    catchup: bool = False
    since_last_run: bool = Field(default=False, strict=True)
    """Whether a scheduled run also takes the earlier periods that have become due since the run before it was due."""
    retries: int = Field(default=2, ge=0, le=100, strict=True)
    retry_delay: Duration = "5m"
    """Delay before the first retry; doubled before each further retry, up to one hour."""
    timeout: Duration = "6h"
    """Time limit of one attempt of one stage."""
    wait_timeout: Duration = "6h"
    """How long a run waits for its input if `policy.missing_input` is `wait`."""
    wait_interval: Duration = "5m"
    deadline: Duration | None = None
    """Time since queueing after which an unfinished run is reported; the run continues."""
    in_order: bool = False
    """Whether periods run one at a time, each waiting for the one before it."""
    owner: str = "lakescore"
    tags: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _cron_of_the_grain(cls, values: Any) -> Any:
        """Sets the default of `cron`. A value that is none is left to the validation."""
        default = CRONS.get(str(values.get("every"))) if isinstance(values, dict) else None
        return values if default is None or "cron" in values else {**values, "cron": default}

    @model_validator(mode="after")
    def _one_lookback_in_the_words_of_the_grain(self) -> Schedule:
        if self.lookback and self.lookback_days:
            raise ValueError("lookback and lookback_days are the same; give one of them")
        if self.lookback_days and self.every is not Grain.day:
            raise ValueError(f"lookback_days counts days; a job of {self.every}s says `lookback`")
        return self

    @model_validator(mode="after")
    def _run_before_is_known(self) -> Schedule:
        if self.since_last_run and (self.assets or not self.cron):
            raise ValueError("since_last_run needs `cron`: only a schedule tells when the run before was due")
        return self

    def last_due(self, moment: datetime) -> Period:
        """Returns the last period that is due at a moment, by default the last one that is over.

        `moment` has a time zone.
        """
        if self.lag is None:
            return Period.at(self.every, moment, self.timezone) - 1
        return Period.at(self.every, moment - timedelta(seconds=seconds(self.lag)), self.timezone)

    def due_from(self, period: Period) -> datetime:
        """Returns the moment from which a run is for this period, or for a later one."""
        if self.lag is None:
            return period.end(self.timezone)
        return period.start(self.timezone).astimezone(UTC) + timedelta(seconds=seconds(self.lag))
