"""query, catalog: questions about the stored data."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from pipeline.cli.asking import open_lake
from pipeline.cli.options import JOB, JobOption, JsonOption, LakeOption, settings
from pipeline.cli.output import console, emit_json, report, table
from pipeline.database import sql_files
from pipeline.errors import LakescoreError, UsageError
from pipeline.job.config import Job
from pipeline.job.loading import find_job
from pipeline.machine import bounded_memory, bytes_of
from pipeline.settings import Settings

if TYPE_CHECKING:
    from pipeline.lake.layout import Lake

BESIDE_DUCKDB = 600_000_000
"""Bytes that a query may take beyond DuckDB's limit: rows on their way out, stacks of threads, modules."""
FORMATS = ("table", "csv", "json", "parquet")

JobOfQuery = Annotated[
    str | None,
    typer.Option(
        "--job", help="$job of a named query, and the job whose input is the view `unscored`.", show_default="all jobs"
    ),
]
ParamOption = Annotated[
    list[str] | None,
    typer.Option("--param", "-p", metavar="NAME=VALUE", help="Value of the parameter $NAME; can be repeated."),
]
FormatOption = Annotated[
    str | None,
    typer.Option(
        "--format", metavar="|".join(FORMATS), help="Output format.", show_default="table, or by the suffix of FILE"
    ),
]
OutputOption = Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write to this file.")]
LimitOption = Annotated[int, typer.Option("--limit", min=1, help="Maximum number of rows in a table.")]
TimeoutOption = Annotated[
    float, typer.Option("--timeout", metavar="SECONDS", min=0.001, help="Time limit of the query.")
]
SpreadsheetOption = Annotated[
    bool,
    typer.Option("--spreadsheet-safe", help="In CSV, put an apostrophe before texts that a spreadsheet would compute."),
]


def add_to(app: typer.Typer) -> None:
    app.command()(query)
    app.command()(catalog)


def query(
    query: Annotated[str | None, typer.Argument(metavar="[NAME or SELECT]", help="A named query, or SQL.")] = None,
    param: ParamOption = None,
    listing: Annotated[bool, typer.Option("--list", help="List the named queries and the views.")] = False,
    form: FormatOption = None,
    output: OutputOption = None,
    limit: LimitOption = 1000,
    timeout: TimeoutOption = 60,
    spreadsheet_safe: SpreadsheetOption = False,
    job: JobOfQuery = None,
    lake: LakeOption = None,
    json: JsonOption = False,
) -> None:
    """Query the lake: run a named query, or one SELECT over its views. Read-only."""
    if listing or query is None:
        _list(json=json)
        return
    from pipeline.cli import rows
    from pipeline.query.running import DEFAULT_LIMITS, Limits, bind_parameters, parameters_of, run_query

    chosen = _format(form, output, json=json)
    machine = settings(lake)
    named = sql_files.find(query) if re.fullmatch(r"[\w-]+", query) else None
    values: dict[str, Any] = dict(map(_parameter, param or []))
    if named is not None:
        if job is not None and "job" in parameters_of(named):
            values.setdefault("job", job)
        values = bind_parameters(named, values)
    text = query if named is None else named.text
    if spreadsheet_safe and chosen is not rows.Format.csv:
        raise UsageError("--spreadsheet-safe is for CSV", expected="--format csv", got=chosen)
    found_job = _job_of(text, job, machine)
    stored = open_lake(machine)
    limits = Limits(timeout, machine.memory_limit or DEFAULT_LIMITS.memory_limit, machine.threads)
    with (
        bounded_memory(bytes_of(limits.memory_limit) + BESIDE_DUCKDB),
        run_query(stored, text, values, job=found_job, limits=limits, stuck=_end_process) as result,
    ):
        if spreadsheet_safe:
            result = result.flat().spreadsheet_safe(_keys(stored, found_job))  # noqa: PLW2901
        if chosen is rows.Format.table:
            rows.show(result, limit)
        else:
            rows.write(result, chosen, output)


def _end_process(error: LakescoreError) -> NoReturn:
    """Ends this process from a thread, since the main thread is in the middle of a step of DuckDB that goes on."""
    report(error)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(error.exit_code)


def _keys(lake: Lake, job: Job | None) -> set[str]:
    """Returns the columns that are part of a key in the lake, or in the input of `job`."""
    last_days = [(name, lake.records.days(name)[-1]) for name in lake.records.jobs()]
    runs = (run for name, day in last_days for run in lake.records.of_day(name, day)[:1])
    return {"key_text", *(job.input.key if job else ()), *(name for run in runs for name in run.plan.key)}


def catalog(job: JobOption = JOB, lake: LakeOption = None, *, json: JsonOption = False) -> None:
    """Write lake.duckdb, which offers the same views to any DuckDB client. `unscored` is the input of the job."""
    from pipeline.query.catalog import write_catalog

    machine = settings(lake)
    path = write_catalog(open_lake(machine), find_job(job, machine))
    if json:
        emit_json({"path": path})
    else:
        console().print(f"wrote {path}: open it with any DuckDB client, version 1.4 or newer", markup=False)


def _list(*, json: bool) -> None:
    from pipeline.query.running import parameters_of
    from pipeline.query.views import NAMES

    known = {query: parameters_of(query) for query in sql_files.named().values()}
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
    console().print(f"views for your own SELECT: {', '.join(NAMES)}, unscored (of --job)", markup=False)
    console().print('for example: lakescore query "SELECT ds, count(*) FROM predictions GROUP BY ds"', markup=False)


def _format(form: str | None, output: Path | None, *, json: bool) -> Any:
    from pipeline.cli.rows import Format

    suffix = output.suffix.removeprefix(".") if output else ""
    name = form or ("json" if json else suffix if suffix in FORMATS else "table")
    if name not in FORMATS:
        raise UsageError(f"unknown format {name!r}", expected=", ".join(FORMATS))
    if output is not None and name == "table":
        raise UsageError("a table cannot be written to a file", expected="--format csv, json or parquet", got=output)
    return Format(name)


def _parameter(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise UsageError("a parameter must be NAME=VALUE", expected="such as --param ds=2026-01-31", got=text)
    return name, value


def _job_of(text: str, job: str | None, machine: Settings) -> Job | None:
    """Returns the job whose input the query may read: `job`, else the default job if the query uses `unscored`."""
    if job is None and not re.search(r"\bunscored\b", text, re.IGNORECASE):
        return None
    return find_job(job or JOB, machine)
