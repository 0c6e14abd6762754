"""generate, import."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.options import JOB, DateOption, JobOption, JsonOption, LakeOption, settings, what_to_do_with_days
from pipeline.cli.output import bytes_text, console, emit_json
from pipeline.cli.progress import progress

if TYPE_CHECKING:
    from pipeline.ingest.publishing import PublishedDay
    from pipeline.lake import Lake


def add_to(app: typer.Typer) -> None:
    app.command()(generate)
    app.command("import")(import_)


def generate(
    ds: DateOption = None,
    rows: Annotated[int, typer.Option(help="How many users.", min=1)] = 10_000,
    files: Annotated[int, typer.Option(help="How many files they lie in.", min=1)] = 1,
    seed: Annotated[int, typer.Option(help="Another seed makes other rows.", min=0)] = 0,
    lake: LakeOption = None,
    *,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the day if it has files.")] = False,
    json: JsonOption = False,
) -> None:
    """Writes a day of made-up users, the same for the same seed, date and number of rows."""
    from pipeline.ingest.generate import generate_day
    from pipeline.lake import Lake

    ds = ds or (datetime.now(UTC).date() - timedelta(days=1)).isoformat()
    found = Lake.open(settings(lake).lake)
    with progress(quiet=json) as report:
        day = generate_day(found, ds, rows=rows, files=files, seed=seed, replace=replace, progress=report)
    _show(found, (day,), json=json)


def import_(
    files: Annotated[list[Path], typer.Argument(help="CSV, JSON lines or Parquet.", show_default=False)],
    ds: Annotated[str | None, typer.Option("--date", help="The day of all rows, YYYY-MM-DD.")] = None,
    partition_by: Annotated[str | None, typer.Option(help="Or: the column with the day of each row.")] = None,
    types: Annotated[
        list[str] | None, typer.Option(help="Types of columns, such as id=VARCHAR,age=INTEGER.", metavar="COLUMN=TYPE")
    ] = None,
    job: JobOption = JOB,
    source: Annotated[str | None, typer.Option(help="Which source, of a job that reads several.")] = None,
    lake: LakeOption = None,
    *,
    append: Annotated[bool, typer.Option("--append", help="Add to days that have files.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Replace days that have files.")] = False,
    json: JsonOption = False,
) -> None:
    """Brings files into the lake, to where the job reads its input: all of a day at once, or nothing."""
    from pipeline.ingest import sources
    from pipeline.ingest.importing import import_files
    from pipeline.job import find_job
    from pipeline.lake import Lake

    existing = what_to_do_with_days(ds, partition_by, append=append, replace=replace)
    machine = settings(lake)
    found = Lake.open(machine.lake)
    with progress(quiet=json) as report:
        days = import_files(
            found,
            find_job(job, machine),
            sources.find(files, types or ()),
            ds=ds,
            partition_by=partition_by,
            source=source,
            existing=existing,
            progress=report,
        )
    _show(found, days, json=json)


def _show(lake: Lake, days: tuple[PublishedDay, ...], *, json: bool) -> None:
    if json:
        emit_json([day.as_dict() for day in days])
        return
    several = len(days) > 1
    span = f"{len(days)} days, {days[0].ds} to {days[-1].ds}" if several else days[0].ds
    rows = _counted(sum(day.rows for day in days), "row")
    files = _counted(sum(len(day.files) for day in days), "file")
    size = bytes_text(sum(day.bytes for day in days))
    folder = PurePosixPath(days[0].files[0].path).parent
    where = lake.storage.where(str(folder.parent if several else folder))
    console().print(f"[bold]{span}[/]: {rows}, {files}, {size} in {where}")


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
