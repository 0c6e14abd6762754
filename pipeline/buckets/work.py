"""What a task needs to open the same lake, job and models as the process that made it."""

from __future__ import annotations

import hashlib
import secrets
import socket
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from pipeline.context import Context
from pipeline.engines.contract import Engine
from pipeline.errors import UsageError
from pipeline.job.config import Job
from pipeline.lake.layout import Lake
from pipeline.model.remote import open_registry
from pipeline.records import Frozen, RunRecord
from pipeline.scoring import stage
from pipeline.storage import make_folder

if TYPE_CHECKING:
    from pipeline.model.manifest import Manifest
    from pipeline.model.predictor import Predictor


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
    """A task: whether a machine sees the files of the run."""

    path: str
    content: str


class Seen(Result):
    host: str
    code: str
    sees: bool


def look(text: str) -> str:
    """Runs a task: tells what this machine has, and whether it sees a file of the run."""
    task = Sight.model_validate_json(text)
    path = Path(task.path)
    sees = path.is_file() and path.read_text("utf-8") == task.content
    return Seen(
        sees=sees, host=socket.gethostname(), code=code_digest(), cpu_s=0.0, peak_memory_bytes=0
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


def check_machines(engine: Engine, folder: Path) -> None:
    """Checks that the machines of an engine see a folder of the run, and have the same packages as this one.

    Raises UsageError that says which machine lacks what. Only machines that take one of the first tasks are seen.
    """
    token = secrets.token_hex(8)
    make_folder(folder)
    path = folder / f"sight-{token}"
    path.write_text(token)
    task = Sight(path=str(path.absolute()), content=token).model_dump_json()
    try:
        seen = [Seen.model_validate_json(text) for _, text in engine.map(look, [task] * engine.slots)]
    finally:
        path.unlink()
    check_same_hash(seen)
    for each in seen:
        if not each.sees:
            raise UsageError(
                f"the machine {each.host} does not see the lake",
                where=path,
                expected="a disk that all machines share, at the same path",
                next_step="mount it there; docs/cluster.md",
            )
        if each.code != code_digest():
            raise UsageError(
                f"the machine {each.host} has another version of Lakescore",
                next_step="install the same version on all machines",
            )


def load_model(ctx: Context, manifest: Manifest) -> Predictor:
    """Loads a model once per process: tasks that follow each other in a process use the same one."""
    key = (ctx.registry.url, manifest.digest, ctx.job.engine.model_dump_json())
    if key not in _LOADED:
        _LOADED.clear()  # a process of a cluster lives on, and works for other models, too
        _LOADED[key] = stage.load_model(ctx, manifest)
    return _LOADED[key]


_LOADED: dict[tuple[str, str, str], Predictor] = {}
