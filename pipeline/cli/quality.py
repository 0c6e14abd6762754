"""validate, suite check | init, quarantine list | show | release, docs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer

from pipeline.cli.options import JOB, DateOption, JobOption, JsonOption, LakeOption, settings
from pipeline.cli.output import console, emit_json, table
from pipeline.context import Context
from pipeline.job import find_job
from pipeline.records import CheckResult, check_day

suite = typer.Typer(help="Check a job's suites, or propose one.", no_args_is_help=True)
quarantine = typer.Typer(help="Look at the rows in quarantine, and release some.", no_args_is_help=True)

COLOURS = {"passed": "green", "noted": "yellow", "quarantined": "yellow", "stopped": "red", "off": "dim"}


def add_to(app: typer.Typer) -> None:
    app.command()(validate)
    app.command()(docs)
    app.add_typer(suite, name="suite")
    app.add_typer(quarantine, name="quarantine")


def validate(ds: DateOption = None, job: JobOption = JOB, lake: LakeOption = None, *, json: JsonOption = False) -> None:
    """Validates the input of a day, and nothing else: needs no model. Exit code 3 if a critical check fails."""
    from pipeline.quality import alone, verdict

    ctx = _context(job, lake)
    day = _day(ctx, ds)
    checks = alone.validate(ctx, day)
    stopped = [check for check in checks if check.outcome == "stopped"]
    if not (json and stopped):
        show_checks(checks, json=json)
    if stopped:
        raise verdict.stop(
            checks, f"the input fails for {day}", ctx.job.folder, "repair the input, or the suite: docs/quality.md"
        )


@suite.command()
def check(job: JobOption = JOB, lake: LakeOption = None, *, json: JsonOption = False) -> None:
    """Tells the first mistake in a job's suites: an unknown expectation, argument or column."""
    from pipeline.quality import alone

    sizes = alone.check_suites(_context(job, lake))
    if json:
        emit_json(sizes)
    else:
        console().print(
            ", ".join(f"{side}.json: {size} expectations" for side, size in sizes.items()) + "; all in order"
        )


@suite.command()
def init(ds: DateOption = None, job: JobOption = JOB, lake: LakeOption = None) -> None:
    """Proposes input.json from the data of a day, for you to edit."""
    from pipeline.quality import alone

    ctx = _context(job, lake)
    console().print(f"wrote {alone.propose(ctx, _day(ctx, ds))}; now edit it", markup=False)


@quarantine.command("list")
def list_(job: JobOption = JOB, lake: LakeOption = None, *, json: JsonOption = False) -> None:
    """Counts the rows that are rejected now, by day and reason."""
    from pipeline.quality.quarantine import days

    found = days(_context(job, lake))
    if json:
        emit_json([{"ds": ds, "reason": reason, "rows": rows} for ds, reason, rows in found])
    elif found:
        table(("day", "reason", "rows"), found)
    else:
        console().print("no row is in quarantine")


@quarantine.command()
def show(
    ds: Annotated[str, typer.Option("--date", help="The day, YYYY-MM-DD.")],
    reason: Annotated[str | None, typer.Option(help="Only rows with this reason.")] = None,
    limit: Annotated[int, typer.Option(help="The most rows.", min=1)] = 100,
    job: JobOption = JOB,
    lake: LakeOption = None,
    *,
    json: JsonOption = False,
) -> None:
    """Shows rows in quarantine, with their reasons."""
    from pipeline.quality.quarantine import rows

    names, found = rows(_context(job, lake), check_day(ds), reason=reason, limit=limit)
    if json:
        emit_json([dict(zip(names, row, strict=True)) for row in found])
    elif found:
        table(names, [[", ".join(value) if isinstance(value, list) else value for value in row] for row in found])
    else:
        console().print("no such row is in quarantine")


@quarantine.command()
def release(
    keys: Annotated[list[str], typer.Argument(help="Keys; several columns joined by commas.", show_default=False)],
    ds: Annotated[str, typer.Option("--date", help="The day, YYYY-MM-DD.")],
    job: JobOption = JOB,
    lake: LakeOption = None,
) -> None:
    """Lets rows pass in spite of the rules that they break: the next run of the day scores them."""
    from pipeline.quality.quarantine import release as let_pass

    count = let_pass(_context(job, lake), check_day(ds), keys)
    console().print(f"{count:,} rows released; lakescore run --date {ds} scores them")


def docs(lake: LakeOption = None, *, json: JsonOption = False) -> None:
    """Says where the Data Docs of the lake are: all validation results as pages, which work without a network."""
    from pipeline.lake import Lake
    from pipeline.quality import pages

    path = pages.build_index(Lake.open(settings(lake).lake))
    if json:
        emit_json({"index": path})
    else:
        console().print(path, markup=False)


def show_checks(checks: Sequence[CheckResult], *, json: bool = False) -> None:
    """Prints what failed or is switched off, and how many passed."""
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
    return [*lines, f"{passed} of {len(checks)} checks passed"] if checks else []


def _context(job: str, lake: str | None) -> Context:
    machine = settings(lake)
    return Context.open(find_job(job, machine), machine)


def _day(ctx: Context, ds: str | None) -> str:
    return ctx.job.yesterday(datetime.now(UTC)) if ds is None else check_day(ds)
