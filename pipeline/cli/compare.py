"""compare: what another model version would change. Also the gate of `models promote --max-flips`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.options import JOB, JobOption, JsonOption, LakeOption, open_context, period_or_none
from pipeline.cli.output import console, emit_json, table
from pipeline.cli.progress import progress
from pipeline.errors import UsageError, counted

if TYPE_CHECKING:
    from pipeline.compare.findings import Comparison

SampleOption = Annotated[
    int | None,
    typer.Option(
        "--sample", min=1, help="Number of rows to sample from the newest 30 days with input (or from --date)."
    ),
]
ClassOption = Annotated[
    str | None, typer.Option("--class", help="Class or label whose probability is the score.", show_default="the last")
]
DayOption = Annotated[
    str | None,
    typer.Option("--date", help="Compare all rows of this day, YYYY-MM-DD.", show_default="the newest with input"),
]


def add_to(app: typer.Typer) -> None:
    app.command()(compare)


def compare(
    first: Annotated[str, typer.Argument(metavar="V1", help="Version or alias of the job's model.")],
    second: Annotated[str, typer.Argument(metavar="V2", help="Version or alias to compare with.")],
    ds: DayOption = None,
    sample: SampleOption = None,
    target: ClassOption = None,
    job: JobOption = JOB,
    lake: LakeOption = None,
    *,
    json: JsonOption = False,
) -> None:
    """Score the same rows with two model versions and show which predictions change. Publishes no predictions."""
    from pipeline.compare import findings
    from pipeline.report import pages

    with progress(quiet=json) as report:
        ctx = open_context(job, lake, report)
        day = period_or_none(ctx.job, ds)
        found = findings.compare(ctx, first, second, ds=day, sample=sample, target=target)
    page = ctx.lake.storage.where(pages.write_comparison(ctx.lake, found))
    if json:
        emit_json({**found.as_dict(), "page": page})
    else:
        show(found)
        console().print(page, markup=False)


FLIPS = {
    "classification": "decisions that flip",
    "multilabel": "rows whose labels differ",
    "ranking": "rows whose first item differs",
}


def show(found: Comparison) -> None:
    from rich.markup import escape

    from pipeline.compare import tables

    out = console()
    days = found.days[0] if len(found.days) == 1 else f"{found.days[0]} to {found.days[-1]}"
    sampled = ", a sample" if found.sample else ""
    compared = f"{counted(found.rows, 'row')} of {days}{sampled}{left_out(found)}"
    out.print(f"{found.model} {found.first} -> {found.second}: {compared}", markup=False)
    if found.flip_share is not None:
        limit = f", at most {found.flip_limit:.2%} (95%)" if found.sample else ""
        out.print(f"{FLIPS[found.task]}: {found.summary['flips']:,}, {found.flip_share:.2%}{limit}")
    for each in (tables.decisions(found), tables.overlap(found)):
        if each is not None:
            table(each.columns, each.rows, title=each.title)
    if found.task != "ranking":
        of_scores = [name for name in found.summary if name not in ("rows", "flips")]
        score = f"score, class {found.target}" if found.target is not None else "value"
        table(("", escape(score)), ((name, found.summary[name]) for name in of_scores))
    for each in tables.against_labels(found):
        table(each.columns, each.rows, title=escape(each.title))
    for note in tables.notes(found):
        out.print(note, markup=False)
    names = ("column_name", "segment", "rows", "share", "mean_shift")
    segments = [[row[name] for name in names] for row in found.segments]
    table(("column", "segment", "rows", "flips", "mean shift"), segments)


def left_out(found: Comparison) -> str:
    """Returns how many rows were not compared, as a part of a sentence; empty if none."""
    return f"; {counted(found.skipped, 'row')} with a NULL or infinite feature left out" if found.skipped else ""


def gate(
    name: str,
    version: str,
    alias: str,
    max_flips: str,
    job: str | None,
    lake: str | None,
    ds: str | None,
    sample: int | None,
    target: str | None,
) -> Comparison | None:
    """Compares a version with the one that the alias names; returns None if there is none or it is the same version.

    Raises QualityStop if more decisions flip than `max_flips`, a share such as `2%` or `0.02`.
    """
    from pipeline.compare import findings

    limit = share(max_flips)
    with progress(quiet=True) as report:
        ctx = open_context(job, lake, report)
        if ctx.job.model.name != name:
            raise UsageError(
                f"job {ctx.job.name} has another model",
                expected=name,
                got=ctx.job.model.name,
                next_step="choose a job of this model with --job",
            )
        before = ctx.registry.aliases(name).get(alias)
        if before is None or before == ctx.registry.resolve(name, version).version:
            return None
        found = findings.compare(ctx, before, version, ds=period_or_none(ctx.job, ds), sample=sample, target=target)
    findings.gate(found, limit)
    return found


def share(text: str) -> float:
    """Parses a share such as `2%` or `0.02`, from 0 to 1. Raises UsageError."""
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)(%?)", text.strip()):
        value = float(match[1]) / (100 if match[2] else 1)
        if value <= 1:
            return value
    raise UsageError("--max-flips must be a share", expected="such as 2% or 0.02, at most 100%", got=text)
