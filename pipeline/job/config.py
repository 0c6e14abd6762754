"""The tables of `job.toml` as frozen models: allowed keys, their values and their meaning."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from pipeline.errors import InputEmpty, InputMissing, JobError, UsageError
from pipeline.job.input import Column, Input
from pipeline.job.schedule import Schedule
from pipeline.job.targets import AnyTarget
from pipeline.lake.patterns import Pattern, pattern
from pipeline.periods import Grain, Period
from pipeline.records import Frozen, Name

DEVICE = r"^(auto|cpu|cuda(:\d+)?)$"
PERIOD_PARAMETER = re.compile(r"\$(ds|start|end)\b")
WITHIN_FILES = "; for a period within larger files, name the column with the time of each row as `partition_by`"
SIZE = r"^\d+(\.\d+)? ?[KMGT]i?B$"
ADDRESS = r"^https?://[^\s/]+(/\S*)?$"
SHA256 = r"^[0-9a-f]{64}$"


def _share(value: object) -> object:
    """Returns the number that a text such as `5%` means; anything else as it is."""
    if not isinstance(value, str):
        return value
    if not (found := re.fullmatch(r"(\d+(?:\.\d+)?) ?%", value.strip())):
        raise ValueError("a share is a number from 0 to 1, or a text such as '5%'")
    return float(found[1]) / 100


def _offset(pattern: Pattern) -> str:
    """Names the way out if two hours have the same path because the clocks go back."""
    return ", such as {ds:%Y-%m-%dT%H%z}, or timezone = 'UTC'" if pattern.grain is Grain.hour else ""


Precision = Literal["float32", "bfloat16"]


class Model(Frozen):
    name: Name
    version: Name = "production"
    """A version, or an alias such as `production`."""
    digest: Annotated[str, Field(pattern=SHA256)] | None = None
    """Digest of the registered model; if set, only this model may score, whatever the alias points to."""
    trust_code: bool = Field(default=False, strict=True)
    """Whether code in the model's file may be run; requires `digest`."""

    @model_validator(mode="after")
    def _pinned(self) -> Model:
        if self.trust_code and self.digest is None:
            raise ValueError("`trust_code` also needs the model's `digest`; lakescore models show NAME prints it")
        return self

    @property
    def trusted(self) -> str | None:
        """The digest of the model whose code may be run; None if no code may be run."""
        return self.digest if self.trust_code else None


class Policy(Frozen):
    """How to handle invalid rows and missing days."""

    null_features: Literal["quarantine", "fail", "score"] = "quarantine"
    """What to do with rows that have NULL features; `score` passes NULL to the model as NaN."""
    infinite_features: Literal["quarantine", "fail"] = "quarantine"
    null_keys: Literal["quarantine", "fail"] = "quarantine"
    conflicting_duplicates: Literal["quarantine", "fail"] = "quarantine"
    """What to do with different rows that have the same key. Exact copies are always merged into one row."""
    carried_change: Literal["leave", "publish"] = "leave"
    """What to do with rows of which only carried values have changed: leave what is stored, or publish a new revision
    with the stored outputs."""
    withdrawn: Literal["keep", "mark"] = "keep"
    """What to do with predictions whose key has left the input; marked ones are not in the view `predictions`."""
    extra_columns: Literal["ignore", "fail"] = "ignore"
    """What to do about input columns that are neither key, feature nor carried."""
    missing_input: Literal["fail", "wait", "skip"] = "fail"
    """Under Airflow, `wait` waits up to `schedule.wait_timeout`; the command line does not wait, it fails."""
    empty_input: Literal["fail", "skip"] | None = None
    """What to do with files that have no rows; by default they are skipped if missing input is."""
    max_quarantined: Annotated[float, BeforeValidator(_share), Field(ge=0, le=1, strict=True)] = 0.05
    """Share of quarantined rows in a day, 0 to 1 or as text such as `5%`, above which nothing is committed."""

    def skips(self, error: InputMissing) -> bool:
        """Tells whether a day without input, or without rows in it, is skipped rather than failed."""
        empty = isinstance(error, InputEmpty)
        return (self.empty_input if empty and self.empty_input else self.missing_input) == "skip"


