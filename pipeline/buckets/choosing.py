"""Decides whether a day is split, into how many buckets, and what maps the work."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pipeline import machine
from pipeline.context import Context
from pipeline.database.resources import most_processes
from pipeline.engines.contract import Engine
from pipeline.engines.processes import Processes
from pipeline.engines.spark import Spark
from pipeline.settings import Settings

BUCKET_ROWS = 1_000_000
"""Maximum number of rows of a bucket: about as many as a staged file has, so that splitting makes no more files."""
BYTES_PER_VALUE = 8


def is_split(ctx: Context, rows: int) -> bool:
    """Tells whether a day with so many rows is scored in buckets."""
    engine = ctx.job.engine
    return engine.name != "threads" and rows >= max(1, engine.min_rows)


def open_engine(ctx: Context) -> Engine:
    """Returns what maps the work of a day that is split."""
    if ctx.job.engine.name == "spark":
        return Spark(Settings.from_environment().spark)
    return Processes(_processes(ctx))


@dataclass(frozen=True)
class Choice:
    """What will score a day."""

    engine: str
    buckets: int | None
    """Number of buckets; None if the day is scored as a whole."""
    at_least: bool = False
    """Whether there may be more buckets: their number is a multiple of that of the cores of a cluster."""


def expected(ctx: Context, rows: int, columns: int) -> Choice:
    """Returns what will score a day with so many rows and columns. Asks no cluster."""
    if not is_split(ctx, rows):
        return Choice("threads", None)
    engine = ctx.job.engine
    on_cluster = engine.name == "spark"
    slots = 1 if on_cluster else _processes(ctx)
    return Choice(engine.name, buckets_of(ctx, rows, columns, slots), on_cluster and engine.buckets is None)


def _processes(ctx: Context) -> int:
    return ctx.job.engine.threads or min(machine.usable_cores(), most_processes())


def of_task(ctx: Context, slots: int) -> Context:
    """Returns the context of a task: it works in one thread, on one machine beside those of the other processes."""
    engine = ctx.job.engine.model_copy(update={"threads": 1})
    processes = slots if engine.name == "processes" else 1
    return replace(ctx, job=ctx.job.model_copy(update={"engine": engine}), processes=processes)


def buckets_of(ctx: Context, rows: int, columns: int, slots: int) -> int:
    """Returns the number of buckets: as the job says, or so many that the rows of each fit into the memory limit.

    `columns` is the number of columns that are read; `slots` the number of tasks that run at the same time, of which
    the number of buckets is a multiple.
    """
    if (wanted := ctx.job.engine.buckets) is not None:
        return wanted
    in_memory = machine.bytes_of(of_task(ctx, slots).resources(columns).memory_limit) // (columns * BYTES_PER_VALUE)
    needed = -(-rows // max(1, min(BUCKET_ROWS, in_memory)))
    return -(-needed // slots) * slots
