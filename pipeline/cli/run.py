"""plan, run: scoring a day."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from pipeline.cli import asking
from pipeline.cli.options import (
    JOB,
    DateOption,
    JobOption,
    JsonOption,
    LakeOption,
    open_context,
    period_or_last,
)
from pipeline.cli.outcomes import as_dict, changes, reasons_text, show_outcome, show_reasons
from pipeline.cli.output import console, emit_json, table
from pipeline.cli.progress import progress
from pipeline.cli.publish import show_targets
from pipeline.errors import QualityStop, counted
from pipeline.quality import rejections

if TYPE_CHECKING:
    from pipeline.context import Context
    from pipeline.flow.preview import Preview


def add_to(app: typer.Typer) -> None:
    app.command()(plan)
    app.command()(run)


def plan(
    ds: DateOption = None,
    job: JobOption = JOB,
    lake: LakeOption = None,
    *,
    check: Annotated[
        bool,
        typer.Option("--check", help="Evaluate the whole input suite, and exit with 3 if the run would be stopped."),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Show what a run of a day would do. Writes nothing."""
    from pipeline.flow.preview import preview

    with progress(quiet=json) as report:
        ctx = open_context(job, lake, report)
        found = preview(ctx, period_or_last(ctx.job, ds), whole=check)
    if json:
        emit_json(found.as_dict())
    else:
        _show_plan(ctx, found)
    if check and found.stops:
        raise typer.Exit(QualityStop.exit_code)


def _show_plan(ctx: Context, found: Preview) -> None:
    out = console()
    out.print(f"[bold]{ctx.job.name}[/] {found.ds}, model {found.model.name} {found.model.version}")
    rows = [("candidates", found.candidates, f"in {counted(found.input_files, 'file')}")]
    rows += [(name, count, "") for name, count in found.dispositions.items()]
    rows[1:2] = [("to score", found.dispositions["scored"], reasons_text(found.reasons))]
    table(("", "rows", ""), rows)
    show_reasons(found.quarantine)
    for line in changes(found.carried_left, found.withdrawn, found.to_mark, marks=ctx.job.policy.withdrawn == "mark"):
        out.print(line)
    if found.up_to_date:
        out.print("up to date: a run would not read any data")
    elif found.renews:
        out.print(f"a run would make the results of run {found.renews} current again, and not read any data")
    elif not found.stops:
        _show_cost(found)
    for why in found.stops:
        out.print(f"[red]would be stopped[/]: {escape(why)}")
    if found.stops and (advice := rejections.advice(found.quarantine, ctx.job.input.key)):
        out.print(advice, markup=False)


def _show_cost(found: Preview) -> None:
    """Prints what would score a day, and for how long."""
    out, choice = console(), found.choice
    if choice.buckets is not None:
        word, more = "bucket" if choice.buckets == 1 else "buckets", " or more" if choice.at_least else ""
        out.print(f"scored in {choice.buckets:,} {word} of keys{more}, by {choice.engine}")
    if found.estimated_s is not None:
        past = "past runs" if found.scored_alike else "a past run, whose day was scored otherwise"
        speed = f"{found.rows_per_s:,.0f} rows/s, and {found.estimated_cpu_s:.1f} CPU s"
        out.print(f"about {found.estimated_s:.1f} s of scoring at {speed}, as in {past}")
    else:
        out.print("no past run to estimate the duration from")


def run(
    ds: DateOption = None,
    job: JobOption = JOB,
    lake: LakeOption = None,
    *,
    create: asking.CreateOption = False,
    future: asking.FutureOption = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what the run would do, as plan does; write nothing.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Score the rows of a day, and of the job's look-back days, that have no current prediction."""
    from pipeline.flow import day as flow

    if dry_run:
        plan(ds, job, lake, json=json)
        return
    with progress(quiet=json) as report:
        ctx = open_context(job, lake, report, asking.writes(create=create))
        asking.check_date(ctx.job, ds, future=future)
        outcomes = flow.run(ctx, period_or_last(ctx.job, ds))
    if json:
        emit_json([as_dict(ctx, outcome) for outcome in outcomes])
    for outcome in outcomes if not json else ():
        show_outcome(ctx, outcome)
        if outcome.record is not None:
            show_targets(ctx, outcome.record)
    if any(outcome.left(ctx.job) for outcome in outcomes):
        raise typer.Exit(1)
