"""LightGBM models, text, run by its own library: an extra, `lakescore[lightgbm]`.

The text is read and checked here before the library sees it: its own reader trusts what it reads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import ModelRefused
from pipeline.model import trees
from pipeline.model.ending import NOTHING, Ending
from pipeline.model.feeding import Port
from pipeline.model.library_model import LibraryModel, extra, reading, scoring
from pipeline.model.stated import Stated

END = "\nend of trees\n"
REGRESSIONS = (
    *("regression", "regression_l1", "huber", "fair", "poisson", "quantile", "mape", "gamma", "tweedie"),
    *("cross_entropy", "cross_entropy_lambda", "lambdarank", "rank_xendcg"),
)
"""Objectives whose prediction is a value; of a ranking, the score of a row."""

OWN = ("none", "custom")
"""What stands for an objective of the user's own: the outputs are the raw scores."""


@dataclass(frozen=True)
class Text:
    header: Mapping[str, str]
    trees: tuple[Mapping[str, str], ...]
    categories: list[list[Any]]
    """The values of the categorical columns of a table of pandas, in the order of their codes."""
    content: str
    """The text without the sizes of the trees, which the library would jump by."""


class LightGBM(LibraryModel):
    """A booster, which several threads may call at once."""

    library = "lightgbm"

    def __init__(self, text: Text, where: object) -> None:
        header = text.header
        features, classes = int(header["max_feature_idx"]) + 1, int(header["num_class"])
        super().__init__((Port(int64=False, columns=features),), classes, where)
        objective, *settings = header.get("objective", "none").split()
        per_round = int(header["num_tree_per_iteration"])
        single = classes == 1 and objective != "multiclass"
        of_classes = single or objective in OWN or f"num_class:{classes}" in settings
        trees.check(classes >= 1 and per_round == classes and of_classes, "the number of classes", where)
        trees.check(len(text.trees) > 0 and len(text.trees) % per_round == 0, "the number of trees", where)
        for tree in text.trees:
            _check_tree(tree, features, where)
        self.stated = _stated(text, objective, where)
        probabilities = self.stated.entries.get("outputs") == "probabilities"
        self.ending = Ending("probabilities", f"objective {objective}") if probabilities else NOTHING
        with extra("lightgbm"):
            import lightgbm
        with reading("LightGBM model", where):
            self._booster = lightgbm.Booster(model_str=text.content)

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        (matrix,) = tensors
        with scoring(self.where):
            found = self._booster.predict(matrix.contiguous().numpy(), num_threads=1, validate_features=False)
            output = torch.from_numpy(np.asarray(found, np.float32))
        return output.unsqueeze(1) if output.ndim == 1 else output


def build(content: bytes, where: object) -> LightGBM:
    """Returns the model in a file. Raises ModelRefused, or UsageError if the extra is not installed."""
    with reading("LightGBM file", where):
        return LightGBM(_parsed(content.decode().replace("\r\n", "\n"), where), where)


def _parsed(text: str, where: object) -> Text:
    body, end, rest = text.partition(END)
    header, *blocks = body.split("\nTree=")
    trees.check(bool(end), "the end is missing", where)
    lines = [line for line in header.splitlines() if not line.startswith("tree_sizes=")]
    found = [_entries(block.splitlines()[1:], where) for block in blocks]
    listed = [line.partition(":")[2] for line in rest.splitlines() if line.startswith("pandas_categorical:")]
    rebuilt = "".join(f"\nTree={number}\n{_written(tree)}\n" for number, tree in enumerate(found))
    return Text(
        header=_entries(lines, where),
        trees=tuple(found),
        categories=json.loads(listed[-1]) or [] if listed else [],
        content="\n".join(lines) + "\n" + rebuilt + END + rest,
    )


def _entries(lines: list[str], where: object) -> dict[str, str]:
    """Returns the `name=value` lines, and those that are a name alone, such as `average_output`."""
    pairs = [(line.partition("=")[0], line.partition("=")[2]) for line in lines if line.strip()]
    found = dict(pairs)
    trees.check(len(found) == len(pairs), "a line occurs twice", where)
    return found


def _written(tree: Mapping[str, str]) -> str:
    return "".join(f"{name}={value}\n" for name, value in tree.items())


