"""The context that every stage receives, and the measurement of a stage."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

from pipeline import machine
from pipeline.database.resources import VECTOR_ROWS, Resources, batch_rows, resources
from pipeline.errors import ModelMismatch
from pipeline.job.config import Job
from pipeline.lake.layout import Lake
from pipeline.records import EngineUsed, RunRecord, StageReport
from pipeline.settings import Settings

if TYPE_CHECKING:
    from pipeline.model.manifest import Manifest
    from pipeline.model.registry import Registry

T = TypeVar("T")

Progress = Callable[[str, int, int], None]
"""Called with the stage, the number of rows done and the total number of rows."""


@runtime_checkable
class Watcher(Protocol):
    """A progress callback that is also told how the workers of a stage spend their time."""

    def __call__(self, stage: str, done: int, total: int, /) -> None: ...

    def workers(self, busy: Mapping[str, float]) -> None:
        """Called with the shares of their time so far, 0 to 1, by activity."""


def silent(_stage: str, _done: int, _total: int) -> None:
    """A progress callback that does nothing."""


class Shared:
    """What the stages of a run open once while one process runs them all: one value at a time, closed at the end."""

    def __init__(self) -> None:
        self._opened = ExitStack()
        self._key: object = None
        self._value: Any = None
        self._users = 0

    @contextmanager
    def use(self, key: object, opening: Callable[[], AbstractContextManager[T]]) -> Iterator[T]:
        """Yields the value of a key, which stays open, and replaces that of another key unless it is in use.

        After an error it is closed, since an error may leave it in any state.
        """
        if self._users and self._key != key:
            with opening() as value:
                yield value
            return
        if self._key != key:
            self.close()
            self._value = self._opened.enter_context(opening())
            self._key = key
        self._users += 1
        try:
            yield self._value
        except BaseException:
            self._key = None
            raise
        finally:
            self._users -= 1
            if self._key is None and not self._users:
                self.close()

    def close(self) -> None:
        self._key = self._value = None
        self._opened.close()


@dataclass(frozen=True)
class Context:
    """The lake, job and registry of models that a stage works with, and the limits of this machine."""

    lake: Lake
    job: Job
    registry: Registry
    progress: Progress = field(default=silent)
    copies: Path | None = None
    """Folder for copies of text (`selecting/imported.py`) that the lake lacks; None: they go into the lake."""
    frugal: bool = False
    """Whether a stage is run again because DuckDB ran out of memory: with one thread, and in small batches."""

    processes: int = 1
    """Number of processes that share the cores and the memory of this machine at the same time, this one included."""
    shared: Shared | None = None
    """What the stages of one run share; None outside a run, or if each of them has its own process."""

    @contextmanager
    def sharing(self) -> Iterator[Context]:
        """Yields this context for the stages of one run, which share what they open."""
        shared = Shared()
        try:
            yield replace(self, shared=shared)
        finally:
            shared.close()

    def resources(self, columns: int = 0) -> Resources:
        """Returns what DuckDB takes to read and join rows with a number of columns."""
        found = resources(self.job.engine, columns, self.processes)
        return replace(found, threads=1) if self.frugal else found

    def batch_rows(self, columns: int) -> int:
        """Returns the number of rows that are read at once, given the columns of their feature matrix."""
        workers = self.processes * (self.job.engine.threads or machine.usable_cores())
        return VECTOR_ROWS if self.frugal else batch_rows(columns, workers)

    def show_workers(self, busy: Callable[[], Mapping[str, float]]) -> None:
        """Tells a `Watcher` how the workers have spent their time so far."""
        if isinstance(self.progress, Watcher):
            self.progress.workers(busy())

    def manifest(self) -> Manifest:
        """Returns the manifest of the model that the job names now. Raises ModelNotFound."""
        return self.registry.resolve(self.job.model.name, self.job.model.version)

    def manifest_of(self, record: RunRecord) -> Manifest:
        """Returns the manifest of a run's model.

        Raises ModelNotFound if its version is no longer registered, ModelMismatch if it is another model now.
        """
        manifest = self.registry.resolve(record.model.name, record.model.version)
        if manifest.digest != record.model.digest:
            raise ModelMismatch(
                f"model {manifest.name} {manifest.version} is not the one of run {record.run_id}",
                where=self.registry.root / manifest.name / manifest.version,
                expected=f"the digest {record.model.digest}",
                got=f"the digest {manifest.digest}",
                next_step="run again: a new run scores with the model that is registered now",
            )
        return manifest

    @classmethod
    def open(cls, job: Job, settings: Settings, progress: Progress = silent) -> Context:
        from pipeline.model.remote import open_registry

        return cls(Lake.open(settings.lake), job, open_registry(settings.models), progress)


@dataclass
class Clock:
    """The measurement of one stage."""

    stage: str
    rows: int = 0
    busy: dict[str, float] = field(default_factory=dict)
    engine: EngineUsed | None = None
    report: StageReport = field(init=False)
    """Report of the stage; set when it has ended."""


@contextmanager
def timed(stage: str) -> Iterator[Clock]:
    """Yields a clock and fills in its report: wall and CPU seconds of this process, and the bytes that it moved."""
    clock, wall, cpu, before = Clock(stage), time.perf_counter(), time.process_time(), machine.bytes_moved()
    try:
        yield clock
    finally:
        after = machine.bytes_moved()
        moved = (after[0] - before[0], after[1] - before[1]) if before and after else (None, None)
        clock.report = StageReport(
            stage=stage,
            wall_s=time.perf_counter() - wall,
            cpu_s=time.process_time() - cpu,
            rows=clock.rows,
            busy=clock.busy,
            engine=clock.engine,
            bytes_read=moved[0],
            bytes_written=moved[1],
        )


def peak_memory_bytes() -> int:
    """Returns the highest resident memory of this process so far.

    On Linux from /proc, since getrusage also counts the memory of the parent process before the exec.
    """
    try:
        status = Path("/proc/self/status").read_text("ascii")
    except FileNotFoundError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
