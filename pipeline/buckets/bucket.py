"""Scores one bucket: a small day, with its own selection, staged files and ledger.

Each attempt at it writes into a folder of its own, beside those of other attempts:

    <staging of the run>/attempts/bucket-<number>-<token>/scored-*.parquet, rejected-*.parquet, withdrawn-*.parquet
                                                          profile.parquet      the counts of the stream
                                                          result.json          written last: the attempt is complete

What the task returns is what counts. `result.json` is for a run that takes up what a crashed one has finished.
"""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import duckdb
from pydantic import ValidationError

from pipeline.buckets.splitting import Source
from pipeline.buckets.work import Result, Work, load_model
from pipeline.committing.ledger import Accounts
from pipeline.context import Context, peak_memory_bytes, timed
from pipeline.database.connection import read_parquet
from pipeline.errors import StorageUnavailable
from pipeline.lake.layout import Partition
from pipeline.profiles.stage import STAGED
from pipeline.records import CheckResult, EngineUsed, FileInfo, Frozen, Ledger, Plan, RunRecord
from pipeline.scoring.stage import Staging
from pipeline.selecting.triage import WITHDRAWN
from pipeline.selecting.views import select
from pipeline.staging.adopting import linked
from pipeline.staging.folders import complete_files, shared_staging_folder, staging_folder

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation

RESULT = "result.json"
SCORED = "scored"
KINDS = (SCORED, "rejected", WITHDRAWN)


class Bucket(Frozen):
    """A task: the rows of one bucket. Paths are keys of the lake's workspace."""

    work: Work
    number: int
    files: dict[str, tuple[str, ...]]
    """The rows of the bucket, by their source."""
    left: tuple[tuple[str, ...], ...]
    """The predictions of this bucket that each attempt of a crashed process has finished."""


class Scored(Result):
    number: int
    buckets: int
    files: tuple[str, ...]
    """Keys of the staged files."""
    profile: str | None
    """Key of the counts of the stream, if it has counted all rows."""
    counts: dict[str, int]
    """Rows by disposition and reason, as the stream has counted them."""
    ledger: Ledger
    checks: tuple[CheckResult, ...]
    engine: EngineUsed | None
    seconds: dict[str, float]
    """Seconds by activity."""
    load_cpu_s: float


def score_bucket(text: str) -> str:
    """Runs a task. Raises the errors of the stage `score`, and LedgerImbalance if the bucket does not add up."""
    task = Bucket.model_validate_json(text)
    ctx, record = task.work.open(), task.work.record
    workspace = ctx.lake.workspace
    place = f"{attempts(record)}/bucket-{task.number:05d}-{secrets.token_hex(4)}"
    plan = _plan(ctx, task)

    def read(con: Connection) -> Relation:
        return read_parquet(con, [workspace.where(key) for key in task.files[Source.input]])

    with timed("bucket") as clock, select(ctx, plan, Partition.of(record), read) as selected:
        plan = plan.model_copy(update={"candidates": selected.term("committing/candidates")})
        record = record.with_(plan=plan)
        left = linked(
            workspace.path(place), [(f"{each}", list(map(workspace.path, keys))) for each, keys in enumerate(task.left)]
        )
        staging = Staging(ctx, record, selected, place, left, load=load_model, first_worker=task.number)
        counts = staging.run()
        staged = [complete_files(staging.folder, kind) for kind in KINDS]
        record = record.with_(dispositions=dict(counts))
        ledger = Accounts(selected, record, *([str(path) for path in paths] for paths in staged)).before_commit()
    result = Scored(
        number=task.number,
        buckets=task.work.buckets,
        files=tuple(f"{place}/{path.name}" for paths in staged for path in paths),
        profile=f"{place}/{STAGED}" if workspace.head(f"{place}/{STAGED}") else None,
        counts=dict(counts),
        ledger=ledger,
        checks=staging.checks,
        engine=staging.engine,
        seconds=staging.seconds,
        cpu_s=clock.report.cpu_s,
        load_cpu_s=staging.predicted.cpu_s,
        peak_memory_bytes=peak_memory_bytes(),
    )
    workspace.write(f"{place}/{RESULT}", result.model_dump_json().encode())
    return result.model_dump_json()


def attempts(record: RunRecord) -> str:
    """Returns the key of the folder in which the attempts at all buckets of a run lie."""
    return f"{staging_folder(record)}/attempts"


def _plan(ctx: Context, task: Bucket) -> Plan:
    """Returns the plan of the small day that a bucket is."""
    files = {source: _infos(ctx, task.files.get(source, ())) for source in Source}
    return task.work.record.plan.model_copy(
        update={
            "input": {Source.input.value: files[Source.input]},
            "base": (*files[Source.stored], *files[Source.foreign]),
            "other_models": files[Source.foreign],
            "other_versions": files[Source.other],
        }
    )


def _infos(ctx: Context, keys: Sequence[str]) -> tuple[FileInfo, ...]:
    """Returns files of the workspace by their whole paths: the lake itself may be in an object store."""
    found = []
    for key in keys:
        path = ctx.lake.workspace.where(key)
        if (file := ctx.lake.workspace.head(key)) is None:
            raise StorageUnavailable(
                "a file of the run is missing on the machine that scores a bucket",
                where=path,
                next_step="the lake must lie on a disk that all machines share, at the same path; see docs/cluster.md",
            )
        found.append(file.model_copy(update={"path": path}))
    return tuple(found)


def finished(ctx: Context, work: Work) -> dict[int, list[tuple[str, ...]]]:
    """Returns the keys of the scored files of each complete attempt that was left behind, by bucket.

    Those of crashed runs of the same partition, model and job, and of earlier processes of the run itself, with as many
    buckets and the same `hash()`. Several attempts at a bucket have the same rows.
    """
    workspace = ctx.lake.workspace
    found: dict[int, list[tuple[str, ...]]] = defaultdict(list)
    shared = shared_staging_folder(work.record)
    for run in reversed(workspace.folders(shared)):
        folder = attempts(work.record.with_(run_id=run))
        for name in workspace.folders(folder):
            content = workspace.read(f"{folder}/{name}/{RESULT}")
            result = None if content is None else _parsed(content)
            if result is None or (result.buckets, result.duckdb) != (work.buckets, duckdb.__version__):
                continue
            if scored := tuple(key for key in result.files if key.rpartition("/")[2].startswith(f"{SCORED}-")):
                found[result.number].append(scored)
    return found


def _parsed(content: bytes) -> Scored | None:
    """Returns the result of an attempt, or None if another version of Lakescore wrote it."""
    try:
        return Scored.model_validate_json(content)
    except ValidationError:
        return None
