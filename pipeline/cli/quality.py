"""validate, docs, suite check | init, quarantine list | show | release: data quality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer

from pipeline.cli.asking import open_lake
from pipeline.cli.next_steps import completed
from pipeline.cli.options import (
    JOB,
    DateOption,
    JobOption,
    JsonOption,
    LakeOption,
    open_context,
    period_or_last,
    settings,
)
from pipeline.cli.output import console, emit_json, table
from pipeline.context import Context
from pipeline.errors import counted
from pipeline.records import CheckResult, new_run_id

suite = typer.Typer(help="Check a job's suites, or propose one.", no_args_is_help=True)
quarantine = typer.Typer(help="Show the rows in quarantine, or release some.", no_args_is_help=True)

COLOURS = {"passed": "green", "noted": "yellow", "quarantined": "yellow", "stopped": "red", "off": "dim"}


def add_to(app: typer.Typer) -> None:
    app.command()(validate)
    app.command()(docs)
    app.add_typer(suite, name="suite")
    app.add_typer(quarantine, name="quarantine")


def validate(ds: DateOption = None, job: JobOption = JOB, lake: LakeOption = None, *, json: JsonOption = False) -> None:
    """Validate the input of a day. Needs no model and scores nothing. Exit code 3 if a critical check fails."""
    from pipeline.quality import on_demand, verdict
    from pipeline.report import quality_pages

    ctx = open_context(job, lake)
    day = period_or_last(ctx.job, ds)
    run_id = new_run_id()
    checks = on_demand.validate(ctx, day, run_id)
    if ctx.job.report.enabled:
        quality_pages.write(ctx.lake, ctx.job.name, day, run_id)
        quality_pages.write_index(ctx.lake)
    stopped = [check for check in checks if check.outcome == "stopped"]
    if not (json and stopped):
        show_checks(checks, json=json)
    if stopped:
        raise verdict.stop(
            checks,
            f"the input of {day} failed validation",
            ctx.job.folder,
            "fix the input or the suite; see docs/quality.md",
        )


@suite.command()
def check(job: JobOption = JOB, lake: LakeOption = None, *, json: JsonOption = False) -> None:
    """Report the first mistake in a job's suites: an unknown expectation, argument or column."""
    from pipeline.quality import on_demand

    sizes = on_demand.check_suites(open_context(job, lake))
    if json:
        emit_json(sizes)
    else:
        console().print(
            ", ".join(f"{side}.json: {counted(size, 'expectation')}" for side, size in sizes.items())
            + "; no mistakes found"
        )


@suite.command()
def init(ds: DateOption = None, job: JobOption = JOB, lake: LakeOption = None) -> None:
    """Propose an input.json from the data of a day, for you to edit."""
    from pipeline.quality import on_demand

    ctx = open_context(job, lake)
    console().print(f"wrote {on_demand.propose(ctx, period_or_last(ctx.job, ds))}; now edit it", markup=False)


@quarantine.command("list")
def list_(job: JobOption = JOB, lake: LakeOption = None, *, json: JsonOption = False) -> None:
    """Count the rows now in quarantine, by day and reason; also those of a day whose last run was stopped."""
    from pipeline.quality.quarantine import days

    ctx = open_context(job, lake)
    found = days(ctx)
    if json:
        emit_json([asdict(each) for each in found])
    elif found:
        notes = ("", "the run was stopped: they would be")
        rows = [(each.ds, each.reason, each.rows, " ".join(each.keys), notes[each.stopped]) for each in found]
        table(("day", "reason", "rows", "keys, for example", ""), rows)
    else:
        console().print("no rows are in quarantine")
        _say_stopped(ctx)


@quarantine.command()
def show(
    ds: Annotated[str, typer.Option("--date", help="The day, YYYY-MM-DD.")],
    reason: Annotated[str | None, typer.Option(help="Only rows with this reason.")] = None,
    limit: Annotated[int, typer.Option(help="Maximum number of rows.", min=1)] = 100,
    job: JobOption = JOB,
    lake: LakeOption = None,
    *,
    json: JsonOption = False,
) -> None:
    """Show rows in quarantine with their reasons."""
    from pipeline.quality.quarantine import rows

    ctx = open_context(job, lake)
    names, found = rows(ctx, ctx.job.period(ds).ds, reason=reason, limit=limit)
    if json:
        emit_json([dict(zip(names, row, strict=True)) for row in found])
    elif found:
        table(names, [[", ".join(value) if isinstance(value, list) else value for value in row] for row in found])
    else:
        console().print("no such rows are in quarantine")
        _say_stopped(ctx, ctx.job.period(ds).ds)


def _say_stopped(ctx: Context, ds: str | None = None) -> None:
    """Names the days whose last run was stopped, so that the rows that stopped it are not in quarantine."""
    from pipeline.quality.quarantine import days, stopped_otherwise
    from pipeline.report.quality_pages import page_of

    for day in stopped_otherwise(ctx, ds):
        run = next(ctx.lake.records.iter_day(ctx.job.name, day)).run_id
        page = page_of(ctx.job.name, day, run, "input")
        see = f", and {ctx.lake.storage.where(page)}" if ctx.lake.storage.head(page) is not None else ""
        step = completed(f"lakescore plan --check --job {ctx.job.name} --date {day}")
        console().print(f"the last run of {day} was stopped by its checks: {step}{see} say why", markup=False)
    if ds is not None and any(each.ds == ds and each.stopped for each in days(ctx)):
        step = completed(f"lakescore plan --job {ctx.job.name} --date {ds}")
        console().print(f"the last run of {ds} was stopped, so its rows were not kept: {step} shows them", markup=False)


@quarantine.command()
def release(
    keys: Annotated[
        list[str], typer.Argument(help="Keys; join the values of several columns by commas.", show_default=False)
    ],
    ds: Annotated[str, typer.Option("--date", help="The day, YYYY-MM-DD.")],
    job: JobOption = JOB,
    lake: LakeOption = None,
) -> None:
    """Accept rows although they break rules; the next run of the day scores them."""
    from pipeline.quality.quarantine import release as let_pass

    ctx = open_context(job, lake)
    count = let_pass(ctx, ctx.job.period(ds).ds, keys)
    again = completed(f"lakescore run --job {ctx.job.name} --date {ds}")
    released = f"{counted(count, 'row')} released"
    console().print(f"{released}; {again} scores {'it' if count == 1 else 'them'}", markup=False)


def docs(lake: LakeOption = None, *, json: JsonOption = False) -> None:
    """Build the pages of validations that are missing, and their index, as HTML, and print the path of the index."""
    from pipeline.report import quality_pages

    opened = open_lake(settings(lake))
    path = opened.storage.where(quality_pages.write_missing(opened))
    if json:
        emit_json({"index": path})
    else:
        console().print(path, markup=False)


def show_checks(checks: Sequence[CheckResult], *, json: bool = False) -> None:
    """Prints the checks that failed or are switched off, and the number that passed."""
    if json:
        emit_json([check.model_dump(mode="json") for check in checks])
        return
    for line in check_lines(checks):
        console().print(line)


def check_lines(checks: Sequence[CheckResult]) -> list[str]:
    from rich.markup import escape

    from pipeline.quality.verdict import described, failed

    lines = []
    for found in failed(checks):
        colour = COLOURS[found.outcome]
        lines.append(f"[{colour}]{found.outcome:<11}[/] {found.severity.value:<8} {escape(described(found))}")
    passed = sum(check.outcome == "passed" for check in checks)
    return [*lines, f"{passed} of {counted(len(checks), 'check')} passed"] if checks else []
