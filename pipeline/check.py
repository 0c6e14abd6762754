"""Is there anything to do? Answered from listings and digests alone, without reading data or importing an engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.context import Context
from pipeline.lake import Partition
from pipeline.records import RunRecord, State

if TYPE_CHECKING:
    from pipeline.model.manifest import Manifest


def up_to_date(ctx: Context, manifest: Manifest, ds: str) -> RunRecord | None:
    """Returns the last complete run if input, predictions, quarantine, model and job are still as it left them."""
    record = _last_complete(ctx, manifest.version, ds)
    if record is None:
        return None
    lake, job = ctx.lake, ctx.job
    partition = Partition(job.name, ds, manifest.version)
    as_it_was = (
        record.model == manifest.ref
        and record.job_digest == job.digest
        and record.plan.input == lake.input_files(job.input.patterns, ds)
        and record.parts == lake.parts(partition)
        and record.quarantine == lake.quarantine_files(job.name, ds)
        and lake.storage.head(partition.success) is not None
    )
    return record if as_it_was else None


def _last_complete(ctx: Context, version: str, ds: str) -> RunRecord | None:
    for record in ctx.lake.iter_records(ctx.job.name, ds):
        if record.state is State.complete and record.model.version == version:
            return record
    return None
