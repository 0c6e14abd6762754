"""demo: a tour of all steps, in a new folder."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.outcomes import show_outcome
from pipeline.cli.output import console
from pipeline.database import sql_files
from pipeline.errors import counted
from pipeline.lake.layout import Lake

TRY = """
Now try, in {folder}:
  lakescore status
  lakescore report --open
  lakescore explain user_000042 --replay
  lakescore query prediction_history --param key=user_000042
  lakescore query "SELECT ds, prediction, count(*) FROM predictions GROUP BY ALL ORDER BY ALL"
"""
DAYS = ("2026-01-01", "2026-01-02")
FOLDER = Path("lakescore-demo")


def add_to(app: typer.Typer) -> None:
    app.command()(demo)


def demo(
    folder: Annotated[Path, typer.Option("--dir", help="Folder to create.")] = FOLDER,
    rows: Annotated[int, typer.Option(help="Rows per day.", min=1)] = 100_000,
    *,
    fresh: Annotated[bool, typer.Option("--fresh", help="Remove an earlier demo in the folder first.")] = False,
) -> None:
    """Generate data, train a model, score two days, run again, and query the history. Goes on where a demo is."""
    from pipeline.context import Context
    from pipeline.demo import FEATURES, make_workspace, train, training_file
    from pipeline.flow.day import run_day
    from pipeline.ingest.generate import generate_day
    from pipeline.job.loading import find_job
    from pipeline.job.project import DEFAULT_JOB
    from pipeline.model.registry import PRODUCTION, Registry
    from pipeline.report import pages
    from pipeline.tabular import sources

    settings = make_workspace(folder, fresh=fresh)
    _say("1. A model", "trained on made-up customers, registered and promoted to production")
    registry, checkpoint = Registry(Path(settings.models)), folder / "checkpoint.pt"
    if PRODUCTION in registry.aliases(DEFAULT_JOB):
        again = "lakescore demo" + ("" if folder == FOLDER else f" --dir {shlex.quote(str(folder))}") + " --fresh"
        console().print(f"{DEFAULT_JOB} v1 is there from an earlier demo; {again} begins anew", markup=False)
    else:
        accuracy = train(checkpoint)
        baseline = sources.find([training_file(checkpoint)])
        registry.register(
            checkpoint, name=DEFAULT_JOB, version="v1", features=FEATURES, alias=PRODUCTION, training=baseline
        )
        console().print(f"{DEFAULT_JOB} v1, accuracy {accuracy:.0%} on customers it has not seen")
        console().print("its training rows are the baseline that each day is compared with", markup=False)

    ctx = Context.open(find_job(DEFAULT_JOB, settings), settings)
    _say("2. Two days", f"of {counted(rows, 'row')} each, scored")
    for ds in DAYS:
        if ds not in ctx.lake.input_days(ctx.job.patterns.values()):
            generate_day(ctx.lake, ds, rows=rows)
        show_outcome(ctx, run_day(ctx, ds))
    _say("3. The same days again", "nothing has changed, so no data is read")
    for ds in DAYS:
        show_outcome(ctx, run_day(ctx, ds))
    _say("4. The history", "lakescore query daily_summary")
    _ask(ctx.lake, "daily_summary")
    _say("5. The report", "lakescore report --open")
    console().print(ctx.lake.storage.where(pages.write_index(ctx.lake, registry=ctx.registry)), markup=False)
    console().print(TRY.format(folder=folder), markup=False)


def _ask(lake: Lake, name: str) -> None:
    from pipeline.cli import rows
    from pipeline.query.running import bind_parameters, run_query

    named = sql_files.find(name)
    with run_query(lake, named.text, bind_parameters(named, {})) as result:
        rows.show(result, limit=100)


def _say(title: str, text: str) -> None:
    console().print(f"\n[bold cyan]{title}[/] [dim]{text}[/]")
