"""score: score a single file, without a lake."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.options import JOB, DecimalOption, DelimiterOption, JobOption, JsonOption, TypesOption, settings
from pipeline.cli.output import console, emit_json
from pipeline.cli.progress import progress
from pipeline.errors import counted
from pipeline.job.config import Engine
from pipeline.job.loading import find_job, on_this_machine


def add_to(app: typer.Typer) -> None:
    app.command()(score)


def score(
    source: Annotated[Path, typer.Argument(help="A CSV, JSON Lines or Parquet file.", show_default=False)],
    target: Annotated[Path, typer.Argument(help="File to write: the rows with their predictions.", show_default=False)],
    model: Annotated[str | None, typer.Option(help="Model name.", show_default="the job's")] = None,
    version: Annotated[str, typer.Option("--model-version", help="Version or alias.")] = "production",
    types: TypesOption = None,
    decimal: DecimalOption = ".",
    delimiter: DelimiterOption = None,
    job: JobOption = JOB,
    *,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the output if it exists.")] = False,
    json: JsonOption = False,
) -> None:
    """Score a file without a lake. The output has the columns of the file, then the predictions."""
    machine = settings()
    engine = on_this_machine(Engine(), machine)
    trusted = None
    if model is None:
        found = find_job(job, machine)
        model, version = found.model.name, found.model.version if version == "production" else version
        trusted = found.model.trusted
    from pipeline.api.scorer import Scorer, check_files, score_file

    files = check_files(source, target, types or (), decimal, delimiter, replace=replace)
    scorer = Scorer.load(model, version, models=machine.models, device=engine.device, trusted=trusted)
    with progress(quiet=json) as show:
        rows, without = score_file(
            scorer,
            files,
            target,
            replace=replace,
            memory_limit=engine.memory_limit,
            threads=engine.threads,
            progress=lambda done, total: show("score", done, total),
        )
    if json:
        emit_json({"rows": rows, "without_prediction": without, "model": scorer.manifest.ref.model_dump()})
        return
    console().print(
        f"{counted(rows, 'row')} scored by {scorer.manifest.name} {scorer.manifest.version}, written to {target}",
        markup=False,
    )
    if without:
        console(stderr=True).print(
            f"[yellow]no prediction for {counted(without, 'row')}, because of a NULL or infinite feature[/]"
        )
