"""query, catalog, status: ask what is stored."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline import queries
from pipeline.cli.options import JOB, JobOption, JsonOption, LakeOption, settings
from pipeline.cli.output import console, emit_json, table
from pipeline.errors import ModelError, UsageError
from pipeline.job import Job, find_job
from pipeline.lake import Lake
from pipeline.records import ModelRef, check_day
from pipeline.settings import Settings

FORMATS = ("table", "csv", "json", "parquet")

JobOfQuery = Annotated[
    str | None,
    typer.Option("--job", help="The $job of a named query, and whose input is `unscored`.", show_default="all jobs"),
]
ParamOption = Annotated[
    list[str] | None, typer.Option("--param", "-p", metavar="NAME=VALUE", help="A value for $NAME; can be repeated.")
]
FormatOption = Annotated[
    str | None,
    typer.Option("--format", metavar="|".join(FORMATS), help="How rows come out.", show_default="table, or by FILE"),
]
OutputOption = Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write to a file.")]
LimitOption = Annotated[int, typer.Option("--limit", min=1, help="At most so many rows of a table.")]
TimeoutOption = Annotated[float, typer.Option("--timeout", metavar="SECONDS", min=0.001, help="How long it may take.")]
FromOption = Annotated[str | None, typer.Option("--from", help="The first day.", show_default="the first there is")]
ToOption = Annotated[str | None, typer.Option("--to", help="The last day.", show_default="the last there is")]


def add_to(app: typer.Typer) -> None:
    app.command()(query)
    app.command()(catalog)
    app.command()(status)


def query(
    query: Annotated[str | None, typer.Argument(metavar="[NAME or SELECT]", help="A named query, or SQL.")] = None,
    param: ParamOption = None,
    listing: Annotated[bool, typer.Option("--list", help="List the named queries and the views.")] = False,
    form: FormatOption = None,
    output: OutputOption = None,
    limit: LimitOption = 1000,
    timeout: TimeoutOption = 60,
    job: JobOfQuery = None,
    lake: LakeOption = None,
    json: JsonOption = False,
) -> None:
    """Asks the lake: a named query, or one SELECT over its views. It can only read."""
    if listing or query is None:
        _list(json=json)
        return
    from pipeline import query as sandbox
    from pipeline.cli import rows

    chosen = _format(form, output, json=json)
    machine = settings(lake)
    named = queries.find(query) if re.fullmatch(r"[\w-]+", query) else None
    values: dict[str, Any] = dict(map(_parameter, param or []))
    if named is not None:
        if job is not None and "job" in sandbox.parameters(named):
            values.setdefault("job", job)
        values = sandbox.bind(named, values)
    text = query if named is None else named.text
    limits = sandbox.Limits(timeout, machine.memory_limit or sandbox.DEFAULT.memory_limit, machine.threads)
    with sandbox.run(Lake.open(machine.lake), text, values, job=_job_of(text, job, machine), limits=limits) as result:
        if chosen is rows.Format.table:
            rows.show(result, limit)
        else:
            rows.write(result, chosen, output)


def catalog(job: JobOption = JOB, lake: LakeOption = None, *, json: JsonOption = False) -> None:
    """Writes lake.duckdb, with the same views for any other DuckDB client. `unscored` is the input of the job."""
    from pipeline import catalog as catalogs

    machine = settings(lake)
    path = catalogs.write(Lake.open(machine.lake), find_job(job, machine))
    if json:
        emit_json({"path": path})
    else:
        console().print(f"{path} is written: open it with any DuckDB client, 1.4 or newer", markup=False)


def status(
    job: JobOption = JOB,
    first: FromOption = None,
    last: ToOption = None,
    lake: LakeOption = None,
    *,
    json: JsonOption = False,
) -> None:
    """Shows the calendar of a job's days: complete, partial, stale (other model), missing, or without input."""
    from pipeline import status as calendar
    from pipeline.cli.days import show

    machine = settings(lake)
    found_job = find_job(job, machine)
    model = _model(found_job, machine)
    ends = [None if day is None else check_day(day) for day in (first, last)]
    days = calendar.status(Lake.open(machine.lake), found_job, model, *ends)
    if json:
        ref = model.model_dump() if model else None
        emit_json({"job": found_job.name, "model": ref, "days": [day.as_dict() for day in days]})
    else:
        show(found_job.name, model, days)


def _list(*, json: bool) -> None:
    from pipeline.query import parameters
    from pipeline.views import NAMES

    known = {query: parameters(query) for query in queries.named().values()}
    if json:
        described = [
            {"name": query.name, "title": query.title, "parameters": {name: vars(each) for name, each in its.items()}}
            for query, its in known.items()
        ]
        emit_json({"queries": described, "views": [*NAMES, "unscored"]})
        return
    rows = []
    for query, its in known.items():
        names = (name if each.default is None else f"[{name}]" for name, each in its.items())
        rows.append((query.name, query.title, ", ".join(names)))
    table(("query", "returns", "--param"), rows)
    console().print(f"views for a SELECT of your own: {', '.join(NAMES)}, unscored (of --job)", markup=False)
    console().print('such as  lakescore query "SELECT ds, count(*) FROM predictions GROUP BY ds"', markup=False)


def _format(form: str | None, output: Path | None, *, json: bool) -> Any:
    from pipeline.cli.rows import Format

    suffix = output.suffix.removeprefix(".") if output else ""
    name = form or ("json" if json else suffix if suffix in FORMATS else "table")
    if name not in FORMATS:
        raise UsageError(f"there is no format {name!r}", expected=", ".join(FORMATS))
    if output is not None and name == "table":
        raise UsageError("a table is for the terminal", expected="--format csv, json or parquet", got=output)
    return Format(name)


def _parameter(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise UsageError("a parameter is written NAME=VALUE", expected="such as --param ds=2026-01-31", got=text)
    return name, value


def _job_of(text: str, job: str | None, machine: Settings) -> Job | None:
    """Returns the job whose input the query may read: the one given, or the default one if it asks for `unscored`."""
    if job is None and not re.search(r"\bunscored\b", text, re.IGNORECASE):
        return None
    return find_job(job or JOB, machine)


def _model(job: Job, machine: Settings) -> ModelRef | None:
    """Returns the job's model, or None and says so on stderr."""
    from pipeline.model.remote import open_registry

    try:
        return open_registry(machine.models).resolve(job.model.name, job.model.version).ref
    except ModelError as error:
        console(stderr=True).print(f"{error.what}: which days are stale is not known", markup=False)
        return None
