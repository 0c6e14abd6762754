"""job new, check, reference: making a job for one's own data."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.asking import Missing
from pipeline.cli.options import (
    JOB,
    DecimalOption,
    DelimiterOption,
    JobOption,
    JsonOption,
    LakeOption,
    TypesOption,
    open_context,
    settings,
)
from pipeline.cli.output import console, emit_json
from pipeline.errors import LakescoreError, ModelNotFound, UsageError, counted
from pipeline.job.project import PROJECT_FILE, read_project
from pipeline.packaged import resources
from pipeline.periods import Grain, Period
from pipeline.records import NAME, check_name
from pipeline.storage import make_folder, translated_os_errors

if TYPE_CHECKING:
    from pipeline.flow.proposing import ModelSaid, Proposal

job_commands = typer.Typer(help="Propose a job for your data, check one, and explain job.toml.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    app.add_typer(job_commands, name="job")


@job_commands.command()
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the new job.", show_default=False)],
    file: Annotated[
        Path, typer.Option("--from", metavar="FILE", help="CSV, JSON Lines or Parquet file like those of each day.")
    ],
    model: Annotated[
        str | None,
        typer.Option("--model", help="A registered model, or a model file.", show_default="the job's name"),
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="Columns a,b that identify a row.", show_default="found in the rows")
    ] = None,
    features: Annotated[
        str | None, typer.Option(help="Columns a,b in training order.", show_default="the model's, or all numbers")
    ] = None,
    types: TypesOption = None,
    decimal: DecimalOption = ".",
    delimiter: DelimiterOption = None,
    rename: Annotated[
        list[str] | None, typer.Option("--rename", help="New names of columns.", metavar="OLD=NEW")
    ] = None,
) -> None:
    """Propose a job from a file of rows and a model: job.toml and input.json, for you to read and edit."""
    from pipeline.flow.proposing import propose
    from pipeline.tabular import sources

    check_name(name, "job")
    folder = settings().jobs / name
    if folder.exists():
        raise UsageError(f"there is a job {name!r} already", where=folder, next_step="edit it, or choose another name")
    said, unregistered = _model(name, model)
    read = sources.find([file], types or (), decimal, delimiter, renamed=rename or ())
    found = propose(name, read, said, _names(key), _names(features))
    with translated_os_errors(folder):
        make_folder(folder)
        (folder / "job.toml").write_text(found.toml, "utf-8")
        (folder / "input.json").write_text(found.suite, "utf-8")
    default = _make_default(name)
    out = console()
    out.print(f"wrote {folder}/job.toml and input.json; read and edit them", markup=False)
    if default:
        out.print(f"commands mean this job without --job: {PROJECT_FILE}", markup=False)
    out.print(f"key {', '.join(found.key)}; {counted(len(found.features), 'feature')}: {', '.join(found.features)}")
    out.print(
        "rows with an empty feature go to quarantine; more than 5% of them stop a run ([policy] in job.toml)",
        markup=False,
    )
    for column, count in found.empty.items():
        out.print(f"  {column} is empty in {count:,} of {counted(found.rows, 'row')}", markup=False)
    out.print("\nNext:")
    for step in _next_steps(
        name, file, said, unregistered, found, _reading(found.types, types, decimal, delimiter, rename)
    ):
        out.print(f"  {step}", markup=False)


def _model(name: str, model: str | None) -> tuple[ModelSaid, Path | None]:
    """Returns what is known of the model, and its file if it is not registered."""
    from pipeline.flow.proposing import ModelSaid
    from pipeline.model.formats import inspect, read_file
    from pipeline.model.remote import open_registry

    path = Path(model) if model else None
    if path is not None and path.is_file():
        found = inspect(read_file(path), path)
        kinds = {feature: str(how["kind"]) for feature, how in found.stated.entries.get("inputs", {}).items()}
        return ModelSaid(name, features=found.features, inputs=found.inputs, kinds=kinds), path
    if model is not None and not NAME.fullmatch(model):
        raise UsageError(
            "no such file, and it cannot be the name of a model",
            where=path,
            expected="a model file, or a name of lakescore models list",
            next_step="correct --model",
        )
    registry, wanted = open_registry(settings().models), model or name
    try:
        versions = registry.manifests(wanted)
    except LakescoreError:
        if model is not None:
            raise
        versions = []
    if not versions:
        if model is not None:
            raise ModelNotFound(
                f"no model is called {model!r}, and no file",
                where=registry.root,
                next_step="name a model of lakescore models list, or a model file",
            )
        return ModelSaid(wanted), None
    version = "production" if "production" in registry.aliases(wanted) else versions[-1].version
    signature = registry.resolve(wanted, version).signature
    kinds = {feature: how.kind for feature, how in signature.inputs.items() if how.kind != "number"}
    return ModelSaid(wanted, version, signature.features, kinds=kinds), None


def _make_default(name: str) -> bool:
    """Makes a job the project's default if it has none; returns whether it did."""
    if not PROJECT_FILE.exists() or read_project().job is not None:
        return False
    text = PROJECT_FILE.read_text("utf-8")
    PROJECT_FILE.write_text(f'{text.rstrip()}\njob = "{name}"\n'.lstrip(), "utf-8")
    return True


