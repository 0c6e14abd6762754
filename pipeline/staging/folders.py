"""Staged rows: written by a run before its commit, invisible to readers, and kept if the run crashes.

    .staging/job=<job>/ds=<ds>/model_version=<version>/<model digest>-<job digest>/<run_id>/
        scored-<worker>-<number>-<token>.parquet     predictions, up to about 1M rows per file
        rejected-<worker>-<number>-<token>.parquet   rows for the quarantine
        withdrawn-00-<number>-<token>.parquet        rows that say that their keys have left the input
        attempts/ split-<token>/                     of a day that is scored in buckets: buckets/bucket.py, splitting.py

A file with such a name is complete and synced; while it is written, it has another name. The digests are in the path so
that a run finds only what earlier runs of the same model and job left behind. The token is random: two processes that
run the same stage of the same run never write to the same file.

Staging lies on the lake's `workspace`: the lake's own disk, or a local folder if the lake is in an object store. If a
cluster scores such a lake, what its tasks leave lies in the store, under the same keys.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from pipeline.context import Context
from pipeline.lake.layout import Partition
from pipeline.lake.liveness import forget, is_at_work
from pipeline.records import RunRecord, State
from pipeline.storage import translated_os_errors

log = logging.getLogger(__name__)

REST = "rest-"
"""Prefix for a copy of a staged file without the rows that another run has published."""


def shared_staging_folder(record: RunRecord) -> str:
    """Returns the folder in which all runs of this partition, model and job stage."""
    partition = Partition.of(record)
    folder = partition.folder.replace("predictions/", ".staging/", 1)
    return f"{folder}/{record.model.digest[:16]}-{record.job_digest[:16]}"


def staging_folder(record: RunRecord) -> str:
    return f"{shared_staging_folder(record)}/{record.run_id}"


def attempts_folder(record: RunRecord) -> str:
    """Returns the key of the folder in which the attempts at all buckets of a run lie: `buckets/bucket.py`."""
    return f"{staging_folder(record)}/attempts"


def staged_files(ctx: Context, record: RunRecord, kind: str) -> list[Path]:
    """Returns the complete files of a kind (`scored`, `rejected`, `withdrawn`) that a run has staged, in order."""
    return complete_files(ctx.lake.workspace.path(staging_folder(record)), kind)


def complete_files(folder: Path, kind: str) -> list[Path]:
    """Returns the complete files of a kind directly in a folder, in order; none if there is no such folder."""
    with translated_os_errors(folder):
        return sorted(folder.glob(f"{kind}-*.parquet"))


def discard_staging(ctx: Context, record: RunRecord) -> None:
    """Removes the staging of a finished run, and of other runs that are over (`_is_over`)."""
    disk = ctx.lake.workspace
    for run in disk.folders(shared_staging_folder(record)):
        if run == record.run_id or _is_over(ctx, record, run):
            folder = disk.path(f"{shared_staging_folder(record)}/{run}")
            shutil.rmtree(folder, ignore_errors=True)  # `clean` finds what remains
            if run != record.run_id:
                forget(ctx.lake, run)
    if not ctx.lake.is_local:
        for run in ctx.lake.storage.folders(shared_staging_folder(record)):
            if run == record.run_id or _is_over(ctx, record, run):
                for file in ctx.lake.storage.files(f"{shared_staging_folder(record)}/{run}"):
                    ctx.lake.storage.delete(file.path)
    remove_empty(disk.path(shared_staging_folder(record)), disk.path(".staging"))


def remove_empty(folder: Path, top: Path) -> None:
    """Removes a folder and those above it, up to `top`, as long as they are empty."""
    while folder != top.parent:
        try:
            folder.rmdir()
        except FileNotFoundError:
            pass  # another run was faster
        except OSError:
            return  # not empty, or another run has just begun there
        folder = folder.parent


def _is_over(ctx: Context, record: RunRecord, run_id: str) -> bool:
    """Tells whether a run has ended, or its process is gone (`lake/liveness.py`).

    A run that was stopped because of its data does not count as over: a person may want to inspect its staging.
    """
    if not ctx.lake.records.exists(record.job, record.ds, run_id):
        return False
    other = ctx.lake.records.read(record.job, record.ds, run_id)
    return other.state is not State.stopped and is_at_work(ctx.lake, other) is False
