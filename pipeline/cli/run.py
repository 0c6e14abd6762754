"""plan, run, backfill: scoring days."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

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
    settings,
)
from pipeline.cli.output import bytes_text, console, emit_json, table
from pipeline.cli.progress import progress
from pipeline.cli.publish import show_targets
from pipeline.cli.quality import show_checks
from pipeline.errors import InputMissing, LakescoreError, QualityStop, counted
from pipeline.flow.day import Outcome
from pipeline.histograms.shares import percentages
from pipeline.job.config import Job
from pipeline.job.loading import find_job
from pipeline.quality import rejections
from pipeline.records import RunRecord

if TYPE_CHECKING:
    from pipeline.context import Context
    from pipeline.flow.preview import Preview
    from pipeline.lake.layout import Lake
    from pipeline.quality.rejections import Reason


MOST_WARNINGS = 5
"""Number of warnings of a run that are printed."""


def add_to(app: typer.Typer) -> None:
    app.command()(plan)
    app.command()(run)
    app.command()(backfill)


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
    rows[1:2] = [("to score", found.dispositions["scored"], _reasons(found.reasons))]
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


def show_reasons(reasons: Sequence[Reason]) -> None:
    """Prints why rows are in quarantine, with a few of their keys."""
    if reasons:
        table(
            ("quarantined because", "rows", "keys, for example"),
            [(each.reason, each.rows, " ".join(each.keys)) for each in reasons],
        )


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
    json: JsonOption = False,
) -> None:
    """Score the rows of a day, and of the job's look-back days, that have no current prediction."""
    from pipeline.flow import day as flow

    with progress(quiet=json) as report:
        ctx = open_context(job, lake, report, asking.writes(create=create))
        asking.check_date(ctx.job, ds, future=future)
        outcomes = flow.run(ctx, period_or_last(ctx.job, ds))
    if json:
        emit_json([_as_dict(outcome) for outcome in outcomes])
    for outcome in outcomes if not json else ():
        show_outcome(outcome, ctx.lake)
        if outcome.record is not None:
            show_targets(ctx, outcome.record)
    if any(outcome.left(ctx.job) for outcome in outcomes):
        raise typer.Exit(1)


def backfill(
    first: Annotated[str, typer.Option("--from", help="First day.")],
    last: Annotated[str, typer.Option("--to", help="Last day, inclusive.")],
    job: JobOption = JOB,
    lake: LakeOption = None,
    *,
    create: asking.CreateOption = False,
    airflow: Annotated[bool, typer.Option("--airflow", help="Let Airflow run the days; do not wait for them.")] = False,
    json: JsonOption = False,
) -> None:
    """Run each day of a range that has input, oldest first. Continues after a failed day, and fails at the end."""
    from pipeline.flow import day as flow

    machine = settings(lake)
    found = find_job(job, machine)
    begin, end = found.range(first, last)
    assert begin is not None
    assert end is not None
    if airflow:
        from pipeline.orchestration import local_airflow

        said = local_airflow.backfill(found, machine, begin, end)
        emit_json(said) if json else console().print("\n".join(said), markup=False)
        return
    with progress(quiet=True) as report:
        ctx = open_context(job, lake, report, asking.writes(create=create))
        periods = [period.ds for period in begin.through(end)]
        days = flow.with_input(ctx, periods)
        if not days:
            raise InputMissing(f"no {ctx.job.grain} from {first} to {last} has input", where=ctx.lake.storage)
        outcomes = []
        for outcome in flow.backfill(ctx, days):
            outcomes.append(outcome)
            if not json:
                console().print(_line(outcome))
    _finish_backfill(outcomes, found, len(periods), json=json)
    if left := [outcome for outcome in outcomes if outcome.record and outcome.left(found)]:
        if json:
            raise typer.Exit(1)
        raise _not_handed_on(ctx, left, len(outcomes))


def _finish_backfill(outcomes: list[Outcome], job: Job, asked: int, *, json: bool) -> None:
    states = Counter(_state(outcome) for outcome in outcomes)
    scored = sum(_scored(outcome) for outcome in outcomes)
    missing = asked - len(outcomes)
    if json:
        emit_json([_as_dict(outcome) for outcome in outcomes])
    else:
        counts = ", ".join(f"{count} {state}" for state, count in states.items())
        absent = f", {missing} without input" if missing else ""
        console().print(
            f"[bold]{counted(len(outcomes), str(job.grain))}[/]: {counts}{absent}; {counted(scored, 'row')} scored"
        )
    if failed := [outcome for outcome in outcomes if outcome.failed]:
        if json:
            raise typer.Exit(1)  # the document names the failed days and errors; a second one would break parsing
        raise LakescoreError(
            f"{len(failed)} of {counted(len(outcomes), str(job.grain))} failed",
            got=", ".join(outcome.ds for outcome in failed[:10]) + (", ..." if len(failed) > 10 else ""),
            next_step="see the reasons above; the same command resumes with the failed days",
        )


def _not_handed_on(ctx: Context, left: list[Outcome], all_of_them: int) -> LakescoreError:
    """Says for the last of these days what has become of it at each target."""
    last = left[-1].record
    assert last is not None
    console().print(f"{last.ds}:", end=" ")
    show_targets(ctx, last)
    return LakescoreError(
        f"{len(left)} of {all_of_them} {ctx.job.grain}s are scored, but not handed on",
        got=", ".join(outcome.ds for outcome in left[:10]) + (", ..." if len(left) > 10 else ""),
        next_step="see the reasons above; the same command tries again, and scores nothing anew",
    )


