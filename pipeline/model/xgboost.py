"""XGBoost models, JSON or UBJSON, run by its own library: an extra, `lakescore[xgboost]`.

The file is read and checked here before the library sees it: its own readers trust what they read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from pipeline.errors import ModelRefused
from pipeline.model import trees, ubjson
from pipeline.model.ending import Ending
from pipeline.model.feeding import Port
from pipeline.model.library_model import LibraryModel, extra, reading, scoring
from pipeline.model.stated import Stated

REGRESSIONS = ("reg:", "count:", "survival:", "rank:")
"""Objectives whose prediction is a value; of a ranking, the score of a row."""
PROBABILITIES = ("binary:logistic", "multi:softprob")
LOGITS = ("binary:logitraw", "multi:softmax")
"""Objectives that are scored as margins: those of `multi:softmax` are what its classes are decided by."""


class XGBoost(LibraryModel):
    """A booster, which several threads may call at once."""

    library = "xgboost"

    def __init__(self, document: Mapping[str, Any], content: bytes, where: object) -> None:
        learner = document["learner"]
        parameters = learner["learner_model_param"]
        self._features = int(parameters["num_feature"])
        objective = str(learner["objective"]["name"])
        groups = max(int(parameters["num_class"]), int(parameters.get("num_target", 1)), 1)
        super().__init__((Port(int64=False, columns=self._features),), groups, where)
        _check(learner, self._features, groups, where)
        self.stated = _stated(document, objective, int(parameters.get("num_target", 1)), where)
        self.ending = Ending("probabilities" if objective in PROBABILITIES else "linear", f"objective {objective}")
        self._kind = "margin" if objective in LOGITS else "value"
        with extra("xgboost"):
            import xgboost
        with reading("XGBoost model", where):
            self._booster = xgboost.Booster({"nthread": 1}, model_file=bytearray(content))
            self._booster.set_param({"device": "cpu", "nthread": 1})
            self._rounds = (0, _rounds(learner, self._booster.num_boosted_rounds(), where))

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        (matrix,) = tensors
        with scoring(self.where):
            found = self._booster.inplace_predict(
                matrix.contiguous().numpy(),
                iteration_range=self._rounds,
                predict_type=self._kind,
                validate_features=False,
            )
            output = torch.from_numpy(np.asarray(found, np.float32))
        return output.unsqueeze(1) if output.ndim == 1 else output


def build(content: bytes, where: object) -> XGBoost:
    """Returns the model in a file. Raises ModelRefused, or UsageError if the extra is not installed."""
    with reading("XGBoost file", where):
        if content[1:2] in b'" \t\r\n':  # JSON
            document = json.loads(content, object_pairs_hook=_unique)
            return XGBoost(document, json.dumps(document).encode(), where)
        return XGBoost(ubjson.loads(content), content, where)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name occurs twice in an object")
    return found


def _check(learner: Mapping[str, Any], features: int, groups: int, where: object) -> None:
    """Raises ModelRefused for trees that are damaged, and for a booster that has none."""
    booster = learner["gradient_booster"]
    if booster["name"] not in ("gbtree", "dart"):
        raise ModelRefused(
            "the XGBoost model has no trees",
            where=where,
            expected="booster gbtree or dart",
            got=booster["name"],
            next_step="write it as one nn.Linear of its weights, and export that with torch.export.save",
        )
    model = booster["model"] if booster["name"] == "gbtree" else booster["gbtree"]["model"]
    count = len(model["trees"])
    trees.check(count == int(model["gbtree_model_param"]["num_trees"]), "the number of trees", where)
    trees.check_within(trees.integers(model["tree_info"], count, "tree_info", where), groups, "tree_info", where)
    if "iteration_indptr" in model:
        ends = trees.integers(model["iteration_indptr"], None, "iteration_indptr", where)
        right = len(ends) > 0 and ends[0] == 0 and ends[-1] == count and (np.diff(ends) >= 0).all()
        trees.check(right, "iteration_indptr", where)
    if booster["name"] == "dart":
        trees.check(len(booster["weight_drop"]) == count, "weight_drop", where)
    for tree in model["trees"]:
        _check_tree(tree, features, where)


def _check_tree(tree: Mapping[str, Any], features: int, where: object) -> None:
    nodes = int(tree["tree_param"]["num_nodes"])
    left, right, split = (
        trees.integers(tree[name], nodes, name, where) for name in ("left_children", "right_children", "split_indices")
    )
    leaf = left == -1
    trees.check_tree(left, right, leaf, where)
    trees.check_within(split[~leaf], features, "a feature", where)
    for name in ("split_conditions", "default_left"):
        trees.check(len(tree[name]) == nodes, f"{name} has {len(tree[name])} values, not {nodes}", where)
    categories = len(tree.get("categories", ()))
    with_sets = trees.integers(tree.get("categories_nodes", ()), None, "categories_nodes", where)
    trees.check_within(with_sets, nodes, "categories_nodes", where)
    starts, sizes = (
        trees.integers(tree.get(name, ()), len(with_sets), name, where)
        for name in ("categories_segments", "categories_sizes")
    )
    inside = (starts >= 0) & (sizes >= 0) & (starts + sizes <= categories)
    trees.check(bool(inside.all()), "categories_segments", where)


def _stated(document: Mapping[str, Any], objective: str, targets: int, where: object) -> Stated:
    learner = document["learner"]
    names = tuple(learner.get("feature_names") or ()) or None
    version = ".".join(map(str, document.get("version", ())))
    inputs = {}
    for index, enc in enumerate(_categories(learner)):
        if enc["values"]:
            trees.check(names is not None, "categories of features without names", where)
            assert names is not None
            inputs[names[index]] = {"kind": "category", "vocabulary": _vocabulary(enc, where)}
    return Stated(
        features=names,
        entries={**_task(learner["objective"], objective, targets, where), **({"inputs": inputs} if inputs else {})},
        said_by=f"its objective {objective}",
        written_by=f"xgboost {version}"[:100],
    )


def _task(settings: Mapping[str, Any], objective: str, targets: int, where: object) -> dict[str, Any]:
    """Returns the entries of the signature that the objective states."""
    if objective in PROBABILITIES + LOGITS:
        outputs = "probabilities" if objective in PROBABILITIES else "logits"
        return {"task": "classification" if targets == 1 else "multilabel", "outputs": outputs}
    if objective == "reg:quantileerror" and targets > 1:
        levels = json.loads(settings["quantile_loss_param"]["quantile_alpha"])
        return {"task": "regression", "quantiles": [round(float(level), 6) for level in levels]}
    if objective.startswith(REGRESSIONS) and targets == 1:
        return {"task": "regression"}
    if objective == "binary:hinge":
        what, how = "the XGBoost model outputs classes, not scores", "train it with objective binary:logistic"
    else:
        what, how = "the XGBoost model has an objective whose outputs are not known", "train it with another objective"
    raise ModelRefused(
        what if targets == 1 else "the XGBoost model has several targets, which are no quantiles or labels",
        where=where,
        expected=f"one target, and {', '.join(PROBABILITIES + LOGITS)}, or an objective of {', '.join(REGRESSIONS)}",
        got=f"{objective} of {targets} targets" if targets > 1 else objective,
        next_step=how,
    )


def _categories(learner: Mapping[str, Any]) -> Sequence[Any]:
    """Returns the values of each categorical feature, as the file encodes them."""
    booster = learner["gradient_booster"]
    model = booster["model"] if booster["name"] == "gbtree" else booster["gbtree"]["model"]
    found: Sequence[Any] = model.get("cats", {}).get("enc", ())
    return found


def _vocabulary(enc: Mapping[str, Any], where: object) -> list[str] | list[int] | None:
    """Returns the values of a feature in the order of their codes: text, or whole numbers.

    None for text beyond ASCII: XGBoost 3.2 writes lengths in letters with bytes, and cuts off the end.
    """
    values = enc["values"]
    if "offsets" in enc:
        if min(values) < 0:
            return None
        text, ends = bytes(values), enc["offsets"]
        return [text[start:end].decode() for start, end in pairwise(ends)]
    if not all(type(value) is int for value in values):
        raise ModelRefused(
            "a category of the XGBoost model is neither text nor a whole number",
            where=where,
            got=repr(values[:3]),
            next_step="train it with categories of text or integers",
        )
    return list(values)


def _rounds(learner: Mapping[str, Any], there: int, where: object) -> int:
    """Returns the number of rounds that count. After early stopping, XGBoost's classes for scikit-learn use the best.

    The booster itself uses all, whatever is said about the best one, so without a mark of those classes both may be
    meant.
    """
    attributes = learner.get("attributes") or {}
    best = int(attributes.get("best_iteration", there - 1)) + 1
    if best >= there:
        return there
    if "scikit_learn" not in attributes:
        raise ModelRefused(
            "the XGBoost model stopped early, and its file does not say whether the rounds after the best one count",
            where=where,
            expected=f"{best} rounds, the best, or {there} rounds without a best one",
            got=f"{there} rounds, of which number {best} is the best",
            next_step="save the rounds that count: booster[: booster.best_iteration + 1].save_model(path), or remove "
            "the note: booster.set_attr(best_iteration=None)",
        )
    return best
