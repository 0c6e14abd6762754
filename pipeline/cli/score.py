"""score: one file, without a lake."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.options import JOB, JobOption, JsonOption, settings
from pipeline.cli.output import console, emit_json
from pipeline.cli.progress import progress
from pipeline.job import find_job, on_this_machine
from pipeline.job_tables import Engine


def add_to(app: typer.Typer) -> None:
    app.command()(score)


def score(
    source: Annotated[Path, typer.Argument(help="A CSV or Parquet file.", show_default=False)],
    target: Annotated[Path, typer.Argument(help="Where the rows go with their predictions.", show_default=False)],
    model: Annotated[str | None, typer.Option(help="A model's name.", show_default="the job's")] = None,
    version: Annotated[str, typer.Option("--model-version", help="A version or an alias.")] = "production",
    job: JobOption = JOB,
    *,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the output if it is there.")] = False,
    json: JsonOption = False,
) -> None:
    """Scores one file into another, with no lake: its columns, then the predictions."""
    machine = settings()
    engine = on_this_machine(Engine(), machine)
    trusted = None
    if model is None:
        found = find_job(job, machine)
        model, version = found.model.name, found.model.version if version == "production" else version
        trusted = found.model.trusted
    from pipeline.scorer import Scorer, check_files, score_file

    check_files(source, target, replace=replace)
    scorer = Scorer.load(model, version, models=machine.models, device=engine.device, trusted=trusted)
    with progress(quiet=json) as show:
        rows, without = score_file(
            scorer,
            source,
            target,
            replace=replace,
            memory_limit=engine.memory_limit,
            progress=lambda done, total: show("score", done, total),
        )
    if json:
        emit_json({"rows": rows, "without_prediction": without, "model": scorer.manifest.ref.model_dump()})
        return
    console().print(f"{rows:,} rows scored into {target} by {scorer.manifest.name} {scorer.manifest.version}")
    if without:
        console(stderr=True).print(f"[yellow]{without:,} rows have a NULL or infinite feature and so no prediction[/]")
