"""The project that a command works in: the working folder, with an optional `lakescore.toml`, and its jobs."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import JobError
from pipeline.parsing import first_problem
from pipeline.records import NAME
from pipeline.settings import Settings

PROJECT_FILE = Path("lakescore.toml")
DEFAULT_JOB = "batch_inference"
"""The job that a command means in a project that has it and names no other."""


class Project(BaseModel):
    """The content of `lakescore.toml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    job: str | None = Field(None, pattern=rf"^{NAME.pattern}$")
    """Name of the job that commands mean without `--job`."""


def quoted(text: str) -> str:
    """Returns text as a basic string of TOML, whose escapes include those of JSON."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def read_project(path: Path = PROJECT_FILE) -> Project:
    """Returns the project of the working folder. Raises JobError for a file that cannot be read or has other keys."""
    try:
        document = tomllib.loads(path.read_text("utf-8"))
        return Project.model_validate(document)
    except FileNotFoundError:
        return Project(job=None)
    except ValidationError as error:
        problem = first_problem(error, Project)
        raise JobError(problem.what, where=path, expected=problem.expected, got=problem.got) from None
    except (OSError, ValueError) as error:
        raise JobError(f"{path} cannot be read: {error}", where=path.absolute()) from None


def job_names(settings: Settings) -> list[str]:
    return [path.parent.name for path in sorted(settings.jobs.glob("*/job.toml"))]


def meant_job(settings: Settings) -> str:
    """Returns the job that a command means without `--job`.

    In this order: LAKESCORE_JOB, the project's default, `batch_inference`, the only job. Raises JobError with the list
    of the jobs if none of these says it.
    """
    if settings.job:
        return settings.job
    if (named := read_project().job) is not None:
        return named
    names = job_names(settings)
    if DEFAULT_JOB in names:
        return DEFAULT_JOB
    if len(names) == 1:
        return names[0]
    if names:
        raise JobError(
            f"which of the {len(names)} jobs?",
            where=settings.jobs,
            expected=f"--job with one of {', '.join(names)}",
            next_step=f'add --job {names[0]}, or set LAKESCORE_JOB, or write job = "{names[0]}" into {PROJECT_FILE}',
        )
    raise no_jobs(settings)


def no_jobs(settings: Settings, name: str | None = None) -> JobError:
    """Returns the error for a folder without any job."""
    there = settings.jobs.is_dir()
    return JobError(
        "there is no job here" if name is None else f"no job is called {name!r}: there is none here",
        where=settings.jobs.absolute() if there else f"{settings.jobs.absolute()}, a folder that does not exist",
        expected="a folder with a job.toml for each job",
        next_step="go to the folder of your project, or set LAKESCORE_JOBS; lakescore init makes a new one",
    )
