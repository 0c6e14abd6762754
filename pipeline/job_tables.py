"""The tables of `job.toml`, as frozen models: what may stand there, and what it means."""

from __future__ import annotations

from datetime import date
from pathlib import PurePosixPath
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, Field, model_validator

from pipeline.records import Frozen, Name
from pipeline.reserved import is_reserved

DEVICE = r"^(auto|cpu|cuda(:\d+)?)$"
DURATION = r"^[1-9]\d{0,5}[smhd]$"
SIZE = r"^\d+(\.\d+)? ?[KMGT]i?B$"
SHA256 = r"^[0-9a-f]{64}$"


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"{name!r} is no time zone of the IANA database") from error
    return name


def _one_day_pattern(pattern: str) -> str:
    if ".." in PurePosixPath(pattern).parts:
        raise ValueError("a path pattern may not contain '..'")
    if "\0" in pattern:
        raise ValueError("a path may not contain a NUL character")
    if "{" in pattern.replace("{ds}", ""):
        raise ValueError("the only placeholder is {ds}")
    return pattern


Column = Annotated[str, Field(min_length=1, pattern=r"^[^\x00]+$")]
Pattern = Annotated[str, Field(min_length=1), AfterValidator(_one_day_pattern)]
Duration = Annotated[str, Field(pattern=DURATION)]
Precision = Literal["float32", "bfloat16"]


