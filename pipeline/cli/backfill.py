"""backfill: scoring many days."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Annotated

import typer

from pipeline.cli import asking
from pipeline.cli.options import JOB, JobOption, JsonOption, LakeOption, open_context, settings
from pipeline.cli.outcomes import as_dict, line, scored_rows, state_of
from pipeline.cli.output import console, emit_json
from pipeline.cli.progress import progress
from pipeline.cli.publish import show_targets
from pipeline.context import Context
from pipeline.errors import InputMissing, LakescoreError, QualityStop, TransientError, UsageError, counted
from pipeline.flow.day import Outcome
from pipeline.job.config import Job
from pipeline.job.loading import find_job
from pipeline.lake.states import FAILED, STALE, PeriodState
from pipeline.periods import Period
from pipeline.report import facts
from pipeline.settings import Settings


def add_to(app: typer.Typer) -> None:
    app.command()(backfill)


def backfill(
    first: Annotated[str | None, typer.Option("--from", help="First day.")] = None,
    last: Annotated[str | None, typer.Option("--to", help="Last day, inclusive.")] = None,
    job: JobOption = JOB,
    lake: LakeOption = None,
    *,
    failed: Annotated[
        bool, typer.Option("--failed", help="Only days whose newest run failed, was stopped, or did not finish.")
    ] = False,
    stale: Annotated[
        bool,
        typer.Option(
            "--stale", help="Only days that another model scored, or whose input or predictions changed since."
        ),
    ] = False,
    create: asking.CreateOption = False,
    airflow: Annotated[bool, typer.Option("--airflow", help="Let Airflow run the days; do not wait for them.")] = False,
    json: JsonOption = False,
) -> None:
    """Run each day of a range that has input, oldest first. Continues after a failed day, and fails at the end.

    With --failed or --stale, the range may be left out. The exit code is 1 if a day failed, else 3 if one was stopped
    by its data, else 75 if a retry may help.
    """
    from pipeline.flow import day as flow

    machine = settings(lake)
    found = find_job(job, machine)
    begin, end = found.range(first, last)
    wanted = {*(FAILED if failed else ()), *(STALE if stale else ())}
    if not wanted and (begin is None or end is None):
        raise UsageError("a backfill needs its days", expected="--from D --to D, or --failed, or --stale")
    if airflow:
        _through_airflow(found, machine, begin, end, wanted, json=json)
        return
    with progress(quiet=True) as report:
        ctx = open_context(job, lake, report, asking.writes(create=create))
        if wanted:
            days, absent = _in_state(ctx, wanted, begin, end), 0
        else:
            days, absent = _with_input(ctx, begin, end)
        outcomes = []
        for outcome in flow.backfill(ctx, days):
            outcomes.append(outcome)
            if not json:
                console().print(line(ctx, outcome))
    if json:
        emit_json([as_dict(ctx, outcome) for outcome in outcomes])
    else:
        _sum_up(ctx, outcomes, absent)
    _raise_for(ctx, outcomes, json=json)


def _through_airflow(
    job: Job,
    machine: Settings,
    begin: Period | None,
    end: Period | None,
    wanted: Collection[PeriodState],
    *,
    json: bool,
) -> None:
    from pipeline.orchestration import local_airflow

    if wanted or begin is None or end is None:
        raise UsageError("Airflow runs the days of a range", expected="--from D --to D, without --failed and --stale")
    said = local_airflow.backfill(job, machine, begin, end)
    emit_json(said) if json else console().print("\n".join(said), markup=False)


def _with_input(ctx: Context, begin: Period | None, end: Period | None) -> tuple[list[str], int]:
    """Returns the days of a range that have input, and the number of the others. Raises InputMissing if none has."""
    from pipeline.flow import day as flow

    assert begin is not None
    assert end is not None
    periods = [period.ds for period in begin.through(end)]
    days = flow.with_input(ctx, periods)
    if not days:
        raise InputMissing(f"no {ctx.job.grain} from {begin.ds} to {end.ds} has input", where=ctx.lake.storage)
    return days, len(periods) - len(days)


def _in_state(ctx: Context, wanted: Collection[PeriodState], begin: Period | None, end: Period | None) -> list[str]:
    """Returns the days in one of some states, but those whose newest run is at work now."""
    from pipeline.flow.status import status
    from pipeline.lake.liveness import is_at_work

    found = []
    for day in status(ctx.lake, ctx.job, ctx.manifest().ref, begin, end):
        if day.state not in wanted:
            continue
        if day.state is PeriodState.unfinished and day.last_run is not None:
            newest = ctx.lake.records.read(ctx.job.name, day.ds, day.last_run)
            if is_at_work(ctx.lake, newest):
                continue
        found.append(day.ds)
    return found


def _sum_up(ctx: Context, outcomes: Sequence[Outcome], absent: int) -> None:
    if not outcomes:
        console().print(f"no {ctx.job.grain} is in such a state: nothing to do")
        return
    states = Counter(map(state_of, outcomes))
    counts = ", ".join(f"{count} {state}" for state, count in states.items())
    without = f", {absent} without input" if absent else ""
    days, rows = counted(len(outcomes), str(ctx.job.grain)), counted(sum(map(scored_rows, outcomes)), "row")
    console().print(f"[bold]{days}[/]: {counts}{without}; {rows} scored")
    if ctx.lake.storage.head(facts.INDEX) is not None:
        console().print(f"report: {facts.place_of(ctx.lake, ctx.job, facts.INDEX)}", markup=False)


def _raise_for(ctx: Context, outcomes: Sequence[Outcome], *, json: bool) -> None:
    """Raises the error of the command, if a day failed, was stopped, or was not handed on.

    With `json` only the exit code: the document has the errors, and a second document would break its parsing.
    """
    errors = [outcome.error for outcome in outcomes if outcome.error is not None]
    left = [outcome for outcome in outcomes if outcome.record and outcome.left(ctx.job)]
    kind = _kind(errors)
    if json and (errors or left):
        raise typer.Exit(kind.exit_code)
    if errors:
        states = Counter(state_of(outcome) for outcome in outcomes if outcome.failed)
        what, *others = (f"{count} {state}" for state, count in sorted(states.items()))
        count, _, state = what.partition(" ")
        raise kind(
            ", ".join((f"{count} of {counted(len(outcomes), str(ctx.job.grain))} {state}", *others)),
            got=_listed([outcome for outcome in outcomes if outcome.failed]),
            next_step=f"see the reasons above; to resume: lakescore backfill --failed --job {ctx.job.name}",
        )
    if left:
        raise _not_handed_on(ctx, left, len(outcomes))


def _kind(errors: Sequence[LakescoreError]) -> type[LakescoreError]:
    """Returns the kind of error whose exit code stands for all of some errors: the one that a retry helps least."""
    if any(not isinstance(error, QualityStop | TransientError) for error in errors) or not errors:
        return LakescoreError
    return QualityStop if any(isinstance(error, QualityStop) for error in errors) else TransientError


def _not_handed_on(ctx: Context, left: Sequence[Outcome], all_of_them: int) -> LakescoreError:
    """Says for the last of these days what has become of it at each target."""
    last = left[-1].record
    assert last is not None
    console().print(f"{last.ds}:", end=" ")
    show_targets(ctx, last)
    verb = "is" if all_of_them == 1 else "are"
    return LakescoreError(
        f"{len(left)} of {counted(all_of_them, str(ctx.job.grain))} {verb} scored, but not handed on",
        got=_listed(left),
        next_step="see the reasons above; the same command tries again, and scores nothing anew",
    )


def _listed(outcomes: Sequence[Outcome]) -> str:
    return ", ".join(outcome.ds for outcome in outcomes[:10]) + (", ..." if len(outcomes) > 10 else "")
