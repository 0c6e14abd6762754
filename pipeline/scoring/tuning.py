"""Chooses the number of rows per forward pass and the number of workers: set by the job, remembered, or measured.

A measurement is made once per model and machine, on a day with enough rows, right after the model is loaded, while the
workers, which have read ahead, wait. It takes about a tenth of a second, and is stored beside the lake's staging:

    .tuning/<model's digest>-<machine's digest>.json

Such a file may be removed at any time; a damaged one, or one of another machine, is ignored and written again.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal

from pydantic import Field, ValidationError

from pipeline import machine
from pipeline.errors import LakescoreError
from pipeline.records import Chosen, EngineUsed, Frozen

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipeline.context import Context
    from pipeline.model.manifest import Manifest
    from pipeline.model.predictor import Predictor

log = logging.getLogger(__name__)

WORTH_IT_ROWS = 1_000_000
"""Minimum number of rows of a day for a measurement: a smaller day is over before it would pay off."""
CANDIDATES = tuple(1024 << step for step in range(6))
BUDGET_S = 0.12
BUDGET_SHARE = 0.01
"""Share of the day's scoring time for which a slow model is measured, if that is over `BUDGET_S`; `MOST_S` at most."""
MOST_S = 2.0
TRIAL_S = 0.004
"""Approximate seconds of one trial: long enough for the overhead of the clock and of the call to be small."""
ROUNDS = 4
NEAR = 0.97
"""Share of the best rate at which another size is as good: up to `FEW_CALLS_ROWS` a larger one, then a smaller one."""
FEW_CALLS_ROWS = 8192
"""Number of rows up to which larger batches are preferred: Python's lock is held between the calls for a batch, which
this thread's own rate does not show. Beyond it, smaller ones are: they take less memory."""
HOPELESS = 0.75
"""A candidate below this share of the best rate is not tried a third time; two consecutive ones end a round."""
KEPT_VALUES = 16_000_000
"""Maximum number of values that the widest layer returns for one batch on a CPU, 64 MB; a worker holds two or three of
these."""


class Machine(Frozen):
    """The conditions under which a measurement is valid. With another torch release or GPU, it is made again."""

    processor: str
    cores: int
    physical_cores: int
    device: str
    torch: str
    precision: str
    compiled: bool


class Tuning(Frozen):
    """One measurement, as it is stored."""

    format: Literal[1] = 1
    model: str
    machine: Machine
    rows_per_s: dict[int, float]
    """Rows per second of one worker, by `batch_rows`."""
    batch_rows: int = Field(gt=0)
    workers: int = Field(gt=0, le=1024)


def choose(ctx: Context, manifest: Manifest, predictor: Predictor, rows: int, most_rows: int) -> EngineUsed:
    """Decides how the model is run. `rows` is the number of rows of the day, `most_rows` that of a batch that is read.

    Values set by the job are used as they are. The others come from a remembered measurement, from a new one if the
    day has enough rows, or are 8,192 rows and one worker per core.
    """
    from pipeline.model.predictor import SLICE_ROWS

    engine, here = ctx.job.engine, _machine(predictor)
    found, chosen = None, Chosen.set
    database = ctx.resources(len(manifest.signature.features))
    if engine.batch_rows is None or (engine.threads is None and here.physical_cores < here.cores):
        found, chosen = _found(ctx, manifest, here, predictor, rows, most_rows)
    used = EngineUsed(
        device=predictor.device if predictor.device == here.device else f"{predictor.device}, {here.device}",
        precision=here.precision,
        compiled=here.compiled,
        batch_rows=engine.batch_rows or (found.batch_rows if found else SLICE_ROWS),
        workers=engine.threads or (found.workers if found else here.cores),
        chosen=chosen,
        memory_limit=database.memory_limit,
        database_threads=database.threads,
    )
    rows_at_once = f"{used.batch_rows:,} rows at a time"
    log.info("%s, %s workers (%s), %s; DuckDB: %s", rows_at_once, used.workers, chosen, used.device, database)
    return used


def _found(
    ctx: Context, manifest: Manifest, here: Machine, predictor: Predictor, rows: int, most_rows: int
) -> tuple[Tuning | None, Chosen]:
    """Returns a remembered or a new measurement, and its origin; None if the day is too small for a new one."""
    key = _key(manifest.digest, here)
    if (remembered := _remembered(ctx, key, manifest.digest, here)) is not None:
        return remembered, Chosen.remembered
    if rows < WORTH_IT_ROWS:
        return None, Chosen.default
    measured = measure(predictor, manifest.digest, here, rows, most_rows, ctx.registry.golden(manifest))
    try:
        ctx.lake.workspace.write(key, measured.model_dump_json(indent=1).encode() + b"\n")
    except (OSError, LakescoreError) as error:
        log.warning("the measurement of the model cannot be remembered: %s", error)
    return measured, Chosen.measured