def seconds(duration: str) -> int:
    """Returns the seconds of a duration such as `5m`."""
    return int(duration[:-1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[duration[-1]]


class Model(Frozen):
    name: Name
    version: Name = "production"
    """A version, or an alias such as `production`."""
    digest: Annotated[str, Field(pattern=SHA256)] | None = None
    """Of the registered model, if no other is to score whatever the alias says."""
    trust_code: bool = Field(default=False, strict=True)
    """Whether code in the model's file may be run; only with a digest."""

    @model_validator(mode="after")
    def _pinned(self) -> Model:
        if self.trust_code and self.digest is None:
            raise ValueError("`trust_code` needs the model's `digest` beside it; lakescore models show NAME prints it")
        return self

    @property
    def trusted(self) -> str | None:
        """The digest of the model whose code may be run."""
        return self.digest if self.trust_code else None


class Input(Frozen):
    """Where the rows are, and which of their columns matter."""

    path: Pattern | None = None
    """A glob of Parquet files, with `{ds}`, relative to the lake's root or absolute."""
    select: Column | None = None
    """A file in the job's folder: one SELECT over the views named in `sources`; may use `$ds`."""
    sources: dict[Name, Pattern] = {}
    key: tuple[Column, ...] = Field(min_length=1)
    """The columns that name a row within a day."""
    features: tuple[Column, ...] | None = Field(default=None, min_length=1)
    """By default, those of the model's signature."""
    carry: tuple[Column, ...] = ()
    """Columns copied into the predictions."""

    @model_validator(mode="after")
    def _one_place(self) -> Input:
        if (self.path is None) == (self.select is None):
            raise ValueError("give either `path` or `select` (with `sources`)")
        if bool(self.select) != bool(self.sources):
            raise ValueError("`select` and `sources` belong together")
        if not any("{ds}" in pattern for pattern in self.patterns.values()):
            raise ValueError("no path contains {ds}, so every day would read the same rows")
        return self

    @model_validator(mode="after")
    def _distinct_columns(self) -> Input:
        """SQL does not tell `ID` from `id`, so neither do we."""
        folded = {
            name: [column.casefold() for column in getattr(self, name) or ()] for name in ("key", "carry", "features")
        }
        for name, columns in folded.items():
            if twice := sorted({column for column in columns if columns.count(column) > 1}):
                raise ValueError(f"{name} names {', '.join(map(repr, twice))} twice")
        for column in (*self.key, *self.carry):
            if is_reserved(column):
                raise ValueError(f"a prediction has a column {column!r} of its own; rename it in a SELECT")
        if both := set(folded["key"]) & set(folded["carry"]):
            raise ValueError(f"{', '.join(sorted(both))} stands in both key and carry")
        return self

    @property
    def patterns(self) -> dict[str, str]:
        """The path patterns by the name of the view that reads them."""
        return {"unscored": self.path} if self.path else dict(self.sources)


class Policy(Frozen):
    """What happens to rows, and days, that are not as they should be."""

    null_features: Literal["quarantine", "fail", "score"] = "quarantine"
    """`score` hands NULL to the model as NaN."""
    infinite_features: Literal["quarantine", "fail"] = "quarantine"
    null_keys: Literal["quarantine", "fail"] = "quarantine"
    conflicting_duplicates: Literal["quarantine", "fail"] = "quarantine"
    """Rows of one key that differ. Exact copies always collapse into one."""
    extra_columns: Literal["ignore", "fail"] = "ignore"
    """Columns of the input that are neither key, feature nor carried."""
    missing_input: Literal["fail", "wait", "skip"] = "fail"
    """`wait` is Airflow's business, up to `schedule.wait_timeout`; the command line does not wait, it fails."""
    max_quarantined: float = Field(default=0.05, ge=0, le=1, strict=True)
    """The share of a day's rows above which nothing is committed."""


class Schedule(Frozen):
    """When a day is run, and by whom. All but the first two keys are for Airflow alone."""

    timezone: Annotated[str, AfterValidator(_known_zone)] = "UTC"
    lookback_days: int = Field(default=0, ge=0, le=366, strict=True)
    """Earlier days that are looked at too, for rows that came late."""
    cron: str = "0 2 * * *"
    """In the job's time zone; empty: only when somebody, or an asset, asks."""
    assets: tuple[str, ...] = ()
    """Names of Airflow assets; a run begins when all have been updated. Takes the place of `cron`."""
    start_date: date = date(2026, 1, 1)
    catchup: bool = False
    retries: int = Field(default=2, ge=0, le=100, strict=True)
    retry_delay: Duration = "5m"
    """Before the first retry; doubled before each further one, up to an hour."""
    timeout: Duration = "6h"
    """Of one attempt of one stage."""
    wait_timeout: Duration = "6h"
    """How long a run waits for its input, where `policy.missing_input` is `wait`."""
    wait_interval: Duration = "5m"
    deadline: Duration | None = None
    """After this time since it was queued, an unfinished run is reported (and goes on)."""
    in_order: bool = False
    """Whether a day waits for the day before it, one at a time."""
    owner: str = "lakescore"
    tags: tuple[str, ...] = ()


class Notify(Frozen):
    """Who is told, and about what."""

    on: tuple[Literal["success", "warning", "failure", "stopped"], ...] = ("warning", "failure", "stopped")
    mail: tuple[str, ...] = ()
    """Addresses; Airflow sends through its connection `smtp_default`."""
    apprise: tuple[Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")], ...] = ()
    """Names of environment variables that hold Apprise URLs. Not the URLs: they are secrets."""
    confidence_below: float = Field(default=0.5, ge=0, le=1)
    """A mean confidence under this is a warning."""
    share_above: float = Field(default=0.95, ge=0, le=1)
    """A class with more than this share of the predictions is a warning."""


class Quality(Frozen):
    """What is checked beyond the suites `input.json` and `output.json`; see docs/quality.md."""

    enabled: bool = True
    """Whether a run validates its input and its predictions; `lakescore validate` does at any time."""
    off: tuple[Column, ...] = ()
    """Names of built-in checks and guards that are not to run; the report shows them as off."""
    samples: bool = False
    """Whether results and Data Docs may show values of rows that break a rule: personal data, perhaps."""


class Drift(Frozen):
    """How the profile of a day is compared; see docs/drift.md."""

    enabled: bool = True
    """Whether profiles are made and compared."""
    level: float = Field(default=0.01, gt=0, lt=0.5)
    """The chance that any column of a day alarms although nothing changed."""
    min_effect: float = Field(default=0.02, ge=0)
    """The PSI, less what chance gives, below which nothing is said however sure it is."""
    critical: float = Field(default=0.2, ge=0)
    """The same, from which on a warning is critical."""
    window_days: int = Field(default=28, ge=7, le=366, strict=True)
    same_weekday: bool = False
    """Whether a day is compared with the same days of the week alone."""
    slices: tuple[Column, ...] = ()
    """Carried columns whose values are judged apart, too."""
    max_slices: int = Field(default=20, gt=0, le=1000, strict=True)
    """Of each of them, the values with the most rows."""

    @model_validator(mode="after")
    def _long_enough(self) -> Drift:
        if self.same_weekday and self.window_days < 28:
            raise ValueError("with same_weekday, window_days must be 28 or more")
        return self


class Report(Frozen):
    enabled: bool = True
    """Whether each run makes its page, and the index anew; `lakescore report` makes them at any time."""


class Engine(Frozen):
    """Overridden by LAKESCORE_DEVICE, LAKESCORE_MEMORY_LIMIT and LAKESCORE_THREADS."""

    device: str = Field(default="auto", pattern=DEVICE)
    memory_limit: str = Field(default="350MB", pattern=SIZE)
    threads: int | None = Field(default=None, gt=0, le=1024, strict=True)
    """By default, all cores that the process may use; see `tuning.py`."""
    batch_rows: int | None = Field(default=None, gt=0, strict=True)
    """Rows in one forward pass; by default measured, see `tuning.py`."""
    precision: Precision = "float32"
    """Of the forward pass; what is stored is float32 in any case."""
    compile: bool = Field(default=False, strict=True)
    """Whether torch.compile makes code of the model first, which takes seconds and needs a C++ compiler."""
