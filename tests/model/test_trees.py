"""XGBoost and LightGBM score as their own libraries do on the same file, and files that are damaged are refused."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import xgboost
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ModelRefused, UsageError
from pipeline.model import ubjson
from pipeline.model.card import Card
from pipeline.model.manifest import Manifest
from pipeline.model.matrix import to_matrix
from pipeline.model.registry import Registry

FILES = Path(__file__).parent / "files"
RNG = np.random.default_rng(8)
ROWS = 300
NUMBERS = pd.DataFrame({name: RNG.normal(size=ROWS).astype(np.float32) for name in ("age", "spend")})
NUMBERS.loc[::7, "spend"] = np.nan
TABLE = NUMBERS.assign(
    shop=pd.Categorical(RNG.choice(["east", "south", "west"], ROWS)), size=pd.Categorical(RNG.choice([5, 7, 9], ROWS))
)
VALUE = (NUMBERS["age"] + (TABLE["shop"] == "east") - (TABLE["size"].astype(int) == 7)).to_numpy()
LABEL, LEVEL = (VALUE > 0).astype(int), np.digitize(VALUE, [-0.5, 0.5])


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "models")


def register(registry: Registry, content: bytes, features: Any = None, **signature: Any) -> Manifest:
    path = registry.root.parent / "model.file"
    path.write_bytes(content)
    return registry.register(path, name="m", version="v1", features=features, card=Card(signature=signature))


def scored(registry: Registry, manifest: Manifest, table: pd.DataFrame) -> dict[str, Any]:
    batch = pa.RecordBatch.from_pandas(table, preserve_index=False)
    matrix = to_matrix(batch, manifest.signature.features, manifest.signature.inputs)
    return registry.load(manifest, "cpu").predict(matrix, 64)


def softmax(margin: Any) -> Any:
    powers = np.exp(margin - margin.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def logistic(margin: Any) -> Any:
    return 1 / (1 + np.exp(-margin))


def same(value: Any) -> Any:
    return value


def boosted(objective: str, table: pd.DataFrame, target: Any, **parameters: Any) -> xgboost.Booster:
    rows = xgboost.DMatrix(table, target, enable_categorical=True, nthread=1)
    return xgboost.train({"objective": objective, "nthread": 1, "max_depth": 4, **parameters}, rows, 4)


XGBOOST: dict[str, tuple[Any, dict[str, Any], str, Callable[[Any], Any]]] = {
    "binary:logistic": (LABEL, {}, "classification", same),
    "binary:logitraw": (LABEL, {}, "classification", logistic),
    "multi:softprob": (LEVEL, {"num_class": 3}, "classification", same),
    "multi:softmax": (LEVEL, {"num_class": 3}, "classification", softmax),
    "reg:squarederror": (VALUE, {}, "regression", same),
    "count:poisson": (LEVEL, {}, "regression", same),
    "reg:quantileerror": (VALUE, {"quantile_alpha": [0.1, 0.5, 0.9]}, "regression", same),
}


@pytest.mark.parametrize("table", [NUMBERS, TABLE], ids=["numbers", "categories"])
@pytest.mark.parametrize("objective", XGBOOST)
def test_xgboost_scores_as_its_own_library_does(registry: Registry, objective: str, table: pd.DataFrame) -> None:
    """Also rows without a value, which trees can score; and in JSON as in UBJSON."""
    target, parameters, task, link = XGBOOST[objective]
    booster = boosted(objective, table, target, **parameters)
    rows = xgboost.DMatrix(table, enable_categorical=True, nthread=1)
    expected = link(booster.predict(rows, output_margin=objective in ("multi:softmax", "binary:logitraw")))
    manifest = register(registry, bytes(booster.save_raw("json" if table is TABLE else "ubj")))
    assert (manifest.kind, manifest.signature.task) == ("xgboost", task)
    assert manifest.signature.features == tuple(table.columns)
    check(scored(registry, manifest, table), expected)


def check(found: dict[str, Any], expected: Any) -> None:
    """Compares the probabilities, or the values, with what the library gives: (rows,) or (rows, outputs)."""
    several = sorted(name for name in found if re.fullmatch(r"prob_class_\d|value_q\d+", name)) or ["value"]
    if expected.ndim == 1:
        several, expected = several[-1:], expected[:, None]
    assert len(several) == expected.shape[1]
    for index, name in enumerate(several):
        np.testing.assert_allclose(found[name], expected[:, index], rtol=1e-6, atol=1e-6)


LIGHTGBM = {
    "binary": (LABEL, "classification"),
    "multiclass": (LEVEL, "classification"),
    "regression": (VALUE, "regression"),
    "quantile": (VALUE, "regression"),
    "poisson": (LEVEL, "regression"),
}


def grown(objective: str, table: pd.DataFrame, target: Any, **parameters: Any) -> lightgbm.Booster:
    how = {"objective": objective, "num_leaves": 7, "min_data_in_leaf": 5, "num_threads": 1, "verbose": -1}
    return lightgbm.train({**how, **parameters}, lightgbm.Dataset(table, target), 4)


def text_of(booster: lightgbm.Booster) -> bytes:
    return str(booster.model_to_string()).encode()


@pytest.mark.parametrize("table", [NUMBERS, TABLE], ids=["numbers", "categories"])
@pytest.mark.parametrize("objective", LIGHTGBM)
def test_lightgbm_scores_as_its_own_library_does(registry: Registry, objective: str, table: pd.DataFrame) -> None:
    target, task = LIGHTGBM[objective]
    booster = grown(objective, table, target, **({"num_class": 3} if objective == "multiclass" else {}))
    manifest = register(registry, text_of(booster))
    assert (manifest.kind, manifest.signature.task) == ("lightgbm", task)
    assert manifest.signature.features == tuple(table.columns)
    check(scored(registry, manifest, table), booster.predict(table, num_threads=1))


def test_categories_are_those_of_the_file_and_cannot_be_declared_in_another_order(registry: Registry) -> None:
    content = text_of(grown("binary", TABLE, LABEL))
    manifest = register(registry, content)
    assert manifest.signature.inputs["shop"].model_dump()["vocabulary"] == ("east", "south", "west")
    assert manifest.signature.inputs["size"].model_dump()["vocabulary"] == (5, 7, 9)
    other = {"shop": {"kind": "category", "vocabulary": ["west", "south", "east"]}}
    with pytest.raises(ModelRefused, match="other categories of shop"):
        register(registry, content, inputs=other)
    registry.register(
        registry.root.parent / "model.file",
        name="m",
        version="v2",
        features=None,
        card=Card(signature={"inputs": {"shop": {"kind": "category", "unknown": "index"}}}),
    )


def test_categories_that_xgboost_writes_incompletely_have_to_be_declared(registry: Registry) -> None:
    table = NUMBERS.assign(shop=TABLE["shop"].cat.rename_categories({"south": "süd"}))
    booster = boosted("binary:logistic", table, LABEL)
    with pytest.raises(ModelRefused, match="does not say which categories shop has"):
        register(registry, bytes(booster.save_raw("json")))
    how = {"shop": {"kind": "category", "vocabulary": ["east", "süd", "west"]}}
    manifest = register(registry, bytes(booster.save_raw("json")), inputs=how)
    rows = xgboost.DMatrix(table, enable_categorical=True, nthread=1)
    check(scored(registry, manifest, table), booster.predict(rows))


def test_categories_of_unknown_features_are_refused(registry: Registry) -> None:
    """Of a feature that no tree could use, LightGBM's text does not say whether it is categorical."""
    with pytest.raises(ModelRefused, match="which features of the LightGBM model have which categories"):
        register(registry, text_of(grown("binary", TABLE.assign(same=1.0), LABEL)))


