"""report: the pages of runs and the index of the lake."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli.asking import open_lake
from pipeline.cli.options import JOB, JobOption, JsonOption, LakeOption, period_or_none, settings
from pipeline.cli.output import console, emit_json
from pipeline.job.loading import find_job


def add_to(app: typer.Typer) -> None:
    app.command()(report)


def report(
    ds: Annotated[
        str | None,
        typer.Option("--date", help="Rewrite the pages of this day's runs.", show_default="only missing pages"),
    ] = None,
    days: Annotated[
        int, typer.Option("--days", help="Number of days on the index, up to the newest.", min=1, max=3660)
    ] = 92,
    show: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    job: JobOption = JOB,
    lake: LakeOption = None,
    *,
    json: JsonOption = False,
) -> None:
    """Write HTML pages: one per run, and an index of the lake. They need no network and no server."""
    from pipeline.model.remote import open_registry
    from pipeline.report import pages

    machine = settings(lake)
    found = open_lake(machine)
    of = find_job(job, machine)
    registry = open_registry(machine.models)
    written = pages.write_runs(found, of.name, period_or_none(of, ds), days, registry)
    index = found.storage.where(pages.write_index(found, days, registry))
    paths = [found.storage.where(key) for key in written]
    chosen = paths[0] if ds is not None and paths else index
    if json:
        emit_json({"index": index, "runs": paths})
    else:
        console().print(chosen, markup=False)
    if show:
        import webbrowser

        webbrowser.open(chosen if "://" in chosen else f"file://{chosen}")