def _whole(tree: Mapping[str, str], name: str, count: int, where: object) -> NDArray[np.int64]:
    return trees.integers([int(value) for value in tree.get(name, "").split()], count, name, where)


def _check_tree(tree: Mapping[str, str], features: int, where: object) -> None:
    leaves, sets = int(tree["num_leaves"]), int(tree.get("num_cat", 0))
    if tree.get("is_linear", "0") != "0":
        raise ModelRefused(
            "the LightGBM model has linear models in its leaves",
            where=where,
            next_step="train it with linear_tree=false",
        )
    trees.check(leaves >= 1 and sets >= 0, "num_leaves", where)
    trees.check(len(tree["leaf_value"].split()) == leaves, "leaf_value", where)
    if leaves == 1:
        return
    inner = leaves - 1
    split, how, left, right = (
        _whole(tree, name, inner, where) for name in ("split_feature", "decision_type", "left_child", "right_child")
    )
    thresholds = np.array([float(value) for value in tree["threshold"].split()])
    trees.check(len(thresholds) == inner, "threshold", where)
    trees.check_within(split, features, "a feature", where)
    # nodes, then leaves: a leaf is ~index
    children = [np.where(child >= 0, child, inner + ~child) for child in (left, right)]
    trees.check_within(np.concatenate([left, right])[np.concatenate([left, right]) >= 0], inner, "a child", where)
    padding = np.zeros(leaves, np.int64)
    both = [np.concatenate([child, padding]) for child in children]
    trees.check_tree(both[0], both[1], np.arange(inner + leaves) >= inner, where)
    by_set = thresholds[how & 1 == 1]
    trees.check(bool((by_set == np.rint(by_set)).all()), "the number of a set of categories", where)
    trees.check_within(by_set.astype(np.int64), sets, "the number of a set of categories", where)
    if sets:
        ends = _whole(tree, "cat_boundaries", sets + 1, where)
        bits = len(tree["cat_threshold"].split())
        trees.check(ends[0] == 0 and ends[-1] == bits and bool((np.diff(ends) >= 0).all()), "cat_boundaries", where)


def _stated(text: Text, objective: str, where: object) -> Stated:
    names = tuple(text.header["feature_names"].split())
    numbered = names == tuple(f"Column_{index}" for index in range(len(names)))
    inputs = _inputs(text, names, where)
    return Stated(
        features=None if numbered else names,
        entries={**_task(objective, where), **({"inputs": inputs} if inputs else {})},
        said_by=f"its objective {objective}",
        written_by=f"lightgbm, format {text.header.get('version', 'unknown')}"[:100],
    )


def _task(objective: str, where: object) -> dict[str, Any]:
    """Returns the entries of the signature that the objective states; none for an objective of the user's own."""
    if objective in ("binary", "multiclass"):
        return {"task": "classification", "outputs": "probabilities"}
    if objective in REGRESSIONS:
        return {"task": "regression"}
    if objective in OWN:
        return {}
    raise ModelRefused(
        "the LightGBM model has an objective whose outputs are not known",
        where=where,
        expected=f"binary, multiclass, or one of {', '.join(REGRESSIONS)}",
        got=objective,
        next_step="train it with objective=multiclass"
        if objective == "multiclassova"
        else "train it with another objective",
    )


def _inputs(text: Text, names: tuple[str, ...], where: object) -> dict[str, Any]:
    """Returns the vocabularies of the categorical columns of a table of pandas.

    The file lists them in the order of the columns, without their names. It says which features are numbers, unless
    they are constant; if there are as many others as lists, those are the ones.
    """
    if not text.categories:
        return {}
    infos = text.header["feature_infos"].split()
    of_categories = [name for name, info in zip(names, infos, strict=True) if not info.startswith("[")]
    usable = all(type(value) in (str, int) for values in text.categories for value in values)
    if len(of_categories) != len(text.categories) or not usable:
        raise ModelRefused(
            "it cannot be told which features of the LightGBM model have which categories",
            where=where,
            expected="as many lists of text or integers as features that are not numbers, or are constant",
            got=f"{len(text.categories)} categories for {', '.join(of_categories) or 'no feature'}",
            next_step="train it without constant features, and with all categories as columns of pandas' type category",
        )
    return {
        name: {"kind": "category", "vocabulary": values}
        for name, values in zip(of_categories, text.categories, strict=True)
    }
