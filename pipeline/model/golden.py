"""The golden batch: rows, and what the model gave for them when it was registered.

A model that no longer gives it on load is another one, whatever its digest says: another library, a driver, a device
that computes otherwise. The rows are the user's own, with the training code's outputs if possible (then a wrong order
of the features, or another activation, is seen at registration), or else drawn over several orders of magnitude.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.errors import ModelRefused

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray
    from torch import nn

    from pipeline.model.manifest import Signature
    from pipeline.model.predictor import Predictor

FILE = "golden.parquet"
ROWS = 256
MOST_ROWS = 10_000
OUTPUT = "__"
"""Before the name of an output's column: a feature may have the same name."""
TOLERANCES = {"cpu": 1e-4, "cuda": 1e-3}
"""How far a float32 output may be off, absolutely and relative to it: by the order in which a device adds up."""
HALF_TOLERANCE = 2e-2
"""For float16 and bfloat16, on any device."""
AGREEMENT = 1e-3
"""How far the training code's own outputs may be off: it ran elsewhere."""


@dataclass(frozen=True)
class Difference:
    largest: float
    """Of any output of any row."""
    tolerance: float
    rows: int

    @property
    def reproduced(self) -> bool:
        return self.largest <= self.tolerance  # and so not if it is NaN


def make(module: nn.Module, signature: Signature, examples: pa.Table | None, where: object) -> bytes:
    """Returns the content of `golden.parquet`. Raises ModelRefused if the model does not give the examples' outputs."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pipeline.model.predictor import Predictor

    matrix = _drawn(len(signature.features)) if examples is None else _matrix(examples, signature, where)
    predictor = Predictor(module, signature, "cpu")
    outputs = _outputs(predictor, matrix)
    if examples is not None:
        _check_outputs(examples, outputs, where)
    columns = {name: matrix[:, index] for index, name in enumerate(signature.features)}
    table = pa.table({**columns, **{OUTPUT + name: values for name, values in outputs.items()}})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def compare(predictor: Predictor, content: bytes) -> Difference:
    """Runs the model over the golden batch, features by name, and returns how far off its outputs are."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(pa.BufferReader(content))
    names = predictor.signature.features
    matrix = np.column_stack([table.column(name).to_numpy().astype(np.float32) for name in names])
    largest = 0.0
    for name, values in _outputs(predictor, matrix).items():
        expected = table.column(OUTPUT + name).to_numpy()
        largest = max(largest, float(np.max(np.abs(values - expected) / np.maximum(1, np.abs(expected)))))
    return Difference(largest, tolerance(predictor), table.num_rows)


def tolerance(predictor: Predictor) -> float:
    """Returns what is allowed on the device and in the precision that the model runs in."""
    import torch

    kinds = {parameter.dtype for parameter in predictor.module.parameters()}
    if kinds & {torch.float16, torch.bfloat16}:
        return HALF_TOLERANCE
    return TOLERANCES[predictor.device.partition(":")[0]]


def _drawn(features: int) -> NDArray[np.float32]:
    """Returns (ROWS, features): zeros, then standard normal numbers times 0.01 to 100, the same every time."""
    import numpy as np

    rng = np.random.default_rng(0)
    sizes = 10.0 ** rng.uniform(-2, 2, (ROWS, 1))
    rows = rng.normal(size=(ROWS, features)) * sizes
    rows[0] = 0
    return rows.astype(np.float32)


def _matrix(examples: pa.Table, signature: Signature, where: object) -> NDArray[np.float32]:
    import numpy as np

    missing = [name for name in signature.features if name not in examples.column_names]
    if missing or not 0 < examples.num_rows <= MOST_ROWS:
        raise ModelRefused(
            "the examples are no golden batch",
            where=where,
            expected=f"1 to {MOST_ROWS:,} rows with the columns {', '.join(signature.features)}",
            got=f"{examples.num_rows:,} rows" + (f", without {', '.join(missing)}" if missing else ""),
        )
    columns = [examples.column(name).to_numpy(zero_copy_only=False) for name in signature.features]
    matrix = np.column_stack(columns).astype(np.float32)
    if not np.isfinite(matrix).all():
        raise ModelRefused("the examples have features that are NULL or infinite", where=where)
    return matrix


def _outputs(predictor: Predictor, matrix: NDArray[np.float32]) -> dict[str, NDArray[np.float64]]:
    """Returns the outputs that are floating-point numbers, by name; labels follow from them."""
    import numpy as np

    found = predictor.predict(matrix, 8192)
    return {name: values.astype(np.float64) for name, values in found.items() if values.dtype.kind == "f"}


def _check_outputs(examples: pa.Table, outputs: dict[str, NDArray[np.float64]], where: object) -> None:
    import numpy as np

    for name, values in outputs.items():
        if name not in examples.column_names:
            continue
        given = examples.column(name).to_numpy(zero_copy_only=False).astype(np.float64)
        worst = float(np.max(np.abs(values - given)))
        if not worst <= AGREEMENT:
            raise ModelRefused(
                f"the model does not give the examples' {name}",
                where=where,
                expected=f"the training code's outputs, within {AGREEMENT:g}",
                got=f"a difference of {worst:.3g}",
                next_step="check the order of --features, and that the network has ReLU between its layers",
            )