class Notify(Frozen):
    """Recipients of notifications, and the events that trigger them."""

    on: tuple[Literal["success", "warning", "failure", "stopped"], ...] = ("warning", "failure", "stopped")
    mail: tuple[str, ...] = ()
    """Email addresses; Airflow sends through its connection `smtp_default`."""
    apprise: tuple[Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")], ...] = ()
    """Names of environment variables that contain Apprise URLs; the URLs themselves are secrets."""
    confidence_below: float = Field(default=0.5, ge=0, le=1)
    """Mean confidence, 0 to 1, below which a warning is raised."""
    share_above: float = Field(default=0.95, ge=0, le=1)
    """Share of one class in the predictions of a period, 0 to 1, above which a warning is raised."""


class Quality(Frozen):
    """Switches for validation; the rules are in the suites `input.json` and `output.json`. See docs/quality.md."""

    enabled: bool = True
    """Whether a run validates its input and its predictions; `lakescore validate` always does."""
    off: tuple[Column, ...] = ()
    """Names of built-in checks and guards to switch off; the report shows them as off."""
    samples: bool = False
    """Whether results and pages may show values of rows that break a rule; these may be personal data."""


class Drift(Frozen):
    """How the profile of a day is compared with others; see docs/drift.md."""

    enabled: bool = True
    """Whether profiles are made and compared."""
    level: float = Field(default=0.01, gt=0, lt=0.5)
    """Significance level: the probability that any column of a day raises an alarm although nothing has changed."""
    min_effect: float = Field(default=0.02, ge=0)
    """PSI, minus its expected value by chance, below which there is no alarm, however significant the change."""
    critical: float = Field(default=0.2, ge=0)
    """PSI, minus its expected value by chance, from which a warning is critical."""
    window_days: int = Field(default=28, ge=7, le=366, strict=True)
    """Number of earlier periods (days, weeks, ...) that a period is compared with, 7 to 366."""
    same_weekday: bool = False
    """Whether a day is compared only with the same days of the week; only for days."""
    slices: tuple[Column, ...] = ()
    """Carried columns; each of their values is also compared separately."""
    max_slices: int = Field(default=20, gt=0, le=1000, strict=True)
    """Number of values compared per slice column, 1 to 1000: those with the most rows."""

    @model_validator(mode="after")
    def _long_enough(self) -> Drift:
        if self.same_weekday and self.window_days < 28:
            raise ValueError("with same_weekday, window_days must be 28 or more")
        return self


class Report(Frozen):
    enabled: bool = True
    """Whether each run writes its page and updates the index; `lakescore report` writes them at any time."""
    address: str | None = Field(default=None, pattern=ADDRESS)
    """Where a web server shows the lake's `reports/` and `quality/docs/`, for links. LAKESCORE_PAGES overrides it."""


class Engine(Frozen):
    """How a run uses the machine.

    LAKESCORE_DEVICE, LAKESCORE_MEMORY_LIMIT and LAKESCORE_THREADS override the first three keys.
    """

    device: str = Field(default="auto", pattern=DEVICE)
    memory_limit: str | None = Field(default=None, pattern=SIZE)
    """Memory limit of DuckDB; by default what fits the columns and the machine, see `database/resources.py`."""
    threads: int | None = Field(default=None, gt=0, le=1024, strict=True)
    """Number of workers, and at most as many threads of DuckDB; by default, all cores that the process may use."""
    batch_rows: int | None = Field(default=None, gt=0, strict=True)
    """Rows per forward pass; by default measured, see `scoring/tuning.py`."""
    precision: Precision = "float32"
    """Precision of the forward pass; predictions are always stored as float32."""
    compile: bool = Field(default=False, strict=True)
    """Whether to compile the model with torch.compile, which takes seconds and needs a C++ compiler."""
    name: Literal["threads", "processes", "spark"] = "threads"
    """What scores the rows: threads of one process, or processes that each score some of the day's keys; with `spark`,
    on the machines of the cluster that LAKESCORE_SPARK names."""
    buckets: int | None = Field(default=None, gt=0, le=10_000, strict=True)
    """Number of parts, by key, into which a day is split; by default from its rows, its columns and the memory limit.
    Not for `threads`."""
    min_rows: int = Field(default=1_000_000, ge=0, strict=True)
    """Number of rows below which a day is scored by threads, whatever the name says: splitting would not pay off."""


class Job(Frozen):
    """What a job.toml says, with the name and the folder of the job."""

    name: Name
    folder: Path
    digest: str
    """The sha256 over names and contents of the files in the folder."""
    description: str = ""
    model: Model
    input: Input
    policy: Policy = Policy()
    schedule: Schedule = Schedule()
    engine: Engine = Engine()
    notify: Notify = Notify()
    quality: Quality = Quality()
    drift: Drift = Drift()
    report: Report = Report()
    publish: tuple[AnyTarget, ...] = ()

    @model_validator(mode="after")
    def _targets_have_names_of_their_own(self) -> Job:
        names = [target.name for target in self.publish]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two [[publish]] tables are called {twice[0]!r}")
        return self

    @model_validator(mode="after")
    def _slices_are_carried(self) -> Job:
        if others := [name for name in self.drift.slices if name not in self.input.carry]:
            raise ValueError(f"drift.slices names {others[0]!r}, which is not carried")
        return self

    @model_validator(mode="after")
    def _weekdays_are_of_days(self) -> Job:
        if self.drift.same_weekday and self.grain is not Grain.day:
            raise ValueError(f"drift.same_weekday is for jobs of days, not of {self.grain}s")
        return self

    @property
    def announces(self) -> bool:
        """Whether deliveries to any target are announced to people."""
        return any(target.announced for target in self.publish)

    @property
    def path_problem(self) -> str | None:
        """Why a run cannot tell which rows are of its period, or None. Reads the job's SELECT if the paths do not tell.

        At least one source needs paths of its own for each period; others may be shared, as tables that are joined.
        """
        dated = [each for each in self.patterns.values() if each.dated]
        for each in dated:
            if each.constant is not None:
                return (
                    f"{each.constant} in {each.text!r} is the same for all {self.grain}s: a run would read only a part "
                    f"of its {self.grain}; use * for what lies within one"
                )
        shared = [each.same_paths for each in dated]
        if all(shared) and not self.divides_rows:
            if not dated or shared[0] is None:
                return f"no path contains {{ds}}, so every {self.grain} would read the same rows{WITHIN_FILES}"
            return (
                f"the path {dated[0].text!r} is the same for {shared[0][0].ds} and {shared[0][1].ds}, so a run cannot "
                f"tell which rows are of its {self.grain}; use {{ds}}, or more parts{_offset(dated[0])}{WITHIN_FILES}"
            )
        for each in dated:
            if not each.same_paths and (period := each.unreadable) is not None:
                return f"{each.text!r} cannot be read back: of which {self.grain} is the path of {period.ds}?"
        return None

    @property
    def divides_rows(self) -> bool:
        """Whether the job chooses the rows of a period by their values, so that periods may share files."""
        if self.input.partition_by:
            return True
        return self.input.select is not None and PERIOD_PARAMETER.search(self.select_text or "") is not None

    @property
    def patterns(self) -> dict[str, Pattern]:
        """The path patterns, by the name of the view that reads them."""
        zone = self.schedule.timezone
        return {name: pattern(text, self.grain, zone) for name, text in self.input.patterns.items()}

    @property
    def select_text(self) -> str | None:
        """The text of the job's SELECT, or None if it has none. Raises JobError if the file cannot be read."""
        if self.input.select is None:
            return None
        path = self.folder / self.input.select
        try:
            return path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise JobError(f"the job's SELECT cannot be read: {error}", where=path) from None

    @property
    def grain(self) -> Grain:
        return self.schedule.every

    @property
    def first_period(self) -> Period:
        """The first period that a scheduled run is for."""
        zone = self.schedule.timezone
        return Period.at(self.grain, Period.of_date(Grain.day, self.schedule.start_date).start(zone), zone)

    def period(self, text: object) -> Period:
        """Returns the period of this job that a person names. Raises UsageError if it is none."""
        return Period.parse(str(text), self.grain)

    def range(self, first: str | None, last: str | None) -> tuple[Period | None, Period | None]:
        """Returns the ends of a range that a person names. Of hours, either end may be a day in the job's time zone.

        Raises UsageError if an end is no period of this job, or if the range ends before it begins.
        """
        begin, end = (self._end(text, later=later) for text, later in ((first, False), (last, True)))
        if begin is not None and end is not None and begin > end:
            raise UsageError("the range ends before it begins", got=f"{first} to {last}")
        return begin, end

    def _end(self, text: str | None, *, later: bool) -> Period | None:
        if text is None:
            return None
        if self.grain is Grain.hour and "T" not in text:
            day, zone = Period.parse(text), self.schedule.timezone
            return (
                Period.at(self.grain, day.end(zone), zone) - 1
                if later
                else Period.at(self.grain, day.start(zone), zone)
            )
        return self.period(text)

    def last_due(self, moment: datetime) -> Period:
        """Returns the last period that is due at a moment, by default the last one that is over.

        `moment` has a time zone.
        """
        return self.schedule.last_due(moment)

    def due_from(self, period: Period) -> datetime:
        """Returns the moment from which a run is for this period, or for a later one."""
        return self.schedule.due_from(period)

    def days(self, ds: str) -> list[str]:
        """Returns `ds` and the periods to look back to, latest first."""
        period = Period.parse(ds, self.grain)
        return [(period - back).ds for back in range(self.lookback + 1)]

    @property
    def lookback(self) -> int:
        return self.schedule.lookback or self.schedule.lookback_days

    def config(self) -> dict[str, Any]:
        """Returns the configuration that is stored in the run record."""
        return self.model_dump(mode="json", exclude={"folder", "digest"})
