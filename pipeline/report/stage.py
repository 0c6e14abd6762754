"""The report stages: the page of a run that has ended, and the index of the lake."""

from __future__ import annotations

from pipeline.context import Context
from pipeline.records import Addition, RunRecord


def report(ctx: Context, record: RunRecord) -> Addition:
    """Writes the page of a run."""
    from pipeline.report import pages

    pages.write_run(ctx.lake, record, ctx.registry)
    return Addition()


def index(ctx: Context) -> None:
    """Writes the index of the lake."""
    from pipeline.report import pages

    pages.write_index(ctx.lake, registry=ctx.registry)
