"""Scores one bucket: a small day, with its own selection, staged files and ledger.

Each attempt at it writes into a folder of its own, beside those of other attempts:

    <staging of the run>/attempts/bucket-<number>-<token>/scored-*.parquet, rejected-*.parquet, withdrawn-*.parquet
                                                          profile.parquet      the counts of the stream
                                                          result.json          written last: the attempt is complete

Keys of files are those of `exchange.py`.

What the task returns is what counts. `result.json` is for a run that takes up what a crashed one has finished.
"""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import duckdb
from pydantic import ValidationError

from pipeline.buckets.exchange import Exchange
from pipeline.buckets.splitting import Source
from pipeline.buckets.work import Result, Work, load_model
from pipeline.committing.ledger import Accounts
from pipeline.context import Context, peak_memory_bytes, timed
from pipeline.database.connection import read_parquet
from pipeline.lake.layout import Partition
from pipeline.profiles.stage import STAGED
from pipeline.records import CheckResult, EngineUsed, FileInfo, Frozen, Ledger, Plan
from pipeline.scoring.stage import Staging
from pipeline.selecting.triage import WITHDRAWN
from pipeline.selecting.views import select
from pipeline.staging.adopting import linked
from pipeline.staging.folders import attempts_folder, complete_files, shared_staging_folder

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation

RESULT = "result.json"
SCORED = "scored"
KINDS = (SCORED, "rejected", WITHDRAWN)


class Bucket(Frozen):
    """A task: the rows of one bucket. Files are named by their keys, see `exchange.py`."""

    work: Work
    number: int
    files: dict[str, tuple[str, ...]]
    """The rows of the bucket, by their source."""
    left: tuple[tuple[str, ...], ...]
    """The predictions of this bucket that each attempt of a crashed process has finished."""

    def with_keys(self, keys: Mapping[str, str]) -> Bucket:
        """Returns the task with other keys for its files; what was left behind and has none is left out."""
        files = {source: tuple(keys[key] for key in found) for source, found in self.files.items()}
        left = tuple(tuple(keys[key] for key in found if key in keys) for found in self.left)
        return self.model_copy(update={"files": files, "left": left})


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
    place = f"{attempts_folder(record)}/bucket-{task.number:05d}-{secrets.token_hex(4)}"
    exchange = Exchange(ctx)
    wanted, left = ([key for keys in found for key in keys] for found in (task.files.values(), task.left))
    with timed("bucket") as clock, exchange.fetched(wanted, left) as local, exchange.shared(place):
        result = _score(ctx, task.with_keys(local), place)
    result = result.model_copy(update={"cpu_s": clock.report.cpu_s, "peak_memory_bytes": peak_memory_bytes()})
    exchange.storage.write(f"{place}/{RESULT}", result.model_dump_json().encode())
    return result.model_dump_json()


def _score(ctx: Context, task: Bucket, place: str) -> Scored:
    """Scores a bucket whose files are on this machine."""
    record, workspace = task.work.record, ctx.lake.workspace
    plan = _plan(ctx, task)

    def read(con: Connection) -> Relation:
        return read_parquet(con, [workspace.where(key) for key in task.files[Source.input]])

    with select(ctx, plan, Partition.of(record), read) as selected:
        plan = plan.model_copy(update={"candidates": selected.term("committing/candidates")})
        record = record.with_(plan=plan)
        left = linked(
            workspace.path(place), [(f"{each}", list(map(workspace.path, keys))) for each, keys in enumerate(task.left)]
        )
        staging = Staging(
            ctx, record, selected, place, left, load=load_model, first_worker=task.number, finds_edges=False
        )
        counts = staging.run()
        staged = [complete_files(staging.folder, kind) for kind in KINDS]
        record = record.with_(dispositions=dict(counts))
        ledger = Accounts(selected, record, *([str(path) for path in paths] for paths in staged)).before_commit()
    return Scored(
        number=task.number,
        buckets=task.work.buckets,
        files=tuple(f"{place}/{path.name}" for paths in staged for path in paths),
        profile=f"{place}/{STAGED}" if workspace.head(f"{place}/{STAGED}") else None,
        counts=dict(counts),
        ledger=ledger,
        checks=staging.checks,
        engine=staging.engine,
        seconds=staging.seconds,
        cpu_s=0.0,
        load_cpu_s=staging.predicted.cpu_s,
        peak_memory_bytes=0,
    )


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
        file = ctx.lake.workspace.head(key)
        assert file is not None, "it was fetched"
        found.append(file.model_copy(update={"path": ctx.lake.workspace.where(key)}))
    return tuple(found)


def finished(exchange: Exchange, work: Work) -> dict[int, list[tuple[str, ...]]]:
    """Returns the keys of the scored files of each complete attempt that was left behind, by bucket.

    Those of crashed runs of the same partition, model and job, and of earlier processes of the run itself, with as many
    buckets and the same `hash()`. Several attempts at a bucket have the same rows.
    """
    storage = exchange.storage
    found: dict[int, list[tuple[str, ...]]] = defaultdict(list)
    shared = shared_staging_folder(work.record)
    for run in reversed(storage.folders(shared)):
        folder = attempts_folder(work.record.with_(run_id=run))
        for name in storage.folders(folder):
            content = storage.read(f"{folder}/{name}/{RESULT}")
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
