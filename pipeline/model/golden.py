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

    Outputs = dict[str, NDArray[np.float64]]

FILE = "golden.parquet"
ROWS = 256
MOST_ROWS = 10_000
APART = 16
"""Rows that are scored one by one too."""
OUTPUT = "__"
"""Before the name of an output's column: a feature may have the same name."""
TOLERANCES = {"cpu": 1e-4, "cuda": 1e-3}
"""How far a float32 output may be off, absolutely and relative to it: by the order in which a device adds up."""
HALF_TOLERANCE = 2e-2
"""For weights that are float16 or bfloat16, on any device."""
BFLOAT16_TOLERANCE = 1e-1
"""For float32 weights that a job has run in bfloat16: each step rounds to 3 digits, and drawn rows are large."""
AGREEMENT = 1e-3
"""How far the training code's own outputs may be off: it ran elsewhere."""


@dataclass(frozen=True)
class Difference:
    largest: float
    """Of any output of any row."""
    tolerance: float
    rows: int
    precision: str
    """In which it was found: if not float32, the model as it is has reproduced its golden batch."""

    @property
    def reproduced(self) -> bool:
        return self.largest <= self.tolerance  # and so not if it is NaN


def make(module: nn.Module, signature: Signature, examples: pa.Table | None, where: object) -> bytes:
    """Returns the content of `golden.parquet`.

    Raises ModelRefused if the model does not give the examples' outputs, or others for a row alone than among rows.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pipeline.features import to_matrix
    from pipeline.model import drawing
    from pipeline.model.predictor import Predictor

    batch = drawing.draw(signature, ROWS) if examples is None else _batch(examples, signature, where)
    matrix = to_matrix(batch, signature.features, signature.inputs)
    if not np.isfinite(matrix).all():
        raise ModelRefused("the examples have features that are NULL, infinite or not in the vocabulary", where=where)
    predictor = Predictor(module, signature, "cpu")
    outputs = _outputs(predictor, matrix)
    if examples is not None:
        _check_outputs(examples, outputs, where)
    _check_rows_apart(predictor, matrix, outputs, where)
    table = pa.table({name: batch.column(name) for name in signature.features})
    for name, values in outputs.items():
        table = table.append_column(OUTPUT + name, pa.array(values if values.ndim == 1 else list(values)))
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def compare(predictor: Predictor, content: bytes) -> Difference:
    """Runs the model over the golden batch, features by name, and returns how far off its outputs are.

    Of one in another precision, or compiled, first the model as it is: that alone tells another model from this one.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pipeline.features import to_matrix

    with pq.ParquetFile(pa.BufferReader(content)) as file:  # read_table imports pyarrow.dataset, a tenth of a second
        table = file.read().combine_chunks()
    signature = predictor.signature
    matrix = to_matrix(table.to_batches()[0], signature.features, signature.inputs)
    if predictor.precision != "float32" or predictor.compiled:
        as_it_is = _compared(predictor.in_float32(), matrix, table)
        if not as_it_is.reproduced:
            return as_it_is
    return _compared(predictor, matrix, table)


def _compared(predictor: Predictor, matrix: NDArray[np.float32], table: pa.Table) -> Difference:
    found = _outputs(predictor, matrix)
    expected = {name: _numbers(table.column(OUTPUT + name)) for name in found}
    return Difference(_furthest(found, expected), tolerance(predictor), table.num_rows, predictor.precision)


def _numbers(column: pa.ChunkedArray) -> NDArray[np.float64]:
    """Returns float64 (rows,), or of lists of equal length (rows, length)."""
    import numpy as np
    import pyarrow as pa

    values = column.to_numpy(zero_copy_only=False)
    found: NDArray[np.float64] = np.stack(values) if pa.types.is_list(column.type) else values
    return found.astype(np.float64)


def _furthest(found: Outputs, expected: Outputs) -> float:
    """Returns the largest difference of any output, as a share of it where it is larger than one; NaN if one is NaN."""
    import numpy as np

    parts = [np.max(np.abs(found[name] - expected[name]) / np.maximum(1, np.abs(expected[name]))) for name in expected]
    return float(np.max(parts))


def tolerance(predictor: Predictor) -> float:
    """Returns what is allowed on the device and in the precision that the model runs in."""
    import torch

    if predictor.precision == "bfloat16":
        return BFLOAT16_TOLERANCE
    kinds = {parameter.dtype for parameter in predictor.module.parameters()}
    if kinds & {torch.float16, torch.bfloat16}:
        return HALF_TOLERANCE
    return TOLERANCES[predictor.device.partition(":")[0]]


def _batch(examples: pa.Table, signature: Signature, where: object) -> pa.RecordBatch:
    missing = [name for name in signature.features if name not in examples.column_names]
    if missing or not 0 < examples.num_rows <= MOST_ROWS:
        raise ModelRefused(
            "the examples are no golden batch",
            where=where,
            expected=f"1 to {MOST_ROWS:,} rows with the columns {', '.join(signature.features)}",
            got=f"{examples.num_rows:,} rows" + (f", without {', '.join(missing)}" if missing else ""),
        )
    batch: pa.RecordBatch = examples.select(list(signature.features)).combine_chunks().to_batches()[0]
    return batch


def _check_rows_apart(predictor: Predictor, matrix: NDArray[np.float32], outputs: Outputs, where: object) -> None:
    """Raises ModelRefused if a row's output depends on the rows beside it: then it would on the size of a batch."""
    few = matrix[:APART]
    alone = _outputs(predictor, few, 1)
    off = _furthest(alone, {name: values[:APART] for name, values in outputs.items()})
    if not off <= tolerance(predictor):
        raise ModelRefused(
            "the model gives another output for a row alone than for the same row among others",
            where=where,
            expected=f"the same, within {tolerance(predictor):g}",
            got=f"a difference of {off:.3g}",
            next_step="call model.eval() before saving; a layer that mixes rows cannot be used",
        )


def _outputs(predictor: Predictor, matrix: NDArray[np.float32], batch_rows: int = 8192) -> Outputs:
    """Returns the outputs that are floating-point numbers, by name; labels follow from them."""
    import numpy as np

    found = predictor.predict(matrix, batch_rows)
    return {name: values.astype(np.float64) for name, values in found.items() if values.dtype.kind == "f"}


def _check_outputs(examples: pa.Table, outputs: Outputs, where: object) -> None:
    import numpy as np

    for name, values in outputs.items():
        if name not in examples.column_names:
            continue
        given = _numbers(examples.column(name))
        worst = float(np.max(np.abs(values - given))) if given.shape == values.shape else np.inf
        if not worst <= AGREEMENT:
            raise ModelRefused(
                f"the model does not give the examples' {name}",
                where=where,
                expected=f"the training code's outputs, within {AGREEMENT:g}",
                got=f"a difference of {worst:.3g}",
                next_step="check the order of --features, and the activation between the layers (--architecture)",
            )