def test_task_of_the_file_cannot_be_contradicted(registry: Registry) -> None:
    with pytest.raises(ModelRefused, match="a classification, by its objective binary"):
        register(registry, text_of(grown("binary", NUMBERS, LABEL)), task="regression")


def test_best_rounds_count_after_early_stopping(registry: Registry) -> None:
    """As they do for XGBoost's classes for scikit-learn; what a booster of its own means, its file does not say."""
    booster = boosted("binary:logistic", NUMBERS, LABEL, eta=0.9)
    booster.set_attr(best_iteration="1")
    with pytest.raises(ModelRefused, match="stopped early"):
        register(registry, bytes(booster.save_raw("ubj")))
    booster.set_attr(scikit_learn="{}")
    manifest = register(registry, bytes(booster.save_raw("ubj")))
    rows = xgboost.DMatrix(NUMBERS, nthread=1)
    check(scored(registry, manifest, NUMBERS), booster.predict(rows, iteration_range=(0, 2)))


def test_boosters_with_dropped_trees_and_with_several_labels_are_scored(registry: Registry) -> None:
    dart = boosted("binary:logistic", NUMBERS, LABEL, booster="dart", rate_drop=0.5, seed=1)
    rows = xgboost.DMatrix(NUMBERS, nthread=1)
    check(scored(registry, register(registry, bytes(dart.save_raw("ubj"))), NUMBERS), dart.predict(rows))
    several = boosted("binary:logistic", NUMBERS, np.column_stack([LABEL, LEVEL == 1]))
    (registry.root / "m").rename(registry.root / "dart")
    manifest = register(registry, bytes(several.save_raw("ubj")))
    assert manifest.signature.task == "multilabel"
    check(scored(registry, manifest, NUMBERS), several.predict(rows))


def tree_of(document: Any) -> Any:
    return document["learner"]["gradient_booster"]["model"]["trees"][1]


