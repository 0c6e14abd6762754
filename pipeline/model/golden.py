"""The golden batch: rows, and the model's outputs for them at registration.

A loaded model that does not reproduce them is not the registered one, even if the digest matches: a library, a driver
or the device computes differently. The rows are the user's examples, ideally with the outputs of the training code (a
wrong feature order or activation is then detected at registration), or else those of `trial_rows.py`.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.errors import ModelRefused
from pipeline.model import trial_rows
from pipeline.storage.parquet import from_bytes

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from pipeline.model.predictor import Predictor
    from pipeline.model.trial_rows import TrialRows

    Outputs = dict[str, NDArray[np.float64]]

FILE = "golden.parquet"
APART = 16
"""Number of rows that are also scored one by one."""
OUTPUT = "__"
"""Prefix of output columns, because a feature may have the same name as an output."""
TOLERANCES = {"cpu": 1e-4, "cuda": 1e-3}
"""Tolerance of float32 outputs by device, absolute and relative: devices add up in different orders."""
HALF_TOLERANCE = 2e-2
"""Tolerance for float16 or bfloat16 weights, on any device."""
BFLOAT16_TOLERANCE = 1e-1
"""Tolerance for float32 weights run in bfloat16: each step rounds to 3 digits, and synthetic rows have large values."""
AGREEMENT = 1e-3
"""Tolerance for the training code's own outputs, which were computed elsewhere, of models in float32."""


@dataclass(frozen=True)
class Difference:
    largest: float
    """Largest difference of any output of any row, relative to the expected value where that is above one."""
    tolerance: float
    rows: int
    precision: str
    """Precision of the compared run; if not float32, the model has also reproduced its golden batch in float32."""

    @property
    def reproduced(self) -> bool:
        return self.largest <= self.tolerance  # False for NaN


def make(predictor: Predictor, rows: TrialRows, examples: pa.Table | None, where: object) -> bytes:
    """Returns the content of `golden.parquet`: the rows, and the model's outputs for them.

    Raises ModelRefused if the model cannot be run on the rows, gives outputs that are not finite, does not reproduce
    the outputs in the examples, or if a row's output depends on the other rows of its batch.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    signature, batch = predictor.signature, rows.batch
    with trial_rows.running(rows.named, where, rows.advice):
        outputs = _outputs(predictor, trial_rows.matrix_of(batch, signature))
    finite = np.logical_and.reduce(
        [np.isfinite(values.reshape(len(values), -1)).all(axis=1) for values in outputs.values()]
    )
    trial_rows.check_finite(rows, finite, where, fewest=trial_rows.FEWEST if rows.origin == "training" else None)
    if rows.origin == "training":
        batch = batch.filter(pa.array(finite)).slice(0, trial_rows.ROWS)
        outputs = {name: values[finite][: trial_rows.ROWS] for name, values in outputs.items()}
    matrix = trial_rows.matrix_of(batch, signature)
    if examples is not None:
        _check_outputs(examples, outputs, predictor, where)
    _check_rows_apart(predictor, matrix, outputs, where)
    table = pa.table({name: batch.column(name) for name in signature.features})
    for name, values in outputs.items():
        table = table.append_column(OUTPUT + name, pa.array(values if values.ndim == 1 else list(values)))
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def compare(predictor: Predictor, content: bytes) -> Difference:
    """Runs the model over the golden batch, with features matched by name, and returns how far off its outputs are.

    For reduced precision or a compiled model, the plain float32 model is compared first: only this comparison shows
    whether it is the registered model.
    """
    batch = read(content)
    matrix = trial_rows.matrix_of(batch, predictor.signature)
    if predictor.precision != "float32" or predictor.compiled:
        as_it_is = _compared(predictor.in_float32(), matrix, batch)
        if not as_it_is.reproduced:
            return as_it_is
    return _compared(predictor, matrix, batch)


def read(content: bytes) -> pa.RecordBatch:
    """Returns the rows of `golden.parquet`: the features, and the outputs with the prefix `OUTPUT`."""
    batch: pa.RecordBatch = from_bytes(content).combine_chunks().to_batches()[0]
    return batch


def _compared(predictor: Predictor, matrix: NDArray[np.float32], batch: pa.RecordBatch) -> Difference:
    found = _outputs(predictor, matrix)
    expected = {name: _numbers(batch.column(OUTPUT + name)) for name in found}
    return Difference(_furthest(found, expected), tolerance(predictor), batch.num_rows, predictor.precision)


def _numbers(column: pa.ChunkedArray | pa.Array) -> NDArray[np.float64]:
    """Returns float64 (rows,), or (rows, length) for lists of equal length."""
    import numpy as np
    import pyarrow as pa

    values = column.to_numpy(zero_copy_only=False)
    found: NDArray[np.float64] = np.stack(values) if pa.types.is_list(column.type) else values
    return found.astype(np.float64)


def _furthest(found: Outputs, expected: Outputs) -> float:
    """Returns the largest difference, relative to the expected value where that is above one; NaN if any is NaN."""
    import numpy as np

    parts = [np.max(np.abs(found[name] - expected[name]) / np.maximum(1, np.abs(expected[name]))) for name in expected]
    return float(np.max(parts))


def tolerance(predictor: Predictor) -> float:
    """Returns the tolerance for the model's device and precision."""
    if predictor.precision == "bfloat16":
        return BFLOAT16_TOLERANCE
    if predictor.half:
        return HALF_TOLERANCE
    return TOLERANCES[predictor.device.partition(":")[0]]


