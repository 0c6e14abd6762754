"""What every stage is given."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from pipeline import machine
from pipeline.job import Job
from pipeline.lake import Lake
from pipeline.records import EngineUsed, StageReport
from pipeline.settings import Settings

if TYPE_CHECKING:
    from pipeline.model.registry import Registry

Progress = Callable[[str, int, int], None]
"""Called with the stage, the rows done and the rows in all."""


@runtime_checkable
class Watcher(Protocol):
    """A progress that also wants to hear what the workers of a stage do with their time."""

    def __call__(self, stage: str, done: int, total: int, /) -> None: ...

    def workers(self, busy: Mapping[str, float]) -> None:
        """Is called with the shares of their time so far."""


def silent(_stage: str, _done: int, _total: int) -> None:
    """The progress of a run that nobody watches."""


@dataclass(frozen=True)
class Context:
    lake: Lake
    job: Job
    registry: Registry
    progress: Progress = field(default=silent)

    def show_workers(self, busy: Callable[[], Mapping[str, float]]) -> None:
        """Tells a progress that wants to hear it what the workers have done with their time so far."""
        if isinstance(self.progress, Watcher):
            self.progress.workers(busy())

    @classmethod
    def open(cls, job: Job, settings: Settings, progress: Progress = silent) -> Context:
        from pipeline.model.remote import open_registry

        return cls(Lake.open(settings.lake), job, open_registry(settings.models), progress)


@dataclass
class Clock:
    """Measures one stage."""

    stage: str
    rows: int = 0
    busy: dict[str, float] = field(default_factory=dict)
    engine: EngineUsed | None = None
    report: StageReport = field(init=False)
    """Set when the stage has ended."""


@contextmanager
def timed(stage: str) -> Iterator[Clock]:
    """Fills in the clock's report: wall and CPU seconds of this process, and the bytes that it read and wrote."""
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

    getrusage counts that of its parent before the exec too; Linux knows better.
    """
    try:
        status = Path("/proc/self/status").read_text("ascii")
    except FileNotFoundError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
