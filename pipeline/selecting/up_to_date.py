"""Tells whether the results of an earlier run still hold, from listings and digests alone: no data is read.

A model is its digest. The name of its version only says where its predictions are: another model may have had that
name before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.context import Context
from pipeline.lake.layout import Partition
from pipeline.records import RunRecord, same_files

if TYPE_CHECKING:
    from pipeline.model.manifest import Manifest


@dataclass(frozen=True)
class ValidRun:
    """A complete run of the job's model; input, predictions, quarantine and job are still as it left them."""

    record: RunRecord
    up_to_date: bool
    """Whether it is the day's last complete run of any model: only then do the views show its predictions."""


def find_valid_run(ctx: Context, manifest: Manifest, ds: str) -> ValidRun | None:
    """Returns the last complete run whose results hold for the job and its model as they are now, or None."""
    lake, job = ctx.lake, ctx.job
    records = lake.records.of_day(job.name, ds)
    complete = lake.records.complete(records)
    same = [record for record in complete if _is_of(record, manifest) and record.job_digest == job.digest]
    if not same or lake.storage.head(Partition.of(same[0]).success) is None:
        return None
    found = lake.input_files(job.patterns, ds)
    parts, quarantine = lake.parts(Partition.of(same[0])), lake.quarantine_files(job.name, ds)
    for record in same:
        as_it_was = same_files(record.plan.input, found) and (record.parts, record.quarantine) == (parts, quarantine)
        if as_it_was and not _may_be_mixed(record, records):
            return ValidRun(record, record is complete[0] and record.model == manifest.ref)
    return None


def _is_of(record: RunRecord, manifest: Manifest) -> bool:
    return (record.model.digest, record.model.version) == (manifest.digest, manifest.version)


def _may_be_mixed(record: RunRecord, records: Sequence[RunRecord]) -> bool:
    """Tells whether a run may have taken another model's predictions for its own: it did not compare models."""
    return record.plan.other_models is None and any(
        other.model.version == record.model.version and other.model.digest != record.model.digest for other in records
    )
