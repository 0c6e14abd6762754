"""A job: what is scored, with what, and what happens with it. `job.toml`, parsed once into frozen models."""

from __future__ import annotations

import hashlib
import tomllib
from datetime import date, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, Field, ValidationError, model_validator

from pipeline.errors import JobError, nearest
from pipeline.queries import resources
from pipeline.records import NAME, Frozen, Name, check_name
from pipeline.reserved import is_reserved
from pipeline.settings import Settings

DEFAULT_JOB = "batch_inference"
DEVICE = r"^(auto|cpu|cuda(:\d+)?)$"
DURATION = r"^[1-9]\d{0,5}[smhd]$"
SIZE = r"^\d+(\.\d+)? ?[KMGT]i?B$"
SHA256 = r"^[0-9a-f]{64}$"
WORDS = {
    SHA256: "64 hexadecimal digits",
    DEVICE: "auto, cpu, cuda, or one card such as cuda:0",
    SIZE: "a size such as 400MB or 2GiB",
    DURATION: "a duration such as 30s, 5m, 6h or 1d",
    rf"^{NAME.pattern}$": "letters, digits, '.', '_' and '-', at most 64, starting with a letter or digit",
    "tuple_type": 'a list, such as ["id"]',
    "model_type": "a table of its own, such as [input]",
    "dict_type": "a table of its own, such as [input.sources]",
    "too_short": "at least one",
    "string_too_short": "some text",
}
"""What is expected, for people: by the pattern, or by pydantic's type of error."""


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
    memory_limit: str = Field(default="400MB", pattern=SIZE)
    threads: int | None = Field(default=None, gt=0, le=1024, strict=True)
    """By default, all cores."""
    batch_rows: int = Field(default=8192, gt=0, strict=True)
    """Rows in one forward pass."""


class Job(Frozen):
    name: Name
    folder: Path
    digest: str
    """sha256 over the files of the folder."""
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

    @model_validator(mode="after")
    def _slices_are_carried(self) -> Job:
        if others := [name for name in self.drift.slices if name not in self.input.carry]:
            raise ValueError(f"drift.slices names {others[0]!r}, which is not carried")
        return self

    @property
    def select_text(self) -> str | None:
        """Raises JobError if the file cannot be read."""
        if self.input.select is None:
            return None
        path = self.folder / self.input.select
        try:
            return path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise JobError(f"the job's SELECT cannot be read: {error}", where=path) from None

    def yesterday(self, now: datetime) -> str:
        """Returns the last day that is over in the job's time zone."""
        return (now.astimezone(ZoneInfo(self.schedule.timezone)).date() - timedelta(days=1)).isoformat()

    def days(self, ds: str) -> list[str]:
        """Returns `ds` and the days to look back to, latest first."""
        return [(date.fromisoformat(ds) - timedelta(days=back)).isoformat() for back in range(self.lookback + 1)]

    @property
    def lookback(self) -> int:
        return self.schedule.lookback_days

    def config(self) -> dict[str, Any]:
        """Returns what the run record keeps of the job."""
        return self.model_dump(mode="json", exclude={"folder", "digest"})


def find_job(name_or_folder: str, settings: Settings) -> Job:
    """Reads a job by its name in the jobs folder, or by the path of its own folder.

    Raises JobError, naming the jobs that exist.
    """
    if "/" in name_or_folder or name_or_folder in (".", ".."):
        return read_job(Path(name_or_folder), settings)
    check_name(name_or_folder, "job")
    shipped = resources() / "dags" / "jobs"
    for root in (settings.jobs, shipped):
        if (root / name_or_folder / "job.toml").is_file():
            return read_job(root / name_or_folder, settings)
    known = job_names(settings) or [path.parent.name for path in sorted(shipped.glob("*/job.toml"))]
    raise JobError(
        f"no job is called {name_or_folder!r}{nearest(name_or_folder, known)}",
        where=settings.jobs,
        expected=", ".join(known) or "a folder with a job.toml",
        next_step=f"make {settings.jobs / name_or_folder}/job.toml, or set LAKESCORE_JOBS to the folder of your jobs",
    )


