"""What a task needs to open the same lake, job and models as the process that made it."""

from __future__ import annotations

import hashlib
import secrets
import socket
import sys
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from typing import TYPE_CHECKING

import duckdb

from pipeline.buckets.exchange import Exchange
from pipeline.context import Context
from pipeline.engines.contract import Engine
from pipeline.errors import LakescoreError, UsageError
from pipeline.job.config import Job
from pipeline.lake.layout import Lake
from pipeline.model.remote import open_registry
from pipeline.records import Frozen, RunRecord
from pipeline.scoring import stage
from pipeline.staging.folders import staging_folder

if TYPE_CHECKING:
    from pipeline.model.manifest import Manifest
    from pipeline.model.predictor import Predictor

PACKAGES = ("numpy", "pyarrow", "torch")
"""What a task imports besides the package that is imported to look."""


class Work(Frozen):
    """The work that all tasks of a run share."""

    lake: str
    models: str
    job: Job
    record: RunRecord
    buckets: int
    processes: int = 1
    frugal: bool = False
    """Of the context of a task, as the number of processes."""

    @classmethod
    def of(cls, ctx: Context, record: RunRecord, buckets: int) -> Work:
        """The context is that of a task."""
        lake = ctx.lake.storage.where("").rstrip("/")  # the very address: a workspace depends on it
        return cls(
            lake=lake,
            models=ctx.registry.url,
            job=ctx.job,
            record=record,
            buckets=buckets,
            processes=ctx.processes,
            frugal=ctx.frugal,
        )

    def open(self) -> Context:
        lake, models = Lake.open(self.lake), open_registry(self.models)
        return Context(lake, self.job, models, frugal=self.frugal, processes=self.processes)


class Result(Frozen):
    """What every task returns."""

    duckdb: str = duckdb.__version__
    cpu_s: float
    peak_memory_bytes: int


def check_same_hash(results: Sequence[Result]) -> None:
    """Raises UsageError if tasks ran under another version of DuckDB, whose `hash()` may be another."""
    if others := sorted({result.duckdb for result in results} - {duckdb.__version__}):
        raise UsageError(
            "the machines of the run have different versions of DuckDB",
            expected=f"{duckdb.__version__}, as here",
            got=", ".join(others),
            next_step="install the same packages on all of them",
        )


class Sight(Frozen):
    """A task: what a machine must see."""

    work: Work
    key: str
    content: str
    """Of a file that the run shares with all machines."""


class Seen(Result):
    where: str
    """Host and Python."""
    code: str
    lacks: tuple[str, ...] = ()
    """Packages that are not installed."""
    sees: bool = False
    """Whether the file of the run is there."""
    problem: str | None = None
    """Why the lake, or the model, cannot be opened."""


def look(text: str) -> str:
    """Runs a task: tells what this machine has, and whether it sees the lake and the model of the run."""
    task = Sight.model_validate_json(text)
    record, problem, sees = task.work.record, None, False
    lacks = tuple(name for name in PACKAGES if find_spec(name) is None)
    if not lacks:
        try:
            ctx = task.work.open()
            sees = Exchange(ctx).storage.read(task.key) == task.content.encode()
            ctx.manifest_of(record)
        except LakescoreError as error:
            problem = str(error)
    where = f"{socket.gethostname()}, {sys.executable} {sys.version.split()[0]}"
    return Seen(
        where=where, code=code_digest(), lacks=lacks, sees=sees, problem=problem, cpu_s=0.0, peak_memory_bytes=0
    ).model_dump_json()


@cache
def code_digest() -> str:
    """Returns the sha256 over the modules of the package, which may lie in an archive."""
    sha = hashlib.sha256()
    folders = [files("pipeline")]
    while folders:
        for each in sorted(folders.pop().iterdir(), key=lambda found: found.name):
            if each.is_dir() and not each.name.startswith("__"):
                folders.append(each)
            elif each.name.endswith(".py"):
                sha.update(each.read_bytes())
    return sha.hexdigest()


def check_machines(engine: Engine, ctx: Context, record: RunRecord) -> None:
    """Checks that the machines of an engine have the same packages as this one, and see the lake and the model.

    Raises UsageError that says which machine lacks what. Only machines that take one of the first tasks are seen.
    """
    exchange, token = Exchange(ctx), secrets.token_hex(8)
    key = f"{staging_folder(record)}/sight-{token}"
    exchange.storage.write(key, token.encode())
    task = Sight(work=Work.of(ctx, record, 1), key=key, content=token).model_dump_json()
    try:
        seen = [Seen.model_validate_json(text) for _, text in engine.map(look, [task] * engine.slots)]
    finally:
        exchange.storage.delete(key)
    check_same_hash(seen)
    for each in seen:
        _check(each, exchange, key)


def _check(seen: Seen, exchange: Exchange, key: str) -> None:
    if seen.lacks:
        raise UsageError(
            f"an executor lacks the package {', '.join(seen.lacks)}",
            where=seen.where,
            next_step="install Lakescore there, or let PYSPARK_PYTHON name a Python that has it; docs/cluster.md",
        )
    if seen.code != code_digest():
        raise UsageError(
            "an executor has another version of Lakescore",
            where=seen.where,
            next_step="install the same version on all machines",
        )
    if seen.problem is not None:
        raise UsageError(
            "an executor cannot open the lake, or the model",
            where=seen.where,
            got=seen.problem,
            next_step="give executors the same paths, credentials and packages as this process; docs/cluster.md",
        )
    if not seen.sees:
        raise UsageError(
            "an executor does not see the lake",
            where=seen.where,
            expected=f"the file {exchange.storage.where(key)}, on a disk that all machines share, at the same path",
            next_step="mount it there; docs/cluster.md",
        )


def load_model(ctx: Context, manifest: Manifest) -> Predictor:
    """Loads a model once per process: tasks that follow each other in a process use the same one."""
    key = (ctx.registry.url, manifest.digest, ctx.job.engine.model_dump_json())
    if key not in _LOADED:
        _LOADED.clear()  # a process of a cluster lives on, and works for other models, too
        _LOADED[key] = stage.load_model(ctx, manifest)
    return _LOADED[key]


_LOADED: dict[tuple[str, str, str], Predictor] = {}