def put(*path: Any) -> Callable[[Any], None]:
    """Returns a change of the second tree: the last of `path` is put at the place that the others name."""

    def change(document: Any) -> None:
        part = tree_of(document)
        for name in path[:-2]:
            part = part[name]
        part[path[-2]] = path[-1]

    return change


XGBOOST_DAMAGES: dict[str, Callable[[Any], None]] = {
    "child out of range": put("left_children", 0, 9999),
    "circle": put("left_children", 1, 0),
    "two parents": lambda document: put("left_children", 0, tree_of(document)["right_children"][0])(document),
    "feature out of range": put("split_indices", 0, 70000),
    "short list": lambda document: tree_of(document)["split_conditions"].pop(),
    "categories out of range": put("categories_segments", [10**6]),
    "group out of range": lambda document: (
        document["learner"]["gradient_booster"]["model"]["tree_info"].reverse()
        or document["learner"]["gradient_booster"]["model"]["tree_info"].__setitem__(0, 7)
    ),
    "linear": lambda document: document["learner"]["gradient_booster"].update(name="gblinear"),
    "hinge": lambda document: document["learner"]["objective"].update(name="binary:hinge"),
    "another objective": lambda document: document["learner"]["objective"].update(name="own:loss"),
}


@pytest.mark.parametrize("name", XGBOOST_DAMAGES)
def test_damaged_trees_of_xgboost_are_refused_before_the_library_reads_them(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    document = json.loads(boosted("binary:logistic", TABLE, LABEL).save_raw("json"))
    XGBOOST_DAMAGES[name](document)
    monkeypatch.setitem(sys.modules, "xgboost", None)
    with pytest.raises(ModelRefused):
        register(registry, json.dumps(document).encode())


LIGHTGBM_DAMAGES: dict[str, tuple[str, str]] = {
    "child out of range": (r"left_child=\S+", "left_child=900"),
    "leaf out of range": (r"right_child=\S+", "right_child=-900"),
    "circle": (r"left_child=\S+", "left_child=0"),
    "feature out of range": (r"split_feature=\S+", "split_feature=800"),
    "short list": (r"decision_type=\S+ ", "decision_type="),
    "leaves": (r"leaf_value=\S+ ", "leaf_value="),
    "set of categories": (r"num_cat=\d+", "num_cat=0"),
    "bits of categories": (r"cat_threshold=\S+", "cat_threshold="),
    "linear": (r"is_linear=0", "is_linear=1"),
    "classes": (r"num_class=1", "num_class=2"),
    "twice": (r"\nleft_child=", "\nleft_child=0\nleft_child="),
    "cut off": (r"(?s)\nend of trees.*", "\n"),
    "another objective": (r"objective=binary sigmoid:1", "objective=own"),
}


@pytest.mark.parametrize("name", LIGHTGBM_DAMAGES)
def test_damaged_text_of_lightgbm_is_refused_before_the_library_reads_it(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    pattern, replacement = LIGHTGBM_DAMAGES[name]
    text, count = re.subn(pattern, replacement, text_of(grown("binary", TABLE, LABEL)).decode(), count=1)
    assert count == 1
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(ModelRefused):
        register(registry, text.encode())


def test_size_of_a_tree_is_not_followed(registry: Registry) -> None:
    """LightGBM would begin to read a tree at the place that the sizes name, wherever that is."""
    booster = grown("binary", NUMBERS, LABEL)
    text = re.sub(r"tree_sizes=\d+", "tree_sizes=1", text_of(booster).decode())
    check(scored(registry, register(registry, text.encode()), NUMBERS), booster.predict(NUMBERS, num_threads=1))


@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
def test_without_the_extra_the_error_says_what_to_install(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UsageError) as caught:
        register(
            registry, (FILES / {"xgboost": "xgboost.ubj", "lightgbm": "lightgbm.txt"}[library]).read_bytes(), "abc"
        )
    assert caught.value.next_step == f"pip install 'lakescore[{library}]' and try again"


def test_ubjson_is_read_as_the_library_writes_it() -> None:
    booster = boosted("binary:logistic", TABLE, LABEL)
    found, expected = (ubjson.loads(bytes(booster.save_raw("ubj"))), json.loads(booster.save_raw("json")))
    assert found["learner"]["feature_names"] == expected["learner"]["feature_names"]
    assert tree_of(found)["left_children"] == tree_of(expected)["left_children"]
    assert tree_of(found)["split_conditions"] == pytest.approx(tree_of(expected)["split_conditions"], rel=1e-6)


@given(content=st.binary(max_size=80))
def test_any_ubjson_is_read_or_an_error(content: bytes) -> None:
    for start in (b"{L\0\0\0\0\0\0\0\x01a", b"[", b"[$d#L", b"{" * 100, b"[" * 100):
        try:
            ubjson.loads(start + content)
        except ValueError:
            continue
