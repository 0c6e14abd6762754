"""plan, run, backfill."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime
from typing import Annotated, Any

import typer

from pipeline.cli.options import JOB, DateOption, JobOption, JsonOption, LakeOption, settings
from pipeline.cli.output import bytes_text, console, emit_json, table
from pipeline.cli.progress import progress
from pipeline.cli.quality import show_checks
from pipeline.context import Context, Progress
from pipeline.errors import InputMissing, LakescoreError, UsageError
from pipeline.job import find_job
from pipeline.records import RunRecord, check_day
from pipeline.run import Outcome


def add_to(app: typer.Typer) -> None:
    app.command()(plan)
    app.command()(run)
    app.command()(backfill)


def plan(ds: DateOption = None, job: JobOption = JOB, lake: LakeOption = None, *, json: JsonOption = False) -> None:
    """Shows what a run of a day would do. Writes nothing."""
    from pipeline.preview import preview

    with progress(quiet=json) as report:
        ctx = _context(job, lake, report)
        found = preview(ctx, _day(ctx, ds))
    if json:
        emit_json(found.as_dict())
        return
    out = console()
    out.print(f"[bold]{ctx.job.name}[/] {found.ds}, model {found.model.name} {found.model.version}")
    rows = [("candidates", found.candidates, f"in {found.input_files} files")]
    rows += [(name, count, "") for name, count in found.dispositions.items()]
    rows[1:2] = [("to score", found.dispositions["scored"], _reasons(found.reasons))]
    table(("", "rows", ""), rows)
    if found.withdrawn:
        out.print(f"{found.withdrawn:,} rows that have a prediction are no longer in the input; they keep it")
    if found.up_to_date:
        out.print("up to date: a run would not read any data")
    elif found.estimated_s is not None:
        out.print(f"about {found.estimated_s:.1f} s of scoring at {found.rows_per_s:,.0f} rows/s, as in past runs")
    else:
        out.print("no past run tells how long it takes")


def run(ds: DateOption = None, job: JobOption = JOB, lake: LakeOption = None, *, json: JsonOption = False) -> None:
    """Scores what is not scored yet of a day, and of the days that the job looks back to."""
    from pipeline import run as flow

    with progress(quiet=json) as report:
        ctx = _context(job, lake, report)
        outcomes = flow.run(ctx, _day(ctx, ds))
    if json:
        emit_json([_as_dict(outcome) for outcome in outcomes])
        return
    for outcome in outcomes:
        show_outcome(outcome)


def backfill(
    first: Annotated[str, typer.Option("--from", help="The first day.")],
    last: Annotated[str, typer.Option("--to", help="The last day; it is included.")],
    job: JobOption = JOB,
    lake: LakeOption = None,
    *,
    airflow: Annotated[bool, typer.Option("--airflow", help="Ask Airflow for the runs, and do not wait.")] = False,
    json: JsonOption = False,
) -> None:
    """Runs each day of a range that has input, oldest first. Goes on past a failed day, and fails at the end then."""
    from pipeline import run as flow

    if check_day(first) > check_day(last):
        raise UsageError("the range ends before it begins", got=f"{first} to {last}")
    if airflow:
        from pipeline import standalone

        machine = settings(lake)
        said = standalone.backfill(find_job(job, machine), machine, first, last)
        emit_json(said) if json else console().print("\n".join(said), markup=False)
        return
    with progress(quiet=True) as report:
        ctx = _context(job, lake, report)
        days = [day for day in ctx.lake.input_days(ctx.job.input.patterns.values()) if first <= day <= last]
        if not days:
            raise InputMissing(f"no day from {first} to {last} has input", where=ctx.lake.storage)
        outcomes = []
        for outcome in flow.backfill(ctx, days):
            outcomes.append(outcome)
            if not json:
                console().print(_line(outcome))
    _finish_backfill(outcomes, first, last, json=json)


def _finish_backfill(outcomes: list[Outcome], first: str, last: str, *, json: bool) -> None:
    states = Counter(_state(outcome) for outcome in outcomes)
    scored = sum(_scored(outcome) for outcome in outcomes)
    missing = (date.fromisoformat(last) - date.fromisoformat(first)).days + 1 - len(outcomes)
    if json:
        emit_json([_as_dict(outcome) for outcome in outcomes])
    else:
        counts = ", ".join(f"{count} {state}" for state, count in states.items())
        absent = f", {missing} without input" if missing else ""
        console().print(f"[bold]{len(outcomes)} days[/]: {counts}{absent}; {scored:,} rows scored")
    if failed := [outcome for outcome in outcomes if outcome.failed]:
        if json:
            raise typer.Exit(1)  # the document says which days, and why; a second one could not be parsed
        raise LakescoreError(
            f"{len(failed)} of {len(outcomes)} days failed",
            got=", ".join(outcome.ds for outcome in failed[:10]) + (", ..." if len(failed) > 10 else ""),
            next_step="the reasons stand above; the same command resumes with the failed days",
        )


def _context(job: str, lake: str | None, report: Progress) -> Context:
    machine = settings(lake)
    return Context.open(find_job(job, machine), machine, report)


def _day(ctx: Context, ds: str | None) -> str:
    return ctx.job.yesterday(datetime.now(UTC)) if ds is None else check_day(ds)


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
        "run_id": record.run_id if record else None,
        "ledger": record.ledger.counts() if record and record.ledger else None,
        "checks": [check.model_dump(mode="json") for check in record.checks] if record else [],
        "statistics": record.statistics.model_dump() if record else None,
        "stages": [stage.model_dump() for stage in record.stages] if record and not outcome.up_to_date else [],
        "peak_memory_bytes": record.peak_memory_bytes if record and not outcome.up_to_date else None,
        "error": outcome.error.as_dict() if outcome.error else None,
    }


def _line(outcome: Outcome) -> str:
    """One line of a backfill."""
    colour = {"failed": "red", "complete": "green"}.get(_state(outcome), "dim")
    text = f"{outcome.ds}  [{colour}]{_state(outcome):<10}[/]"
    record = outcome.record
    if outcome.up_to_date or record is None or record.ledger is None:
        return text
    return f"{text}  {record.ledger.candidates.rows:>11,} rows  {_scored(outcome):>11,} scored"


def show_outcome(outcome: Outcome) -> None:
    """The end of a run: the ledger, what was predicted, what it took."""
    out = console()
    record = outcome.record
    if record is None or record.ledger is None:
        out.print(f"{outcome.ds}: no input, skipped")
        return
    if outcome.up_to_date:
        candidates = record.ledger.candidates.rows
        out.print(f"{outcome.ds}: up to date, {candidates:,} rows (run {record.run_id}); no data was read")
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
    show_checks(record.checks)
    _show_statistics(record)


def _show_statistics(record: RunRecord) -> None:
    out = console()
    shares = ", ".join(f"{name}: {share:.1%}" for name, share in record.statistics.shares.items())
    if shares and record.statistics.mean_confidence is not None:
        out.print(f"predictions {shares}; mean confidence {record.statistics.mean_confidence:.3f}")
    elif shares:
        out.print(f"labels {shares}")
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