def _state(outcome: Outcome) -> str:
    if outcome.failed:
        return "failed"
    if outcome.up_to_date:
        return "up to date"
    return "skipped" if outcome.record is None else outcome.record.state.value


def _scored(outcome: Outcome) -> int:
    if outcome.up_to_date or outcome.record is None or outcome.record.ledger is None:
        return 0
    return outcome.record.ledger.scored.rows


def _as_dict(outcome: Outcome) -> dict[str, Any]:
    record = outcome.record
    return {
        "ds": outcome.ds,
        "state": _state(outcome),
        "skipped": outcome.skipped,
        "run_id": record.run_id if record else None,
        "ledger": record.ledger.counts() if record and record.ledger else None,
        "carried_left": record.carried_left if record else None,
        "withdrawn": record.withdrawn if record else None,
        "marked": record.marked.rows if record else None,
        "checks": [check.model_dump(mode="json") for check in record.checks] if record else [],
        "statistics": record.statistics.model_dump() if record else None,
        "stages": [stage.model_dump() for stage in record.stages] if record and not outcome.up_to_date else [],
        "peak_memory_bytes": record.peak_memory_bytes if record and not outcome.up_to_date else None,
        "warnings": list(record.warnings) if record else [],
        "error": outcome.error.as_dict() if outcome.error else None,
    }


def _line(outcome: Outcome) -> str:
    """Returns the line of a backfill for one day."""
    colour = {"failed": "red", "complete": "green"}.get(_state(outcome), "dim")
    text = f"{outcome.ds}  [{colour}]{_state(outcome):<10}[/]"
    record = outcome.record
    if outcome.skipped:
        return f"{text}  {outcome.skipped}"
    if outcome.up_to_date or record is None or record.ledger is None:
        return text
    warned = f"  [yellow]{counted(len(record.warnings), 'warning')}[/]" if record.warnings else ""
    return f"{text}  {record.ledger.candidates.rows:>11,} rows  {_scored(outcome):>11,} scored{warned}"


def show_outcome(outcome: Outcome, lake: Lake | None = None) -> None:
    """Prints the result of a run: ledger, quarantine (read from the lake), checks, predictions, time and memory."""
    out = console()
    record = outcome.record
    if record is None or record.ledger is None:
        out.print(f"{outcome.ds}: skipped, {outcome.skipped}", markup=False)
        return
    if outcome.up_to_date:
        candidates = record.ledger.candidates.rows
        out.print(f"{outcome.ds}: up to date, {counted(candidates, 'row')} (run {record.run_id}); no data was read")
        return
    out.print(
        f"[bold]{record.job}[/] {record.ds}, model {record.model.name} {record.model.version}, run {record.run_id}"
    )
    ledger = record.ledger.counts()
    rows = [
        (name, count, "") for name, count in ledger.items() if count or name in ("candidates", "scored", "unchanged")
    ]
    rows[1] = ("scored", ledger["scored"], _reasons(record.statistics.reasons))
    table(("", "rows", ""), rows)
    if record.renews:
        out.print(f"the results of run {record.renews} are current again; no data was read")
    marks = record.job_config.get("policy", {}).get("withdrawn") == "mark"
    for line in changes(record.carried_left, record.withdrawn, record.marked.rows, marks=marks):
        out.print(line)
    if lake is not None and record.ledger.quarantined.rows:
        show_reasons(rejections.of_run(lake, record))
    show_checks(record.checks)
    _show_warnings(record)
    _show_statistics(record)


def _show_warnings(record: RunRecord) -> None:
    """Prints what did not stop the run, such as drift. The run's page has all of it."""
    for text in record.warnings[:MOST_WARNINGS]:
        console().print(f"[yellow]warning[/]: {escape(text)}")
    if (more := len(record.warnings) - MOST_WARNINGS) > 0:
        console().print(f"and {counted(more, 'more warning')}: lakescore report shows all")


def changes(carried_left: int, withdrawn: int, marked: int, *, marks: bool) -> Iterator[str]:
    """Yields what became of rows of which only carried values changed, and of predictions without an input row."""
    if carried_left:
        rows, have = counted(carried_left, "unchanged row"), "has" if carried_left == 1 else "have"
        yield f"{rows} {have} other carried values now; the stored ones are kept"
    if withdrawn:
        fate = f"the job marks such rows, {marked:,} of them now" if marks else "their predictions are kept"
        rows, are = counted(withdrawn, "predicted row"), "is" if withdrawn == 1 else "are"
        yield f"{rows} {are} no longer in the input; {fate}"


def _show_statistics(record: RunRecord) -> None:
    out = console()
    shares = ", ".join(f"{name}: {share}" for name, share in percentages(record.statistics.shares).items())
    if shares and record.statistics.mean_confidence is not None:
        out.print(f"predictions {shares}; mean confidence {record.statistics.mean_confidence:.3f}", markup=False)
    elif shares:
        out.print(f"labels {shares}", markup=False)
    if record.statistics.range:
        out.print(record.statistics.range)
    times = ", ".join(
        f"{stage.stage} {stage.wall_s:.1f} s" + (f" ({stage.rows_per_s:,.0f} rows/s)" if stage.rows else "")
        for stage in record.stages
        if stage.wall_s
    )
    out.print(f"{times}; peak memory {bytes_text(record.peak_memory_bytes)}")


def _reasons(reasons: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in reasons.items() if count)
