"""init: a new project, empty or with an example that runs."""

from __future__ import annotations

import shlex
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from pipeline.cli.output import console
from pipeline.errors import UsageError, nearest
from pipeline.job.project import PROJECT_FILE, quoted
from pipeline.packaged import examples, resources
from pipeline.storage import make_folder, translated_os_errors

JOB, ABOUT = "job", "example.toml"
"""Of an example's folder: the folder of its job, and the file that says what it is and which commands run it."""
PLACE = "{folder}"
"""Stands in an example's job.toml for the new folder: targets have absolute paths."""
PROJECT = """# The project of this folder: commands that are run here find lake/, models/ and dags/jobs/ in it.
# job = "NAME" is the job that commands mean without --job; `lakescore job new` sets it for the first one.
"""
IGNORED = "/lake/\n/models/\n/.airflow/\n/.venv/\n__pycache__/\n"
PLACES = {
    "lakescore.toml": "the project: its default job",
    "dags/jobs/": "the jobs, a folder each",
    "dags/batch_inference.py": "makes an Airflow DAG of each job",
    "lake/, models/": "made when they are needed; .gitignore leaves them out",
}
"""What a bare project consists of."""
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
    """Make a project in an empty folder. With an example: a job, a script that trains its model, a DAG; it runs."""
    if example is None:
        files = _bare()
        if (folder / ".gitignore").exists():  # of a repository that was made before
            del files[Path(".gitignore")]
        _write(folder, files, "lakescore init FOLDER")
        _show_bare(folder)
        return
    files = _files_of(example, folder)
    _write(folder, files, f"lakescore init --example {example} FOLDER")
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


def _bare() -> dict[Path, bytes]:
    """Returns the files of a project without a job. The folders of lake and models are made when they are needed."""
    dags = resources() / "dags"
    return {
        **{Path("dags") / name: (dags / name).read_bytes() for name in AIRFLOW},
        Path("dags", "jobs", ".gitkeep"): b"",
        PROJECT_FILE: PROJECT.encode(),
        Path(".gitignore"): IGNORED.encode(),
    }


def _show_bare(folder: Path) -> None:
    out, there = console(), folder.resolve() == Path.cwd()
    out.print(f"[bold]a new project[/] in {escape(str(folder.resolve()))}")
    for path, what in PLACES.items():
        out.print(f"  {folder / path!s:<28} {what}", markup=False)
    out.print("\nNext:")
    step = "lakescore job new NAME --from ROWS.csv --model MODEL.pt"
    out.print(f"  {step}" if there else f"  cd {shlex.quote(str(folder))} && {step}", markup=False)
    out.print("  an example that runs: lakescore init --example NAME; " + ", ".join(examples()), markup=False)


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
    files[job] = files[job].replace(PLACE.encode(), quoted(str(folder.resolve()))[1:-1].encode())
    return files


def _write(folder: Path, files: dict[Path, bytes], command: str) -> None:
    """Writes new files. Raises UsageError if there is anything in the folder, other than hidden files (.git, .venv).

    `command` is what makes the same in a new folder.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError("this is a file, not a folder", where=folder)
    there = sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) if folder.exists() else []
    if there:
        raise UsageError(
            "the folder is not empty, and nothing in it is overwritten",
            where=folder.resolve(),
            got=", ".join(there[:5]) + (", ..." if len(there) > 5 else ""),
            next_step=f"name a new folder: {command}",
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