def _reading(
    found: dict[str, str], types: list[str] | None, decimal: str, delimiter: str | None, rename: list[str] | None
) -> str:
    """Returns the options with which the file has to be imported, as they were given here."""
    kept = [*(types or ()), *(f"{column}={kind}" for column, kind in found.items() if not types)]
    words = [word for text in kept for word in ("--types", text)]
    words += ["--decimal", decimal] if decimal != "." else []
    words += ["--delimiter", delimiter] if delimiter is not None else []
    words += [word for text in rename or () for word in ("--rename", text)]
    return "".join(f" {shlex.quote(word)}" for word in words)


def _next_steps(
    name: str, file: Path, model: ModelSaid, unregistered: Path | None, found: Proposal, reading: str
) -> list[str]:
    day = (Period.at(Grain.day, datetime.now(UTC), "UTC") - 1).ds
    dated = f"   # or --partition-by {shlex.quote(found.dates[0])}, if it is the day of a row" if found.dates else ""
    steps = []
    if unregistered is not None or model.features is None:
        listed = shlex.quote(",".join(found.features))
        path = "MODEL_FILE" if unregistered is None else shlex.quote(str(unregistered))
        of = f"--name {model.name} --version v1 --features {listed} --alias production"
        steps.append(f"lakescore models register {path} {of}")
    steps.append(f"lakescore import {shlex.quote(str(file))} --job {name} --date {day}{reading}{dated}")
    steps += [f"lakescore job check --job {name}", f"lakescore run --job {name} --date {day}"]
    return steps


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()] if text else []


@job_commands.command()
def check(
    ds: Annotated[
        str | None, typer.Option("--date", help="The day to check.", show_default="the newest with input")
    ] = None,
    job: JobOption = JOB,
    lake: LakeOption = None,
    *,
    json: JsonOption = False,
) -> None:
    """Tell everything that would stop a run: job, model, suites, input, data quality. Writes nothing; exit code 1."""
    from rich.markup import escape

    from pipeline.cli.next_steps import completed
    from pipeline.flow import checking

    ctx = open_context(job, lake, missing=Missing.make)
    found = checking.check(ctx, checking.newest_day(ctx) if ds is None else ctx.job.period(ds).ds)
    wrong = [each for each in found if each.error is not None]
    if json:
        emit_json(
            [
                {"subject": each.subject, "found": each.found, "error": each.error.as_dict() if each.error else None}
                for each in found
            ]
        )
    else:
        for each in found:
            mark = "[green]ok[/]     " if each.error is None else "[red]problem[/]"
            text = each.found if each.error is None else completed(str(each.error))
            console().print(f"{mark}  [bold]{escape(each.subject)}[/]: {escape(text)}")
        console().print("nothing would stop a run" if not wrong else f"{counted(len(wrong), 'problem')} found")
    if wrong:
        raise typer.Exit(1)


@job_commands.command()
def reference() -> None:
    """Print what each key of job.toml means."""
    typer.echo((resources() / "dags" / "jobs" / "README.md").read_text("utf-8"))
