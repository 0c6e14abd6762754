"""drift, labels import: drift, and labels to measure performance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli import asking
from pipeline.cli.next_steps import completed
from pipeline.cli.options import (
    JOB,
    DateOption,
    DecimalOption,
    DelimiterOption,
    JobOption,
    JsonOption,
    LakeOption,
    TypesOption,
    open_context,
    period_or_last,
    what_to_do_with_days,
)
from pipeline.cli.output import console, emit_json, table
from pipeline.cli.progress import progress
from pipeline.context import Context
from pipeline.errors import InputMissing, QualityStop, UsageError, counted
from pipeline.periods import Period
from pipeline.records import RunRecord

if TYPE_CHECKING:
    from pipeline.drift.comparing import Comparison


class Level(StrEnum):
    """Level of an alarm."""

    warning = "warning"
    critical = "critical"


TRENDS = {
    "classification": "performance_trend",
    "multilabel": "performance_trend",
    "regression": "error_trend",
    "ranking": "rank_trend",
}
"""Named query that shows the performance of a task."""
labels = typer.Typer(help="Import observed labels to measure how good the predictions were.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    app.command()(drift)
    app.add_typer(labels, name="labels")


def drift(
    ds: DateOption = None,
    first: Annotated[str | None, typer.Option("--from", help="First day of a range, instead of --date.")] = None,
    last: Annotated[str | None, typer.Option("--to", help="Last day of a range, inclusive.")] = None,
    job: JobOption = JOB,
    lake: LakeOption = None,
    *,
    fail_on: Annotated[
        Level | None, typer.Option("--fail-on", help="Exit with 3 if a column raises an alarm of this level or worse.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Compare days with the training data and with the days before them. Creates missing profiles."""
    ctx = open_context(job, lake)
    found = {record.ds: _judged(ctx, record) for record in _records(ctx, ds, first, last)}
    if json:
        emit_json([{"ds": day, **asdict(each)} for day, comparisons in found.items() for each in comparisons])
    else:
        _show(str(ctx.job.grain), found)
        if len(found) == 1:
            _propose(ctx, *found)
    if fail_on is not None:
        _fail(found, fail_on, json=json)


def _fail(found: dict[str, list[Comparison]], level: Level, *, json: bool) -> None:
    """Ends the command with exit code 3 if a column of any of these days raises an alarm of a level, or a worse one."""
    bad = {level.value, Level.critical.value}
    alarms = {ds: {each.outcome for each in comparisons} & bad for ds, comparisons in found.items()}
    days = [ds for ds, levels in alarms.items() if levels]
    if days and json:
        raise typer.Exit(QualityStop.exit_code)  # the document has the comparisons
    if days:
        raise QualityStop(
            f"{'critical' if any('critical' in levels for levels in alarms.values()) else 'warning'} drift",
            got=", ".join(days),
            next_step="see the columns above, and docs/drift.md for what the numbers mean",
        )


@labels.command("import")
def import_(
    files: Annotated[list[Path], typer.Argument(help="CSV, JSON Lines or Parquet files.", show_default=False)],
    label: Annotated[
        list[str],
        typer.Option(
            help="Column with the observed class, value, or list of labels or items; rows without a value are skipped. "
            "Of a multi-label model also one column per label: --label A --label B."
        ),
    ],
    ds: Annotated[str | None, typer.Option("--date", help="Day of all rows, YYYY-MM-DD.")] = None,
    partition_by: Annotated[
        str | None, typer.Option(help="Column with the date or time of each row, instead of --date.")
    ] = None,
    types: TypesOption = None,
    decimal: DecimalOption = ".",
    delimiter: DelimiterOption = None,
    job: JobOption = JOB,
    lake: LakeOption = None,
    *,
    append: Annotated[bool, typer.Option("--append", help="Add to days that have labels; newer labels win.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the labels of days that have labels.")] = False,
    create: asking.CreateOption = False,
    future: asking.FutureOption = False,
    json: JsonOption = False,
) -> None:
    """Import labels by the job's key, and measure the performance of the predictions of their days."""
    from pipeline.drift.labels import import_labels
    from pipeline.tabular import sources

    existing = what_to_do_with_days(ds, partition_by, append=append, replace=replace)
    ctx = open_context(job, lake, missing=asking.writes(create=create))
    asking.check_date(ctx.job, ds, future=future)
    with progress(quiet=json) as report:
        days = import_labels(
            ctx,
            sources.find(files, types or (), decimal, delimiter),
            label,
            ds=ds,
            partition_by=partition_by,
            existing=existing,
            progress=report,
        )
    if json:
        emit_json([day.as_dict() for day in days])
    else:
        trend = TRENDS[ctx.manifest().signature.task]
        rows, see = sum(day.rows for day in days), completed(f"lakescore query {trend}")
        what = f"{counted(rows, 'label')} of {counted(len(days), str(ctx.job.grain))}"
        console().print(f"imported {what}; see {see}", markup=False)