def _check_rows_apart(predictor: Predictor, matrix: NDArray[np.float32], outputs: Outputs, where: object) -> None:
    """Raises ModelRefused if a row's output depends on other rows: scores would then depend on the batch size."""
    few = matrix[:APART]
    alone = _outputs(predictor, few, 1)
    off = _furthest(alone, {name: values[:APART] for name, values in outputs.items()})
    if not off <= tolerance(predictor):
        raise ModelRefused(
            "the model's output for a row depends on the other rows in the batch",
            where=where,
            expected=f"the same output for a single row, within {tolerance(predictor):g}",
            got=f"a difference of {off:.3g}",
            next_step="call model.eval() before saving; a layer that mixes rows cannot be used",
        )


def _outputs(predictor: Predictor, matrix: NDArray[np.float32], batch_rows: int = 8192) -> Outputs:
    """Returns the floating-point outputs by name; labels are not compared, because they follow from these."""
    import numpy as np

    found = predictor.predict(matrix, batch_rows)
    return {name: values.astype(np.float64) for name, values in found.items() if values.dtype.kind == "f"}


def differences(examples: pa.Table, outputs: Mapping[str, NDArray[Any]]) -> dict[str, float] | None:
    """Returns the largest difference of each output in the examples, as `Difference.largest`; None if there is none."""
    import numpy as np

    found = {}
    for name, values in outputs.items():
        if name in examples.column_names and values.dtype.kind == "f":
            given = _numbers(examples.column(name))
            found[name] = _furthest({name: values}, {name: given}) if given.shape == values.shape else np.inf
    return found or None


def agree(differences: Mapping[str, float], predictor: Predictor) -> bool:
    """Returns whether the training code's outputs are near enough to those of the model."""
    return all(difference <= agreement(predictor) for difference in differences.values())


def agreement(predictor: Predictor) -> float:
    """Returns the tolerance for the training code's own outputs, which were computed elsewhere."""
    return max(AGREEMENT, tolerance(predictor))


def _check_outputs(examples: pa.Table, outputs: Outputs, predictor: Predictor, where: object) -> None:
    for name, difference in (differences(examples, outputs) or {}).items():
        if not difference <= agreement(predictor):
            raise ModelRefused(
                f"the model does not reproduce the examples' {name}",
                where=where,
                expected=f"the training code's outputs, within {agreement(predictor):g}",
                got=f"a difference of {difference:.3g}",
                next_step="check the order of --features, the activation between the layers (--architecture), and what "
                "the model outputs (--outputs)",
            )