def job_names(settings: Settings) -> list[str]:
    return [path.parent.name for path in sorted(settings.jobs.glob("*/job.toml"))]


def read_job(folder: Path, settings: Settings) -> Job:
    """Parses `job.toml`. Raises JobError for what is absent, misspelt or contradictory."""
    path = folder / "job.toml"
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise JobError("the job's folder has no job.toml", where=path, next_step="see dags/jobs/README.md") from None
    except (OSError, ValueError, RecursionError) as error:  # not UTF-8, not TOML, a number of 5,000 digits, "[[[[..."
        raise JobError(f"job.toml cannot be read: {error}", where=path) from None
    for name in ("name", "folder", "digest"):
        if name in document:
            raise JobError(f"`{name}` cannot be set", where=path, next_step="the folder's name is the job's name")
    try:
        job = Job.model_validate(
            {**document, "name": folder.resolve().name, "folder": folder, "digest": digest(folder)}
        )
    except ValidationError as error:
        raise _explained(error, path) from None
    if job.input.select and not (folder / job.input.select).resolve().is_relative_to(folder.resolve()):
        raise JobError("the SELECT file must lie in the job's folder", where=path, got=job.input.select)
    if job.input.select and not (folder / job.input.select).is_file():
        raise JobError("the SELECT file is not there", where=folder / job.input.select)
    return job.model_copy(update={"engine": on_this_machine(job.engine, settings)})


def on_this_machine(engine: Engine, settings: Settings) -> Engine:
    """Returns the engine with what the environment overrides. Raises JobError, naming the variable."""
    machine = {
        name: value for name in ("device", "memory_limit", "threads") if (value := getattr(settings, name)) is not None
    }
    try:
        return Engine.model_validate({**engine.model_dump(), **machine})
    except ValidationError as error:
        variable = f"LAKESCORE_{error.errors()[0]['loc'][0]}".upper()
        raise _explained(error, f"the environment variable {variable}") from None


def digest(folder: Path) -> str:
    """Returns the sha256 over names and contents of the files in a job's folder."""
    sha = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(part.startswith((".", "__")) for part in path.relative_to(folder).parts):
            content = path.read_bytes()
            sha.update(f"{path.relative_to(folder).as_posix()}\0{len(content)}\0".encode())
            sha.update(content)
    return sha.hexdigest()


def _explained(error: ValidationError, where: object) -> JobError:
    """Returns the first problem in words; an unknown key comes first, for it may be the one that is missing."""
    problems = error.errors(include_url=False)
    problem = next((each for each in problems if each["type"] == "extra_forbidden"), problems[0])
    location = ".".join(str(step) for step in problem["loc"] if step != "[key]")
    got = None if isinstance(problem["input"], dict) else repr(problem["input"])
    if problem["type"] == "extra_forbidden":
        valid = _keys_at(Job, problem["loc"][:-1])
        name = str(problem["loc"][-1])
        return JobError(
            f"unknown key `{location}`{nearest(name, valid)}", where=where, expected=", ".join(valid), got=name
        )
    if problem["type"] == "missing":
        return JobError(f"`{location}` is missing", where=where, next_step=f"add {location} to job.toml")
    if words := WORDS.get(problem.get("ctx", {}).get("pattern", problem["type"])):
        return JobError(f"`{location}` is not valid", where=where, expected=words, got=got)
    what = problem["msg"].removeprefix("Value error, ")
    return JobError(f"`{location}`: {what}" if location else what, where=where, got=got)


def _keys_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    for step in location:
        annotation = model.model_fields[str(step)].annotation
        inner = next((each for each in (annotation, *get_args(annotation)) if _is_model(each)), None)
        if inner is None:
            return []
        model = inner
    return [name for name in model.model_fields if name not in ("name", "folder", "digest") or model is not Job]


def _is_model(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
