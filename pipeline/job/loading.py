"""Finds a job by name or folder and reads its `job.toml`. Every mistake raises a JobError that names the key."""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.errors import JobError, nearest
from pipeline.job.config import ADDRESS, DEVICE, SHA256, SIZE, Engine, Job, Report
from pipeline.job.project import job_names, meant_job, no_jobs
from pipeline.job.schedule import DURATION
from pipeline.job.targets import PREFIX, VARIABLE
from pipeline.parsing import first_problem
from pipeline.records import NAME, check_name
from pipeline.settings import Settings

NOT_IN_THE_FILE = ("name", "folder", "digest")
"""Fields of a job that do not come from job.toml."""
WORDS = {
    ADDRESS: "an address such as https://lake.example.org/shop",
    SHA256: "64 hexadecimal digits",
    DEVICE: "auto, cpu, cuda, or one card such as cuda:0",
    SIZE: "a size such as 400MB or 2GiB",
    VARIABLE: "the name of an environment variable, in capitals; its value is a secret that stands in no file",
    PREFIX: "letters, digits, '.', '_', ':' and '-', at most 100, starting with a letter or digit",
    DURATION: "a duration such as 30s, 5m, 6h or 1d",
    rf"^{NAME.pattern}$": "letters, digits, '.', '_' and '-', at most 64, starting with a letter or digit",
    "tuple_type": 'a list, such as ["id"]',
    "model_type": "a table of its own, such as [input]",
    "dict_type": "a table of its own, such as [input.sources]",
    "too_short": "at least one",
    "string_too_short": "some text",
}
"""Readable description of the expected value, by regex pattern or by pydantic's error type."""


def find_job(name_or_folder: str | None, settings: Settings) -> Job:
    """Reads a job, given its name in the jobs folder or the path of its own folder; None is the one that is meant here.

    Raises JobError for an unknown name, with the names of the existing jobs.
    """
    if name_or_folder is None:
        name_or_folder = meant_job(settings)
    if "/" in name_or_folder or name_or_folder in (".", ".."):
        return read_job(Path(name_or_folder), settings)
    check_name(name_or_folder, "job")
    if (settings.jobs / name_or_folder / "job.toml").is_file():
        return read_job(settings.jobs / name_or_folder, settings)
    known = job_names(settings)
    if not known:
        raise no_jobs(settings, name_or_folder)
    raise JobError(
        f"no job is called {name_or_folder!r}{nearest(name_or_folder, known)}",
        where=settings.jobs,
        expected=", ".join(known),
        next_step=f"name one of these, or make {settings.jobs / name_or_folder}/job.toml: lakescore job new --help",
    )


def read_job(folder: Path, settings: Settings) -> Job:
    """Parses `job.toml`. Raises JobError for absent, misspelt or contradictory entries."""
    path = folder / "job.toml"
    try:
        text = path.read_text("utf-8")
        document = tomllib.loads(text)
    except FileNotFoundError:
        raise JobError("the job's folder has no job.toml", where=path, next_step="lakescore job new --help") from None
    except (OSError, ValueError, RecursionError) as error:  # not UTF-8, not TOML, a number of 5,000 digits, "[[[[..."
        raise JobError(f"job.toml cannot be read: {error}", where=path) from None
    for name in NOT_IN_THE_FILE:
        if name in document:
            raise JobError(f"`{name}` cannot be set", where=path, next_step="the folder's name is the job's name")
    try:
        job = Job.model_validate(
            {**document, "name": folder.resolve().name, "folder": folder, "digest": digest(folder)}
        )
    except ValidationError as error:
        raise _job_error(error, path, text) from None
    if job.input.select and not (folder / job.input.select).resolve().is_relative_to(folder.resolve()):
        raise JobError("the SELECT file must be in the job's folder", where=path, got=job.input.select)
    if job.input.select and not (folder / job.input.select).is_file():
        raise JobError("the SELECT file does not exist", where=folder / job.input.select)
    if (problem := job.path_problem) is not None:
        raise JobError(problem, where=path)
    return job.model_copy(
        update={"engine": on_this_machine(job.engine, settings), "report": _shown_at(job.report, settings)}
    )


def on_this_machine(engine: Engine, settings: Settings) -> Engine:
    """Returns the engine with overrides from the environment. Raises JobError that names the invalid variable."""
    machine = {
        name: value for name in ("device", "memory_limit", "threads") if (value := getattr(settings, name)) is not None
    }
    try:
        return Engine.model_validate({**engine.model_dump(), **machine})
    except ValidationError as error:
        variable = f"LAKESCORE_{error.errors()[0]['loc'][0]}".upper()
        raise _job_error(error, f"the environment variable {variable}") from None


def _shown_at(report: Report, settings: Settings) -> Report:
    """Returns where pages are, with the address from the environment. Raises JobError if it is none."""
    if settings.pages is None:
        return report
    try:
        return Report.model_validate({**report.model_dump(), "address": settings.pages})
    except ValidationError as error:
        raise _job_error(error, "the environment variable LAKESCORE_PAGES") from None


def digest(folder: Path) -> str:
    """Returns the sha256 over names and contents of the files in a job's folder."""
    sha = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(part.startswith((".", "__")) for part in path.relative_to(folder).parts):
            content = path.read_bytes()
            sha.update(f"{path.relative_to(folder).as_posix()}\0{len(content)}\0".encode())
            sha.update(content)
    return sha.hexdigest()


def line_of(text: str, location: str) -> int | None:
    """Returns the line of a TOML document on which a key or a table begins; `location` has dots between levels."""
    lines, before = text.splitlines(), 0
    for end in range(1, len(lines) + 1):
        try:
            found: Any = tomllib.loads("\n".join(lines[:end]))
        except ValueError:
            continue  # within a value of several lines
        for step in location.split("."):
            if isinstance(found, list) and step.isdecimal() and int(step) < len(found):
                found = found[int(step)]
            elif isinstance(found, dict) and step in found:
                found = found[step]
            else:
                break
        else:
            written = [bool(line.strip()) and not line.lstrip().startswith("#") for line in lines[before:end]]
            return before + 1 + written.index(True)
        before = end
    return None


def _job_error(error: ValidationError, where: object, text: str = "") -> JobError:
    problem = first_problem(error, Job, words=WORDS)
    if (line := line_of(text, problem.location)) is not None:
        where = f"{where}, line {line}"
    if problem.expected == WORDS[VARIABLE]:  # it may be a secret that belongs into the variable
        problem = replace(problem, got=None)
    if problem.location == "publish":
        problem = replace(problem, expected="[[publish]], in double brackets: a table per target")
    if problem.missing:
        return JobError(problem.what, where=where, next_step=f"add {problem.location} to job.toml")
    expected = problem.expected
    if problem.expected and "." not in problem.location:  # of the document itself, these are not keys of job.toml
        expected = ", ".join(name for name in problem.expected.split(", ") if name not in NOT_IN_THE_FILE)
    return JobError(problem.what, where=where, expected=expected, got=problem.got)
