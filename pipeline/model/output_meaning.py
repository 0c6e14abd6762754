"""Finds out what a model outputs: logits, probabilities or log-probabilities.

The training code's own outputs decide, if there are any; else the model's last operation; else what the outputs for
real or drawn rows look like. What is certain is taken, what contradicts is refused, and what cannot be told is asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

import numpy as np
import torch

from pipeline.errors import ModelRefused
from pipeline.model import ending as endings
from pipeline.model import golden, trial_rows
from pipeline.model.ending import Ending
from pipeline.model.heads import head_of
from pipeline.model.manifest import Outputs, Signature
from pipeline.model.precision import HALF_ROUNDING, HALVES, ROUNDING
from pipeline.model.predictor import Predictor
from pipeline.model.trial_rows import TrialRows

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

ALL: tuple[Outputs, ...] = get_args(Outputs)
TASKS = ("classification", "multilabel")
"""The tasks whose outputs have a meaning to find out; those of the others are stored as they are."""
MANY = 16
"""Fewest rows whose outputs have to sum to one, to be certain that this is no coincidence."""
MOST = 2000
"""Most rows whose outputs are looked at."""
UNCLEAR = frozenset({"tanh", "hardtanh", "erf", "sin", "cos", "sort", "topk"})
"""Operations whose results may have both signs and are still no plain logits: they have bounds, or another order."""


def settle(
    predictor: Predictor,
    rows: TrialRows,
    examples: pa.Table | None,
    where: object,
    *,
    stated: bool,
    before: Signature | None = None,
) -> tuple[Signature, str | None]:
    """Returns the signature with the `outputs` that were found, and why these; None for tasks without `outputs`.

    `stated`: the caller gave the signature's own `outputs`, which are then only checked. `before` is the signature of
    the version, if it is already registered: it is kept if it means the same.

    Raises ModelRefused if the outputs are classes, contradict what was stated, or if what they are cannot be told.
    """
    signature = predictor.signature
    if signature.task not in TASKS:
        return signature, None
    batch = (rows.batch if rows.real is None else rows.real).slice(0, MOST)
    with trial_rows.running(rows.named, where, rows.advice):
        raw = predictor.raw(trial_rows.matrix_of(batch, signature))  # (rows, outputs)
    finite = ~torch.isnan(raw).any(dim=1)
    trial_rows.check_finite(rows, finite.numpy(), where, fewest=1 if rows.origin == "training" else None)
    found = _Finding(
        raw=raw[finite].double().numpy(),
        each=signature.task == "multilabel" or raw.shape[1] == 1,
        rounding=HALF_ROUNDING if predictor.half or raw.dtype in HALVES else ROUNDING,
        ending=endings.of_module(predictor.module),
        rows=rows.named,
        where=where,
    )
    reproduced = None if examples is None else _reproduced(predictor, raw, examples.slice(0, MOST))
    if reproduced == []:
        return signature, None  # `golden.make` refuses the model
    if stated:
        if reproduced is None:
            found.check(signature.outputs)
        elif signature.outputs not in reproduced:
            raise found.not_as_stated(signature.outputs, f"{_words(reproduced[0])}, by the outputs in the golden batch")
        return signature, "as stated"
    if reproduced is not None and (len(reproduced) == 1 or reproduced == found.same):
        outputs, because = reproduced[-1], "they reproduce the outputs in the golden batch"
    else:
        outputs, because = found.decide()
    if before is not None and [before.outputs, outputs] == found.same:
        outputs = before.outputs
    return signature.model_copy(update={"outputs": outputs}), because


def _words(outputs: Outputs) -> str:
    return outputs.replace("_", "-")


def _reproduced(predictor: Predictor, raw: torch.Tensor, examples: pa.Table) -> list[Outputs] | None:
    """Returns the meanings with which the model gives the outputs in the examples; None if these have no outputs."""
    found: list[Outputs] = []
    for outputs in ALL:
        head = head_of(predictor.signature.model_copy(update={"outputs": outputs}), half=predictor.half)
        columns = head.numpy(tuple(values.numpy() for values in head.compute(raw)))
        named = dict(zip(predictor.output_schema().names, columns, strict=True))
        if (differences := golden.differences(examples, named)) is None:
            return None
        if golden.agree(differences, predictor):
            found.append(outputs)
    return found


@dataclass(frozen=True)
class _Finding:
    """The evidence on a model's outputs."""

    raw: NDArray[np.float64]
    """Outputs of the model, (rows, outputs), without NaN."""
    each: bool
    """Whether each output stands for itself, so that the probabilities of a row need not sum to one."""
    rounding: float
    """Largest rounding error of a sum of probabilities."""
    ending: Ending
    rows: str
    where: object

    @property
    def same(self) -> list[Outputs]:
        """Meanings that give the same probabilities: the softmax of a row's log-probabilities is their exponential."""
        return [] if self.each else ["logits", "log_probabilities"]

    def decide(self) -> tuple[Outputs, str]:
        """Returns what the outputs are, and why. Raises ModelRefused if this cannot be told."""
        found = self._by_ending() or self._by_sums()
        if found is None and self.ending.values == "linear" and not self._one_probability:
            found = "logits", f"the model ends in {self.ending.last}"
        return found or self._by_range()

    def _by_ending(self) -> tuple[Outputs, str] | None:
        outputs, last = self.ending.values, self.ending.last
        if outputs not in ("probabilities", "log_probabilities"):
            return None
        if self.raw.shape[1] == 1 and self.ending.column == 0 and "softmax" in last:
            raise self._ask(f"the only output is the first column of a {last}, but should belong to the second class")
        if not (self.each or self.ending.normalized or self._fits(outputs)):
            raise self._ask(f"the model ends in {last}, but the probabilities of a row do not sum to one")
        self.check(outputs)
        return outputs, f"the model ends in {last}"

    def _by_sums(self) -> tuple[Outputs, str] | None:
        kinds: tuple[Outputs, ...] = () if self.each else ("probabilities", "log_probabilities")
        fitting = next((outputs for outputs in kinds if self._fits(outputs)), None)
        if fitting is not None and len(self.raw) < MANY:
            raise self._ask("the probabilities sum to one, which for so few rows may be a coincidence")
        return fitting and (fitting, f"for each of {self._count}, the {_words(fitting)} sum to one")

    def _by_range(self) -> tuple[Outputs, str]:
        low, high = self.raw.min(), self.raw.max()
        reasons = {
            "they lie between 0 and 1": low >= 0 and high <= 1,
            "they are whole numbers, as classes are": np.array_equal(self.raw, np.rint(self.raw)),
            f"the model ends in {self.ending.last}": self.ending.last in UNCLEAR,
            "none of them is negative": low >= 0,
            "none of them is positive": high <= 0,
        }
        if doubts := [reason for reason, found in reasons.items() if found]:
            raise self._ask(doubts[0])
        return "logits", f"for {self._count}, the outputs lie between {low:.3g} and {high:.3g}"

    @property
    def _one_probability(self) -> bool:
        """Whether each output, on its own, may be a probability: then even a linear layer may be meant as one."""
        return self.each and self._fits("probabilities")

    def check(self, stated: Outputs) -> None:
        """Raises ModelRefused if the evidence contradicts what the outputs are said to be."""
        last = self.ending.last
        if self.raw.shape[1] == 1 and "softmax" in last and (self.raw == (0 if "log" in last else 1)).all():
            raise self._refused("the model's only output is the same for all rows", f"a {last} of a single value")
        if stated != "logits":
            if not self._fits(stated):
                raise self.not_as_stated(stated, self._range())
            return
        certain = self.ending.normalized or self.each
        if self.ending.values == "probabilities" and certain:
            raise self.not_as_stated(stated, f"the model ends in {last}")
        if self.ending.values == "log_probabilities" and self.each:
            raise self.not_as_stated(stated, f"the model ends in {last}")
        if not self.each and len(self.raw) >= MANY and self._fits("probabilities"):
            raise self.not_as_stated(stated, f"probabilities that sum to one, for each of {self._count}")

    def not_as_stated(self, stated: Outputs, got: str) -> ModelRefused:
        return self._refused(f"the model's outputs are not {_words(stated)}", got)

    def _ask(self, why: str) -> ModelRefused:
        return ModelRefused(
            "it cannot be told whether the model's outputs are logits, probabilities or log-probabilities",
            where=self.where,
            expected="outputs that can be one of these only",
            got=f"{why}; {self._range()}",
            next_step=f"pass --outputs {', '.join(ALL[:-1])} or {ALL[-1]}; or pass --golden with rows and the "
            "prob_class_<i> that the training code computed for them",
        )

    def _refused(self, what: str, got: str) -> ModelRefused:
        return ModelRefused(
            what,
            where=self.where,
            got=got,
            next_step="correct --outputs or the model; or pass --golden with rows and the prob_class_<i> that the "
            "training code computed for them",
        )

    def _range(self) -> str:
        """Returns the range of the outputs, and of their sums where these should be one, in words."""
        low, high = self.raw.min(), self.raw.max()
        text = f"outputs from {low:.4g} to {high:.4g}"
        if not self.each:
            logarithms = high <= ROUNDING
            sums = (np.exp(self.raw) if logarithms else self.raw).sum(axis=1)
            what = "exponentials" if logarithms else "values"
            text += f", whose {what} sum to {sums.min():.4g} to {sums.max():.4g} per row"
        return f"{text}, for {self._count}"

    @property
    def _count(self) -> str:
        return f"{len(self.raw):,} {self.rows}"

    def _fits(self, outputs: Outputs) -> bool:
        """Returns whether the outputs may be probabilities, or the logarithms of such, up to rounding."""
        with np.errstate(over="ignore"):
            given = np.exp(self.raw) if outputs == "log_probabilities" else self.raw
        inside = bool(((given >= -ROUNDING) & (given <= 1 + ROUNDING)).all())
        return inside and (self.each or bool((np.abs(given.sum(axis=1) - 1) <= self.rounding).all()))
