"""Tries a model out when it is registered: finds out what it outputs, and records its golden batch and its baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.model import baseline, golden, trial_rows

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import nn

    from pipeline.model.manifest import Signature
    from pipeline.tabular.sources import Files


@dataclass(frozen=True)
class Trial:
    signature: Signature
    """The signature with the outputs that were found."""
    findings: dict[str, str]
    """What registration found out by itself, and why, by subject; for people."""
    golden: bytes
    """The content of `golden.parquet`."""
    baseline: bytes | None
    """The content of `baseline.parquet`, if there are training data."""


def try_out(
    module: nn.Module,
    signature: Signature,
    examples: pa.Table | None,
    training: Files | None,
    where: object,
    *,
    stated: bool,
    before: Signature | None,
) -> Trial:
    """Runs the model on examples, training data or synthetic rows.

    `stated`: the caller gave the signature's `outputs`, which are then only checked. `before` is the signature of the
    version, if it is already registered. Raises the errors of `trial_rows.gather`, `output_meaning.settle`,
    `golden.make` and `baseline.make`.
    """
    from pipeline.model.output_meaning import settle
    from pipeline.model.predictor import Predictor

    rows = trial_rows.gather(signature, examples, training, where)
    predictor = Predictor(module, signature, "cpu")
    found, because = settle(predictor, rows, examples, where, stated=stated, before=before)
    if found != signature:
        predictor = Predictor(module, found, "cpu")
    batch = golden.make(predictor, rows, examples, where)
    profile = None
    if training is not None:
        with trial_rows.running("the training data", where):
            profile = baseline.make(predictor, training)
    return Trial(found, {} if because is None else {"outputs": because}, batch, profile)
