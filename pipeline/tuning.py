"""How many rows go through the model at a time, and how many workers there are: set, remembered, or measured.

A measurement is made once a model and machine, of a day that is worth it, right after the model is loaded: the workers
have read ahead and wait by then. It takes about a tenth of a second, and is remembered beside the lake's staging:

    .tuning/<model's digest>-<machine's digest>.json

Such a file may be removed at any time; one that is damaged, or of another machine, is passed over and made again.
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
"""A day of fewer rows is not measured: it is over before that would pay."""
CANDIDATES = tuple(1024 << step for step in range(6))
BUDGET_S = 0.12
BUDGET_SHARE = 0.01
"""Of the time that the day will take: a slow model may be measured for longer, up to `MOST_S`."""
MOST_S = 2.0
TRIAL_S = 0.004
"""How long one trial takes at least, so that its clock's and its first call's share is small."""
ROUNDS = 4
NEAR = 0.97
"""A smaller batch is taken if its rate is at least this share of the best: it takes less memory."""
HOPELESS = 0.75
"""A candidate this slow, against the best so far, is not tried a third time; after two of them no larger one is."""
KEPT_VALUES = 16_000_000
"""What the widest layer may give for one batch, 64 MB: a worker holds two or three of these."""


class Machine(Frozen):
    """What a measurement holds for. Another torch, or a card in the machine, and it is made again."""

    processor: str
    cores: int
    physical_cores: int
    device: str
    torch: str
    precision: str
    compiled: bool


class Tuning(Frozen):
    """One measurement, as it is remembered."""

    format: Literal[1] = 1
    model: str
    machine: Machine
    rows_per_s: dict[int, float]
    """Of one worker, by `batch_rows`."""
    batch_rows: int = Field(gt=0)
    workers: int = Field(gt=0, le=1024)


def choose(ctx: Context, manifest: Manifest, predictor: Predictor, rows: int, most_rows: int) -> EngineUsed:
    """Decides how the model is run. `rows` are those of the day, and `most_rows` those of a batch that is read.

    What the job sets is used as it is. Of the rest, what is remembered counts, then a measurement if there are rows
    enough for it, then 8,192 rows and a worker a core.
    """
    from pipeline.model.predictor import SLICE_ROWS

    engine, here = ctx.job.engine, _machine(predictor)
    found, chosen = None, Chosen.set
    if engine.batch_rows is None or (engine.threads is None and here.physical_cores < here.cores):
        found, chosen = _found(ctx, manifest.digest, here, predictor, rows, most_rows)
    used = EngineUsed(
        device=predictor.device if predictor.device == here.device else f"{predictor.device}, {here.device}",
        precision=here.precision,
        compiled=here.compiled,
        batch_rows=engine.batch_rows or (found.batch_rows if found else SLICE_ROWS),
        workers=engine.threads or (found.workers if found else here.cores),
        chosen=chosen,
    )
    log.info("%s rows at a time, %s workers (%s), %s", f"{used.batch_rows:,}", used.workers, chosen, used.device)
    return used


def _found(
    ctx: Context, model: str, here: Machine, predictor: Predictor, rows: int, most_rows: int
) -> tuple[Tuning | None, Chosen]:
    """Returns a measurement, an old one or a new one, if there is reason for one."""
    key = _key(model, here)
    if (remembered := _remembered(ctx, key, model, here)) is not None:
        return remembered, Chosen.remembered
    if rows < WORTH_IT_ROWS:
        return None, Chosen.default
    measured = measure(predictor, model, here, rows, most_rows)
    try:
        ctx.lake.workspace.write(key, measured.model_dump_json(indent=1).encode() + b"\n")
    except (OSError, LakescoreError) as error:
        log.warning("the measurement of the model cannot be remembered: %s", error)
    return measured, Chosen.measured


def measure(predictor: Predictor, model: str, here: Machine, rows: int, most_rows: int) -> Tuning:
    """Runs the model over made-up rows of its signature, for at most `BUDGET_S` or a hundredth of the day's time."""
    limit = min(most_rows, predictor.most_rows, KEPT_VALUES // _widest(predictor))
    matrix = _rows(predictor, max(CANDIDATES[0], min(CANDIDATES[-1], limit)))
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
    """Returns the smallest batch size whose rate is nearly the best."""
    return min(size for size, rate in rates.items() if rate >= NEAR * max(rates.values()))


def batch_rates(predictor: Predictor, matrix: NDArray[np.float32], rows: float) -> dict[int, float]:
    """Returns the best rate, in rows/s, of each batch size up to the rows of the matrix; of those that had a turn.

    On a CPU the clock is that of this thread: what else the machine does then counts less.
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
    """Returns how many threads score more rows a second: the fewer of two, unless the more are 3% faster.

    `until` is when no further trial begins, by `time.perf_counter`; each has one at least.
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
    """Returns the rows/s of so many threads that each score the matrix, side by side."""
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
    """Returns a whole number of batches that takes at least `TRIAL_S`, as far as there are rows."""
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
        log.warning("not a measurement of ours, passed over: %s", ctx.lake.workspace.where(key))
        return None
    return found if (found.model, found.machine) == (model, here) else None


def _widest(predictor: Predictor) -> int:
    """Returns how many values the widest layer gives for a row, as far as the shapes of the weights tell."""
    from torch import nn

    layers = [module for module in predictor.module.modules() if not isinstance(module, nn.Embedding)]
    weights = (weight for layer in layers for weight in layer.parameters(recurse=False))
    return max((max(weight.shape) for weight in weights if weight.ndim == 2), default=1)


def _rows(predictor: Predictor, rows: int) -> NDArray[np.float32]:
    import numpy as np

    from pipeline.features import to_matrix
    from pipeline.model import drawing

    signature = predictor.signature
    few = to_matrix(drawing.draw(signature, 256), signature.features, signature.inputs)
    return np.ascontiguousarray(np.resize(few, (rows, few.shape[1])))