def _records(ctx: Context, ds: str | None, first: str | None, last: str | None) -> list[RunRecord]:
    """Returns the last complete run of each requested day that has one. Raises InputMissing if no day has."""
    if ds is not None and (first or last):
        raise UsageError("--date cannot be combined with --from and --to", expected="one day, or a range")
    if first or last:
        low, high = ctx.job.range(first, last)
        known = [Period.stored(day, ctx.job.grain) for day in ctx.lake.records.days(ctx.job.name)]
        days = [each.ds for each in known if each and (low or each) <= each <= (high or each)]
    else:
        days = [period_or_last(ctx.job, ds)]
    found = [record for day in days if (record := ctx.lake.records.last_complete(ctx.job.name, day)) is not None]
    if not found:
        raise InputMissing(
            f"no run of {ctx.job.name} is complete on {days[0] if len(days) == 1 else 'these days'}",
            where=ctx.lake.storage.where(f"runs/job={ctx.job.name}"),
            next_step=_instead(ctx, days),
        )
    return found


def _instead(ctx: Context, days: Sequence[str]) -> str:
    """Returns what to do if none of these days has a complete run: name the newest that has one, or run a day."""
    job, lake = ctx.job.name, ctx.lake
    known = sorted(lake.records.days(job), reverse=True)
    complete = next((day for day in known if lake.records.last_complete(job, day) is not None), None)
    there = lake.input_days(ctx.job.patterns.values())
    asked = next((day for day in days if day in there), None)
    if complete is not None:
        first = f"lakescore run --job {job} --date {asked}, then retry; " if asked else ""
        return f"{first}the newest is {complete}: lakescore drift --job {job} --date {complete}"
    if not there:
        ds = days[-1] if days else period_or_last(ctx.job, None)
        return f"lakescore import FILES --job {job} --date {ds}, then lakescore run --job {job} --date {ds}"
    return f"lakescore run --job {job} --date {asked or there[-1]}, then retry"


def _judged(ctx: Context, record: RunRecord) -> list[Comparison]:
    from pipeline.drift import stage
    from pipeline.profiles import store
    from pipeline.profiles.stage import remake_profile

    if not store.has(ctx, "profiles", record) and not remake_profile(ctx, record):
        raise InputMissing(
            f"{record.ds} has no profile, and its input has changed since the run",
            where=ctx.lake.storage.where(store.key("profiles", record)),
            next_step=f"lakescore run --job {record.job} --date {record.ds}",
        )
    return stage.compare(ctx, record)


def _show(grain: str, found: dict[str, list[Comparison]]) -> None:
    """Prints all comparisons of one day, a table for each reference; of several days, only the alarms."""
    from pipeline.drift.stage import alarms

    if len(found) == 1:
        ((ds, comparisons),) = found.items()
        for reference in dict.fromkeys(each.reference for each in comparisons):
            _show_reference(ds, [each for each in comparisons if each.reference == reference])
    elif rows := [
        (ds, _named(each), each.reference, each.outcome, _rounded(each.psi), _rounded(each.threshold))
        for ds, comparisons in found.items()
        for each in alarms(comparisons)
    ]:
        table((grain, "column", "against", "outcome", "PSI", "threshold"), rows, below=("threshold",))
    quiet = [ds for ds, comparisons in found.items() if not alarms(comparisons)]
    console().print(f"{len(quiet):,} of {counted(len(found), grain)} without alarms")


def _show_reference(ds: str, found: Sequence[Comparison]) -> None:
    rows = max(each.rows for each in found)
    title = f"{ds}, {counted(rows, 'row')}, against {found[0].reference.replace('_', ' ')}"
    table(
        ("column", "outcome", "PSI", "threshold", "mean shift", "missing", *(("rows",) if _sliced(found) else ())),
        [
            (
                *(_named(each), each.outcome, _rounded(each.psi), _rounded(each.threshold)),
                *(_rounded(each.mean_shift), _rounded(each.missing), *((each.rows,) if _sliced(found) else ())),
            )
            for each in found
        ],
        title=title,
        below=("rows", "missing"),
    )


def _sliced(found: Sequence[Comparison]) -> bool:
    return any(each.slice_column for each in found)


def _rounded(value: float | None) -> float | None:
    """Returns a number as it is worth printing: to three decimals, so that a column of them stays narrow."""
    return None if value is None else round(value, 3)


def _propose(ctx: Context, ds: str) -> None:
    """Names the columns that a comparison with the same weekday would judge more sharply."""
    from pipeline.drift import stage

    record = ctx.lake.records.last_complete(ctx.job.name, ds)
    for found in stage.weekly(ctx, record) if record else ():
        text = (
            f"{found.column_name} follows the weekday: its days are {found.dispersion:.1f} times as far apart as "
            f"samples, those of one weekday {found.of_weekday:.1f} times; [drift] same_weekday = true compares those"
        )
        console().print(text, markup=False)


def _named(found: Comparison) -> str:
    return f"{found.column_name} ({found.slice_column} {found.slice})" if found.slice_column else found.column_name
