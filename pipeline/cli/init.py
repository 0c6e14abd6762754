"""init: a folder with an example that runs."""

from __future__ import annotations

import json
import shlex
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.output import console
from pipeline.errors import UsageError, nearest
from pipeline.packaged import examples, resources
from pipeline.storage import make_folder, translated_os_errors

JOB, ABOUT = "job", "example.toml"
"""Of an example's folder: the folder of its job, and the file that says what it is and which commands run it."""
PLACE = "{folder}"
"""Stands in an example's job.toml for the new folder: targets have absolute paths."""
AIRFLOW = ("batch_inference.py", ".airflowignore")
"""The files in `dags/` that make the Airflow DAGs of all jobs."""


@dataclass(frozen=True)
class About:
    """The content of `example.toml`."""

    about: str
    commands: tuple[str, str]
    """What takes one from the empty folder to the result."""
    needs: tuple[str, ...] = ()
    """What must be there beforehand, as lines to print."""


def add_to(app: typer.Typer) -> None:
    app.command()(init)


def init(
    folder: Annotated[
        Path, typer.Argument(metavar="[FOLDER]", help="Folder to create, or one that is empty.")
    ] = Path(),
    example: Annotated[str | None, typer.Option("--example", metavar="NAME", help="The example to write.")] = None,
) -> None:
    """Write an example into an empty folder: a job, a script that trains its model, a DAG. Says what to run next."""
    if example is None:
        raise UsageError("which example?", expected=_listed(), next_step="lakescore init --example NAME")
    files = _files_of(example, folder)
    _write(folder, files)
    about, out = _about(example), console()
    out.print(f"[bold]{example}[/]: {about.about}")
    for path in files:
        out.print(f"  {folder / path}", markup=False)
    if about.needs:
        out.print("\nNeeds:")
        for line in about.needs:
            out.print(f"  {line}", markup=False)
    first, second = about.commands
    out.print("\nNext:")
    out.print(
        f"  {first}" if folder.resolve() == Path.cwd() else f"  cd {shlex.quote(str(folder))} && {first}", markup=False
    )
    out.print(f"  {second}", markup=False)


def _files_of(example: str, folder: Path) -> dict[Path, bytes]:
    """Returns the files of an example with their contents, by their path in the new folder.

    Raises UsageError for an unknown one.
    """
    known = examples()
    if example not in known:
        raise UsageError(f"no example is called {example!r}{nearest(example, list(known))}", expected=_listed())
    source, dags = known[example], resources() / "dags"
    files = {Path("dags") / name: (dags / name).read_bytes() for name in AIRFLOW}
    for path in sorted(source.rglob("*")):
        place = path.relative_to(source)
        if path.is_dir() or place == Path(ABOUT) or "__pycache__" in place.parts:
            continue
        if place.parts[0] == JOB:
            place = Path("dags", "jobs", example, *place.parts[1:])
        files[place] = path.read_bytes()
    job = Path("dags", "jobs", example, "job.toml")
    files[job] = files[job].replace(PLACE.encode(), _in_toml(str(folder.resolve())).encode())
    return files


def _in_toml(text: str) -> str:
    """Returns text as it stands between the quotes of a string in TOML, whose escapes include those of JSON."""
    return json.dumps(text, ensure_ascii=False)[1:-1].replace("\x7f", "\\u007f")


def _write(folder: Path, files: dict[Path, bytes]) -> None:
    """Writes new files. Raises UsageError if there is anything in the folder, other than hidden files (.git, .venv)."""
    if folder.exists() and not folder.is_dir():
        raise UsageError("this is a file, not a folder", where=folder)
    there = sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) if folder.exists() else []
    if there:
        raise UsageError(
            "the folder is not empty, and nothing in it is overwritten",
            where=folder.resolve(),
            got=", ".join(there[:5]) + (", ..." if len(there) > 5 else ""),
            next_step="name a new folder: lakescore init --example NAME FOLDER",
        )
    with translated_os_errors(folder):
        for path, content in files.items():
            make_folder((folder / path).parent)
            with (folder / path).open("xb") as file:
                file.write(content)


def _about(example: str) -> About:
    return About(**tomllib.loads((examples()[example] / ABOUT).read_text("utf-8")))


def _listed() -> str:
    return "; ".join(f"{name} ({_about(name).about})" for name in examples())