def measure(
    predictor: Predictor, model: str, here: Machine, rows: int, most_rows: int, examples: bytes | None = None
) -> Tuning:
    """Runs the model over the rows of its golden batch, which it is known to take, or else over synthetic rows.

    `examples` is the content of that batch; `_budget_s` limits the time of the trials.
    """
    limit = min(most_rows, predictor.most_rows, (predictor.values_at_once or KEPT_VALUES) // _widest(predictor))
    matrix = _rows(predictor, max(CANDIDATES[0], min(CANDIDATES[-1], limit)), examples)
    rates = batch_rates(predictor, matrix, rows / here.cores)
    batch_rows = fastest(rates)
    best = rates[batch_rows]
    workers = here.cores
    if predictor.device == "cpu" and here.physical_cores < here.cores:
        few = matrix[: _trial_rows(batch_rows, best, len(matrix))]
        until = time.perf_counter() + _budget_s(rows / here.cores / best) / 2
        workers = fewer_or_all(predictor, few, batch_rows, (here.physical_cores, here.cores), until)
    return Tuning(model=model, machine=here, rows_per_s=rates, batch_rows=batch_rows, workers=workers)


def fastest(rates: dict[int, float]) -> int:
    """Returns the largest batch size up to `FEW_CALLS_ROWS` whose rate is nearly the best, or else the smallest one."""
    near = [size for size, rate in rates.items() if rate >= NEAR * max(rates.values())]
    return max((size for size in near if size <= FEW_CALLS_ROWS), default=min(near))


def batch_rates(predictor: Predictor, matrix: NDArray[np.float32], rows: float) -> dict[int, float]:
    """Returns the best rate, in rows/s, of each batch size that was tried, up to the rows of the matrix.

    On a CPU it measures the CPU time of this thread, on which other work of the machine has less effect.
    """
    clock = time.thread_time if predictor.device == "cpu" else time.perf_counter
    began = time.perf_counter()
    predictor.predict_arrow(matrix[: CANDIDATES[0]], CANDIDATES[0])  # the first call is slower than any other
    rates: dict[int, float] = {}
    for turn in range(ROUNDS):
        slow = 0
        for size in [size for size in CANDIDATES if size <= len(matrix)]:
            best = max(rates.values(), default=0.0)
            if turn > 1 and rates.get(size, 0.0) < HOPELESS * best:
                continue
            count = _trial_rows(size, best, len(matrix))
            spent = time.perf_counter() - began
            if best and spent + count / best > _budget_s(rows / best):
                return rates
            at = clock()
            predictor.predict_arrow(matrix[:count], size)
            rates[size] = max(count / max(clock() - at, 1e-9), rates.get(size, 0.0))
            slow = slow + 1 if rates[size] < HOPELESS * best else 0
            if slow == 2:
                break
    return rates


def fewer_or_all(
    predictor: Predictor, matrix: NDArray[np.float32], size: int, counts: tuple[int, int], until: float
) -> int:
    """Returns which of two thread counts scores more rows per second: the smaller, unless the larger is 3% faster.

    After `until`, in `time.perf_counter` seconds, no further round begins; each count is tried at least once.
    """
    best = dict.fromkeys(counts, 0.0)
    for turn in range(ROUNDS):
        if turn and time.perf_counter() > until:
            break
        for threads in counts:
            best[threads] = max(best[threads], _together(predictor, matrix, size, threads))
    fewer, more = counts
    return fewer if best[fewer] >= NEAR * best[more] else more


def _together(predictor: Predictor, matrix: NDArray[np.float32], size: int, threads: int) -> float:
    """Returns the total rows/s of several threads that each score the matrix at the same time."""
    start = threading.Barrier(threads + 1)

    def work() -> None:
        start.wait()
        predictor.predict_arrow(matrix, size)

    with ThreadPoolExecutor(threads) as pool:
        pending = [pool.submit(work) for _ in range(threads)]
        start.wait()
        began = time.perf_counter()
        for each in pending:
            each.result()
        return threads * len(matrix) / (time.perf_counter() - began)


def _budget_s(day_s: float) -> float:
    return min(max(BUDGET_S, BUDGET_SHARE * day_s), MOST_S)


def _trial_rows(size: int, rate: float, most: int) -> int:
    """Returns the rows of as many whole batches as fit into `TRIAL_S`, but of at least one; `most` at most."""
    return min(most, max(size, int(TRIAL_S * rate) // size * size))


def _machine(predictor: Predictor) -> Machine:
    import torch

    return Machine(
        processor=machine.processor(),
        cores=machine.usable_cores(),
        physical_cores=min(machine.usable_cores(), machine.physical_cores()),
        device="cpu" if predictor.device == "cpu" else torch.cuda.get_device_name(predictor.device),
        torch=torch.__version__,
        precision=predictor.precision,
        compiled=predictor.compiled,
    )


def _key(model: str, here: Machine) -> str:
    return f".tuning/{model[:16]}-{hashlib.sha256(here.model_dump_json().encode()).hexdigest()[:16]}.json"


def _remembered(ctx: Context, key: str, model: str, here: Machine) -> Tuning | None:
    try:
        content = ctx.lake.workspace.read(key)
        if content is None:
            return None
        found = Tuning.model_validate_json(content)
    except (ValidationError, OSError, LakescoreError):
        log.warning("ignored, not a valid measurement: %s", ctx.lake.workspace.where(key))
        return None
    return found if (found.model, found.machine) == (model, here) else None


def _widest(predictor: Predictor) -> int:
    """Returns the number of values per row in the widest layer, estimated from the shapes of the weights."""
    from torch import nn

    layers = [module for module in predictor.module.modules() if not isinstance(module, nn.Embedding)]
    weights = (weight for layer in layers for weight in layer.parameters(recurse=False))
    return max((max(weight.shape) for weight in weights if weight.ndim == 2), default=1)


def _rows(predictor: Predictor, rows: int, examples: bytes | None = None) -> NDArray[np.float32]:
    import numpy as np

    from pipeline.model import golden, synthetic_rows
    from pipeline.model.matrix import to_matrix
    from pipeline.model.memory_layout import by_columns, empty

    signature = predictor.signature
    batch = synthetic_rows.draw(signature, 256) if examples is None else golden.read(examples)
    few = to_matrix(batch, signature.features, signature.inputs)
    repeated = few[np.arange(rows) % len(few)]
    if not by_columns(few):
        return repeated
    matrix = empty(*repeated.shape)
    matrix[:] = repeated
    return matrix
