"""The stage: a page for each run that has ended, and the index of the lake. What goes wrong here fails no run."""

from __future__ import annotations

import logging

from pipeline.context import Context
from pipeline.errors import LakescoreError
from pipeline.records import RunRecord

log = logging.getLogger(__name__)


def report(ctx: Context, record: RunRecord) -> RunRecord:
    """Writes the page of a run. If it cannot be made, the run's record gets a warning."""
    if not ctx.job.report.enabled:
        return record
    from pipeline.report import pages

    try:
        pages.write_run(ctx.lake, record)
    except Exception as error:  # noqa: BLE001 - whatever it is, what was committed stands
        return _warned(ctx, record, f"its page could not be made: {_line(error)}")
    return record


def index(ctx: Context) -> None:
    """Writes the index of the lake, or logs why not: the next run makes it anew."""
    if not ctx.job.report.enabled:
        return
    from pipeline.report import pages

    try:
        pages.write_index(ctx.lake)
    except Exception as error:  # noqa: BLE001 - as above
        log.warning("the index of the reports could not be made: %s", _line(error))


def _warned(ctx: Context, record: RunRecord, warning: str) -> RunRecord:
    log.warning("run %s: %s", record.run_id, warning)
    try:
        stored = ctx.lake.read_record(record.job, record.ds, record.run_id)  # a rollback may have changed it
        ctx.lake.write_record(stored.with_(warnings=(*stored.warnings, warning)))
    except LakescoreError as error:
        log.warning("the warning could not be recorded: %s", error.what)
    return record.with_(warnings=(*record.warnings, warning))


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
