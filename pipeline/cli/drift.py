"""drift, labels import."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.options import JOB, DateOption, JobOption, JsonOption, LakeOption, settings, what_to_do_with_days
from pipeline.cli.output import console, emit_json, table
from pipeline.cli.progress import progress
from pipeline.context import Context
from pipeline.errors import InputMissing, UsageError
from pipeline.job import find_job
from pipeline.records import RunRecord, check_day

if TYPE_CHECKING:
    from pipeline.drift.judge import Comparison

labels = typer.Typer(help="Bring in what came true, to see how good the predictions were.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    app.command()(drift)
    app.add_typer(labels, name="labels")


def drift(
    ds: DateOption = None,
    first: Annotated[str | None, typer.Option("--from", help="Or: the first day of a range.")] = None,
    last: Annotated[str | None, typer.Option("--to", help="The last day of a range.")] = None,
    job: JobOption = JOB,
    lake: LakeOption = None,
    *,
    json: JsonOption = False,
) -> None:
    """Compares days with the training data and the days before them; makes profiles that are missing."""
    machine = settings(lake)
    ctx = Context.open(find_job(job, machine), machine)
    found = {record.ds: _judged(ctx, record) for record in _records(ctx, ds, first, last)}
    if json:
        emit_json([{"ds": day, **asdict(each)} for day, comparisons in found.items() for each in comparisons])
    else:
        _show(found)


@labels.command("import")
def import_(
    files: Annotated[list[Path], typer.Argument(help="CSV, JSON lines or Parquet.", show_default=False)],
    label: Annotated[str, typer.Option(help="The column with the class that came true; rows without it are left out.")],
    ds: Annotated[str | None, typer.Option("--date", help="The day of all rows, YYYY-MM-DD.")] = None,
    partition_by: Annotated[str | None, typer.Option(help="Or: the column with the day of each row.")] = None,
    job: JobOption = JOB,
    lake: LakeOption = None,
    *,
    append: Annotated[bool, typer.Option("--append", help="Add to days that have labels; newer ones count.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the labels of days that have some.")] = False,
    json: JsonOption = False,
) -> None:
    """Brings labels in, by the job's key, and measures the predictions of their days."""
    from pipeline.drift.labels import import_labels
    from pipeline.ingest import sources

    existing = what_to_do_with_days(ds, partition_by, append=append, replace=replace)
    machine = settings(lake)
    ctx = Context.open(find_job(job, machine), machine)
    with progress(quiet=json) as report:
        days = import_labels(
            ctx,
            sources.find(files),
            label,
            ds=ds,
            partition_by=partition_by,
            existing=existing,
            progress=report,
        )
    if json:
        emit_json([day.as_dict() for day in days])
    else:
        rows = sum(day.rows for day in days)
        console().print(f"{rows:,} labels of {len(days):,} days; lakescore query performance_trend")


def _records(ctx: Context, ds: str | None, first: str | None, last: str | None) -> list[RunRecord]:
    """Returns the newest complete run of each day asked for. Raises InputMissing if there is none."""
    if ds is not None and (first or last):
        raise UsageError("--date names one day, --from and --to a range", expected="one or the other")
    if first or last:
        low, high = check_day(first or "0001-01-01"), check_day(last or "9999-12-31")
        days = [day for day in ctx.lake.run_days(ctx.job.name) if low <= day <= high]
    else:
        days = [ctx.job.yesterday(datetime.now(UTC)) if ds is None else check_day(ds)]
    found = [record for day in days if (record := ctx.lake.last_complete(ctx.job.name, day)) is not None]
    if not found:
        raise InputMissing(
            f"no run of {ctx.job.name} is complete on {days[0] if len(days) == 1 else 'these days'}",
            where=ctx.lake.storage.where(f"runs/job={ctx.job.name}"),
            next_step="lakescore run, then again; lakescore status shows the days",
        )
    return found


def _judged(ctx: Context, record: RunRecord) -> list[Comparison]:
    from pipeline.drift import profiling, stage, store

    if not store.has(ctx, "profiles", record) and not profiling.remake(ctx, record):
        raise InputMissing(
            f"{record.ds} has no profile, and its input is not what the run has read",
            where=ctx.lake.storage.where(store.key("profiles", record)),
            next_step=f"lakescore run --date {record.ds}",
        )
    return stage.compare(ctx, record)


def _show(found: dict[str, list[Comparison]]) -> None:
    from pipeline.drift.stage import alarms

    whole = len(found) == 1
    columns = ("day", "column", "against", "outcome", "PSI", "needed", "mean shift", "missing", "rows")
    rows = [
        (
            ds,
            _named(each),
            each.reference,
            each.outcome,
            each.psi,
            each.threshold,
            each.mean_shift,
            each.missing,
            each.rows,
        )
        for ds, comparisons in found.items()
        for each in (comparisons if whole else alarms(comparisons))
    ]
    if rows:
        table(columns, rows)
    quiet = [ds for ds, comparisons in found.items() if not alarms(comparisons)]
    console().print(f"{len(quiet)} of {len(found)} days without alarm")


def _named(found: Comparison) -> str:
    return f"{found.column_name} ({found.slice_column} {found.slice})" if found.slice_column else found.column_name
