"""A job: what is scored, with what, and what happens with it. `job.toml`, parsed once into frozen models."""

from __future__ import annotations

import hashlib
import tomllib
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, get_args
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ValidationError, model_validator

from pipeline.errors import JobError, nearest
from pipeline.job_tables import (
    DEVICE,
    DURATION,
    SHA256,
    SIZE,
    Drift,
    Engine,
    Input,
    Model,
    Notify,
    Policy,
    Quality,
    Report,
    Schedule,
)
from pipeline.queries import resources
from pipeline.records import NAME, Frozen, Name, check_name
from pipeline.settings import Settings

DEFAULT_JOB = "batch_inference"
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
