"""The rows that a model is tried on when it is registered: examples, rows drawn from training data, or synthetic ones.

Rows drawn from training data combine values of different rows, so that no row is copied into the registry.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, assert_never

from pipeline.errors import LakescoreError, ModelRefused

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from pipeline.model.manifest import Signature
    from pipeline.tabular.sources import Files

ROWS = 256
"""Number of rows of a golden batch without examples."""
SPARE = 4
"""How many times as many rows are drawn from training data: for some combinations of values, a model gives NaN."""
FEWEST = 16
"""Fewest rows drawn from training data, for which the model gives finite outputs, that make a golden batch."""
NO_MEMORY = "can't allocate memory"
"""What torch says if the system gives it no memory."""
MOST_EXAMPLES = 10_000


@dataclass(frozen=True)
class TrialRows:
    origin: Literal["examples", "training", "drawn"]
    batch: pa.RecordBatch
    """The features of the golden batch; for `training`, more rows than are needed."""
    real: pa.RecordBatch | None
    """The features of real rows: the examples, else a sample of the training data; None if there are neither."""

    @property
    def named(self) -> str:
        """What to call the rows in messages."""
        names = {"examples": "rows of the golden batch", "training": "rows of the training data", "drawn": "drawn rows"}
        return names[self.origin]

    @property
    def advice(self) -> str:
        """What to do if the model cannot be used on these rows."""
        match self.origin:
            case "examples":
                return "leave these rows out, or correct the model"
            case "training":
                return "pass --golden with rows that the model can score"
            case "drawn":
                return "pass --golden with rows of your data, or --baseline, from whose values the rows are then drawn"
            case _:
                assert_never(self.origin)


def gather(signature: Signature, examples: pa.Table | None, training: Files | None, where: object) -> TrialRows:
    """Returns the rows to try a model on.

    Raises ModelRefused for examples that cannot be used, and the errors of `baseline.sample`.
    """
    from pipeline.model import baseline, synthetic_rows

    if examples is not None:
        given = _checked(examples, signature, where)
        return TrialRows("examples", given, given)
    sample = None if training is None else complete(baseline.sample(signature, training), signature)
    if sample is None or sample.num_rows == 0:
        return TrialRows("drawn", synthetic_rows.draw(signature, ROWS), None)
    return TrialRows("training", synthetic_rows.draw_from(sample, ROWS * SPARE), sample)


def matrix_of(batch: pa.RecordBatch, signature: Signature) -> NDArray[np.float32]:
    from pipeline.model.matrix import to_matrix

    return to_matrix(batch, signature.features, signature.inputs)


def complete(batch: pa.RecordBatch, signature: Signature) -> pa.RecordBatch:
    """Returns the rows that the model can take: without NULL or infinite features, and unknown categories."""
    import numpy as np
    import pyarrow as pa

    return batch.filter(pa.array(np.isfinite(matrix_of(batch, signature)).all(axis=1)))


@contextmanager
def running(rows: str, where: object, advice: str = "check the features and their order") -> Iterator[None]:
    """Raises ModelRefused if the model cannot be run on the rows, whatever its operations or its code raise.

    Raises MemoryError if there is not enough memory to run it.
    """
    try:
        yield
    except (LakescoreError, MemoryError):
        raise
    except Exception as error:
        if NO_MEMORY in str(error):  # torch raises RuntimeError
            raise MemoryError(str(error)) from error
        raise ModelRefused(
            f"the model cannot be run on {rows}",
            where=where,
            got=f"{type(error).__name__}: {error}".splitlines()[0][:300],
            next_step=f"{advice}; a feature that is an index is a category: declare its vocabulary in --signature",
        ) from error


def check_finite(rows: TrialRows, finite: NDArray[np.bool_], where: object, *, fewest: int | None = None) -> None:
    """Raises ModelRefused unless the outputs of all rows, or at least of `fewest`, are finite. `finite` is (rows,)."""
    if finite.sum() < (len(finite) if fewest is None else fewest):
        raise ModelRefused(
            f"the model's outputs for {(~finite).sum():,} of {len(finite):,} {rows.named} are NaN or infinite",
            where=where,
            expected="finite outputs; a logarithm or a square root, for example, takes no negative number",
            next_step=rows.advice,
        )


def _checked(examples: pa.Table, signature: Signature, where: object) -> pa.RecordBatch:
    missing = [name for name in signature.features if name not in examples.column_names]
    if missing or not 0 < examples.num_rows <= MOST_EXAMPLES:
        raise ModelRefused(
            "the examples cannot be used as a golden batch",
            where=where,
            expected=f"1 to {MOST_EXAMPLES:,} rows with the columns {', '.join(signature.features)}",
            got=f"{examples.num_rows:,} rows" + (f", without {', '.join(missing)}" if missing else ""),
        )
    batch: pa.RecordBatch = examples.select(list(signature.features)).combine_chunks().to_batches()[0]
    if complete(batch, signature).num_rows < batch.num_rows:
        raise ModelRefused("the examples have features that are NULL, infinite or not in the vocabulary", where=where)
    return batch
