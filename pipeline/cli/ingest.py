"""generate, import: writing input into the lake."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli import asking
from pipeline.cli.options import (
    JOB,
    DateOption,
    DecimalOption,
    DelimiterOption,
    JobOption,
    JsonOption,
    LakeOption,
    TypesOption,
    settings,
    what_to_do_with_days,
)
from pipeline.cli.output import bytes_text, console, emit_json
from pipeline.cli.progress import progress
from pipeline.errors import counted
from pipeline.periods import Grain, Period

if TYPE_CHECKING:
    from pipeline.ingest.publishing import PublishedDay
    from pipeline.lake.layout import Lake

MOST_COLUMNS = 20
"""Number of columns whose types `import` shows."""


def add_to(app: typer.Typer) -> None:
    app.command()(generate)
    app.command("import")(import_)


def generate(
    ds: DateOption = None,
    rows: Annotated[int, typer.Option(help="Number of users.", min=1)] = 10_000,
    files: Annotated[int, typer.Option(help="Number of files to write.", min=1)] = 1,
    seed: Annotated[int, typer.Option(help="Random seed.", min=0)] = 0,
    lake: LakeOption = None,
    *,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the day if it has files.")] = False,
    create: asking.CreateOption = False,
    future: asking.FutureOption = False,
    json: JsonOption = False,
) -> None:
    """Write a day of made-up users. The same seed, date and number of rows give the same users."""
    from pipeline.ingest.generate import generate_day

    ds = ds or (Period.at(Grain.day, datetime.now(UTC), "UTC") - 1).ds
    machine = settings(lake)
    asking.check_day(ds, future=future)
    found = asking.open_lake(machine, asking.writes(create=create))
    with progress(quiet=json) as report:
        day = generate_day(found, ds, rows=rows, files=files, seed=seed, replace=replace, progress=report)
    _show(found, (day,), Grain.day, json=json)


def import_(
    files: Annotated[list[Path], typer.Argument(help="CSV, JSON Lines or Parquet files.", show_default=False)],
    ds: Annotated[str | None, typer.Option("--date", help="Period of all rows: a day, or YYYY-MM-DDTHHZ.")] = None,
    partition_by: Annotated[
        str | None, typer.Option(help="Column with the date or time of each row, instead of --date.")
    ] = None,
    types: TypesOption = None,
    decimal: DecimalOption = ".",
    delimiter: DelimiterOption = None,
    job: JobOption = JOB,
    rename: Annotated[
        list[str] | None, typer.Option("--rename", help="New names of columns.", metavar="OLD=NEW")
    ] = None,
    source: Annotated[str | None, typer.Option(help="Source to import into, for a job with several.")] = None,
    lake: LakeOption = None,
    *,
    append: Annotated[bool, typer.Option("--append", help="Add to days that have files.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Replace days that have files.")] = False,
    create: asking.CreateOption = False,
    future: asking.FutureOption = False,
    unchecked: Annotated[
        bool, typer.Option("--unchecked", help="Import columns that the job or its model cannot use as they are.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Import files into the lake as input of the job. Each day appears completely or not at all.

    The columns are checked against the job and its model before anything is stored.
    """
    from pipeline.context import Context
    from pipeline.errors import ModelNotFound
    from pipeline.ingest.contract import Contract
    from pipeline.ingest.importing import checked, import_files
    from pipeline.job.loading import find_job
    from pipeline.tabular import sources

    existing = what_to_do_with_days(ds, partition_by, append=append, replace=replace)
    machine = settings(lake)
    of = find_job(job, machine)
    asking.check_date(of, ds, future=future)
    found = asking.open_lake(machine, asking.writes(create=create))
    ctx, contract = Context.open(of, machine), None
    if of.input.path is not None and not unchecked:  # of a SELECT, the model sees what comes out
        try:
            contract = Contract(of, ctx.manifest())
        except ModelNotFound:
            contract = Contract(of, None)
    read = sources.find(files, types or (), decimal, delimiter, renamed=rename or ())
    with progress(quiet=json) as report:
        days = import_files(
            found,
            of,
            read,
            ds=ds,
            partition_by=partition_by,
            source=source if contract is None else checked(found, of, source, read, contract),
            existing=existing,
            progress=report,
        )
    _show(found, days, of.grain, json=json)


def _show(lake: Lake, days: tuple[PublishedDay, ...], grain: Grain, *, json: bool) -> None:
    if json:
        emit_json([day.as_dict() for day in days])
        return
    several = len(days) > 1
    span = f"{counted(len(days), str(grain))}, {days[0].ds} to {days[-1].ds}" if several else days[0].ds
    rows = counted(sum(day.rows for day in days), "row")
    files = counted(sum(len(day.files) for day in days), "file")
    size = bytes_text(sum(day.bytes for day in days))
    folder = PurePosixPath(days[0].files[0].path).parent
    where = lake.storage.where(str(folder.parent if several else folder))
    from rich.markup import escape

    console().print(f"[bold]{span}[/]: {rows}, {files}, {size} in {escape(where)}")
    if types := days[0].types:
        shown = ", ".join(f"{name} {kind}" for name, kind in list(types.items())[:MOST_COLUMNS])
        more = f", and {len(types) - MOST_COLUMNS} more" if len(types) > MOST_COLUMNS else ""
        console().print(f"columns: {shown}{more}", markup=False)
