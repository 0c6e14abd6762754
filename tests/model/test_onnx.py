"""ONNX models score as onnxruntime itself does, and a file that could do more than compute is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow as pa
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.errors import ModelError, ModelRefused, UsageError
from pipeline.model.card import Card
from pipeline.model.manifest import Manifest
from pipeline.model.matrix import to_matrix
from pipeline.model.registry import Registry

FILES = Path(__file__).parent / "files"
X = np.random.default_rng(5).normal(size=(300, 3)).astype(np.float32)
WEIGHTS = np.array([[0.4, -1.1], [0.7, 0.2], [-0.3, 0.9]], np.float32)
LAYER = helper.make_node("MatMul", ["x", "w"], ["y"])


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "models")


def info(name: str, shape: tuple[Any, ...], kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def graph(
    *nodes: Any,
    inputs: Any = None,
    outputs: Any = None,
    weights: Any = None,
    domains: tuple[str, ...] = ("", "ai.onnx.ml"),
) -> Any:
    """Returns a model of `nodes`, by default from `x`, (rows, 3), to `y`, (rows, 2), with the weights `w`."""
    made = helper.make_graph(
        list(nodes),
        "g",
        inputs or [info("x", ("rows", 3))],
        outputs or [info("y", ("rows", 2))],
        [numpy_helper.from_array(WEIGHTS, "w")] if weights is None else weights,
    )
    opsets = [
        helper.make_opsetid(domain, 17 if domain == "" else 3 if domain == "ai.onnx.ml" else 1) for domain in domains
    ]
    return helper.make_model(made, opset_imports=opsets, ir_version=8)


def register(registry: Registry, model: Any, features: Any = ("a", "b", "c"), **signature: Any) -> Manifest:
    path = registry.root.parent / "m.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    card = Card(signature=signature)
    return registry.register(path, name="m", version="v1", features=features, card=card)


def refused(registry: Registry, model: Any, **signature: Any) -> ModelRefused:
    with pytest.raises(ModelRefused) as caught:
        register(registry, model, **signature)
    assert not (registry.root / "m").exists()
    return caught.value


def own(content: bytes) -> Any:
    """Returns the probabilities that onnxruntime gives for `X`, from a dictionary per row."""
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    rows = session.run(["output_probability"], {session.get_inputs()[0].name: X})[0]
    return np.array([list(row.values()) for row in rows])


def test_scores_are_those_of_onnxruntime_and_reproduce_the_golden_batch(registry: Registry) -> None:
    content = (FILES / "sklearn.onnx").read_bytes()
    manifest = register(registry, content)
    assert (manifest.kind, manifest.file, manifest.signature.outputs) == ("onnx", "model.onnx", "probabilities")
    expected = own(content)
    assert registry.golden(manifest) is not None
    for rows in (1, 64, 8192):
        found = registry.load(manifest, "cpu").predict(X, rows)
        for index in range(expected.shape[1]):
            np.testing.assert_allclose(found[f"prob_class_{index}"], expected[:, index], rtol=0, atol=1e-6)


def test_dictionary_per_row_is_left_out_and_its_labels_are_the_classes(registry: Registry) -> None:
    zipped = helper.make_node("ZipMap", ["p"], ["z"], domain="ai.onnx.ml", classlabels_strings=["no", "yes"])
    softmax = helper.make_node("Softmax", ["y"], ["p"])
    output = helper.make_value_info(
        "z", helper.make_sequence_type_proto(helper.make_map_type_proto(8, helper.make_tensor_type_proto(1, [])))
    )
    manifest = register(registry, graph(LAYER, softmax, zipped, outputs=[output]))
    assert (manifest.signature.classes, manifest.signature.outputs) == (("no", "yes"), "probabilities")
    logits = X @ WEIGHTS
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = registry.load(manifest, "cpu").predict(X, 64)
    np.testing.assert_allclose(found["prob_class_1"], expected[:, 1], rtol=0, atol=1e-6)
    assert list(found["prediction"][:5]) == [("no", "yes")[index] for index in logits.argmax(axis=1)[:5]]


def test_inputs_of_their_own_are_the_features_with_their_types(registry: Registry) -> None:
    """Also float64, which is given the float32 values; an int64 arrives with all its digits."""
    inputs = [
        info("age", ("rows", 1)),
        info("id", ("rows", 1), TensorProto.INT64),
        info("x", ("rows", 1), TensorProto.DOUBLE),
    ]
    modulo = helper.make_node("Mod", ["id", "seven"], ["rest"])
    casts = [helper.make_node("Cast", [name], [f"{name}_"], to=TensorProto.FLOAT) for name in ("rest", "x")]
    model = graph(
        modulo,
        *casts,
        helper.make_node("Concat", ["age", "rest_", "x_"], ["all"], axis=1),
        helper.make_node("MatMul", ["all", "w"], ["y"]),
        inputs=inputs,
        weights=[numpy_helper.from_array(WEIGHTS, "w"), numpy_helper.from_array(np.array([7]), "seven")],
    )
    manifest = register(registry, model, features=None)
    assert manifest.signature.features == ("age", "id", "x")
    assert manifest.signature.int64 == ("id",)
    batch = pa.record_batch({"age": [1.0, 2.0], "id": [2**53 + 1, 8], "x": [0.5, 0.25]})
    matrix = to_matrix(batch, manifest.signature.features, manifest.signature.inputs)
    raw = registry.load(manifest, "cpu").raw(matrix).numpy()
    rest = (2**53 + 1) % 7
    np.testing.assert_allclose(raw, np.array([[1, rest, 0.5], [2, 1, 0.25]], np.float32) @ WEIGHTS, rtol=0, atol=1e-6)


@pytest.mark.parametrize("task", ["regression", "multilabel", "ranking"])
def test_every_task_is_scored(registry: Registry, task: str) -> None:
    signatures: dict[str, dict[str, Any]] = {
        "regression": {"variance": "variance"},
        "multilabel": {"classes": ["p", "q"], "outputs": "logits"},
        "ranking": {"classes": ["p", "q"], "top": 1},
    }
    manifest = register(registry, graph(LAYER), task=task, **signatures[task])
    found = registry.load(manifest, "cpu").predict(X, 64)
    raw = X @ WEIGHTS
    expected = {
        "regression": ("value_variance", raw[:, 1]),
        "multilabel": ("prob_class_1", 1 / (1 + np.exp(-raw[:, 1]))),
        "ranking": ("top_scores", raw.max(axis=1)[:, None]),
    }[task]
    np.testing.assert_allclose(found[expected[0]], expected[1], rtol=0, atol=1e-6)


def external() -> bytes:
    tensor = numpy_helper.from_array(WEIGHTS, "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    return bytes(graph(LAYER, weights=[tensor]).SerializeToString())


def inside(node: Any) -> Any:
    """Returns a model with a node in a branch of an If, where it is easily overlooked."""
    branches = {
        f"{name}_branch": helper.make_graph([node], name, [], [info("y", ("rows", 2))]) for name in ("then", "else")
    }
    condition = numpy_helper.from_array(np.array(True), "c")
    weights = [condition, numpy_helper.from_array(WEIGHTS, "w")]
    return graph(helper.make_node("If", ["c"], ["y"], **branches), weights=weights)


def looping() -> Any:
    body = helper.make_graph(
        [helper.make_node("Identity", ["more"], ["again"])],
        "body",
        [info("i", (), TensorProto.INT64), info("more", (), TensorProto.BOOL)],
        [info("again", (), TensorProto.BOOL)],
    )
    return graph(helper.make_node("Loop", ["", "c"], [], body=body), LAYER)


OTHER = helper.make_node("Train", ["x", "w"], ["y"], domain="com.acme")
FUSED = helper.make_node("FusedMatMul", ["x", "w"], ["y"], domain="com.microsoft")
RANDOM = helper.make_node("RandomNormalLike", ["x"], ["r"])
NORMAL = helper.make_node("RandomNormal", [], ["y"], shape=[1, 2])
ARGMAX = helper.make_node("ArgMax", ["x"], ["y"], axis=1)


REFUSED = {
    "external": (external, "weights in another file"),
    "custom": (lambda: graph(OTHER, domains=("", "com.acme")), "not a standard one"),
    "custom-in-branch": (lambda: inside(OTHER), "not a standard one"),
    "contributed": (lambda: graph(FUSED), "not a standard one"),
    "random": (lambda: graph(RANDOM, LAYER), "draws random numbers"),
    "random-in-branch": (lambda: inside(NORMAL), "draws random numbers"),
    "loop": (looping, "has a loop"),
    "rows": (lambda: graph(LAYER, inputs=[info("x", (32, 3))]), "exactly 32 rows"),
    "columns": (lambda: graph(LAYER, inputs=[info("x", ("rows", "columns"))]), "does not take a matrix"),
    "text": (lambda: graph(LAYER, inputs=[info("x", ("rows", 3), TensorProto.STRING)]), "input of another type"),
    "several": (
        lambda: graph(LAYER, outputs=[info("y", ("rows", 2)), info("x", ("rows", 3))]),
        "2 outputs, and one is stored",
    ),
    "classes": (lambda: graph(ARGMAX, outputs=[info("y", ("rows", 1), TensorProto.INT64)]), "classes, not scores"),
    "dangling": (lambda: graph(LAYER, weights=[]), "not a valid ONNX model"),
    "damaged": (lambda: b"\x08\x08\x12\x0c" + bytes(range(40)) + b"\x3a", "not a valid ONNX file"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_file_that_cannot_be_trusted_or_scored_is_refused(registry: Registry, name: str) -> None:
    model, said = REFUSED[name]
    assert said in refused(registry, model()).what


def test_file_of_another_format_behind_an_onnx_header_is_not_read_as_such(registry: Registry) -> None:
    """The name of the producer puts the mark of onnxruntime's own format, which is not checked, at its place."""
    model = graph(LAYER)
    model.producer_name = "ORTM"
    content = b"\x08\x08\x12\x04ORTM" + model.SerializeToString().partition(b"ORTM")[2]
    assert content[4:8] == b"ORTM"
    manifest = register(registry, content)
    np.testing.assert_allclose(registry.load(manifest, "cpu").raw(X).numpy(), X @ WEIGHTS, rtol=0, atol=1e-6)


def test_value_that_the_graph_cannot_take_is_an_error_of_the_model(registry: Registry) -> None:
    """An index beyond the end of a table, where a drawn row has a smaller one."""
    model = graph(
        helper.make_node("Gather", ["w", "id"], ["y"], axis=0),
        inputs=[info("id", ("rows",), TensorProto.INT64)],
    )
    path = registry.root.parent / "m.onnx"
    path.write_bytes(model.SerializeToString())
    how = {"kind": "integer", "min": 0, "max": 2}
    card = Card(signature={"inputs": {"id": how}})
    predictor = registry.load(registry.register(path, name="m", version="v1", features=["id"], card=card), "cpu")
    matrix = to_matrix(pa.record_batch({"id": [9]}), ["id"], {})
    with pytest.raises(ModelError, match="cannot score these rows"):
        predictor.raw(np.repeat(matrix, 3, axis=1))


def test_without_the_extra_the_error_says_what_to_install(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UsageError) as caught:
        register(registry, graph(LAYER))
    assert caught.value.next_step == "pip install 'lakescore[onnx]' and try again"


@pytest.mark.parametrize("how", [{"precision": "bfloat16"}, {"compiled": True}])
def test_settings_of_torch_are_refused(registry: Registry, how: Any) -> None:
    manifest = register(registry, graph(LAYER))
    with pytest.raises(UsageError, match="run by another library than torch"):
        registry.load(manifest, "cpu", **how)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # scikit-learn and skl2onnx warn about their own code
@pytest.mark.parametrize("zipmap", [True, False])
@pytest.mark.parametrize("name", ["logistic", "forest", "boosting", "network", "calibrated"])
def test_classifiers_of_scikit_learn_keep_their_labels_and_probabilities(
    registry: Registry, name: str, zipmap: bool
) -> None:
    from skl2onnx import to_onnx
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier

    models = {
        "logistic": LogisticRegression(),
        "forest": RandomForestClassifier(8, random_state=0),
        "boosting": GradientBoostingClassifier(n_estimators=8, random_state=0),
        "network": MLPClassifier((8,), max_iter=20, random_state=0),
        "calibrated": CalibratedClassifierCV(LogisticRegression()),
    }
    labels = ["no", "yes"] if name == "boosting" else ["high", "low", "mid"]
    y = np.array(labels)[np.digitize(X[:, 0] + X[:, 1] * X[:, 2], [0] if len(labels) == 2 else [-0.5, 0.5])]
    model = models[name].fit(X, y)
    converted = to_onnx(model, X[:1], options={id(model): {"zipmap": zipmap}})
    manifest = register(registry, converted)
    assert manifest.signature.classes == tuple(labels)
    found = registry.load(manifest, "cpu").predict(X, 64)
    expected = model.predict_proba(X)
    for index in range(len(labels)):
        np.testing.assert_allclose(found[f"prob_class_{index}"], expected[:, index], rtol=0, atol=1e-6)


def test_scores_of_a_model_that_torch_exported_with_dynamo_are_those_of_torch(registry: Registry) -> None:
    written = json.loads((FILES / "dynamo.json").read_text())
    manifest = register(registry, (FILES / "dynamo.onnx").read_bytes(), outputs="probabilities")
    assert manifest.provenance is not None
    assert manifest.provenance.versions["file"].startswith("pytorch 2.13")
    scored = registry.load(manifest).predict(np.array(written["x"], np.float32), 4)
    found = np.column_stack([scored[f"prob_class_{index}"] for index in range(3)])
    np.testing.assert_allclose(found, written["probabilities"], rtol=0, atol=1e-6)


def test_version_of_the_library_is_stored_and_another_major_version_is_warned_of(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = register(registry, (FILES / "sklearn.onnx").read_bytes())
    assert manifest.provenance is not None
    assert manifest.provenance.versions["onnxruntime"] == onnxruntime.__version__
    registry.load(manifest)
    assert caplog.messages == []
    path = registry.root / "m" / "v1" / "model.json"
    document = json.loads(path.read_text())
    document["provenance"]["versions"]["onnxruntime"] = "0.9.1"
    path.write_text(json.dumps(document))
    registry.load(registry.resolve("m", "v1"))
    assert "m v1 was registered with onnxruntime 0.9.1" in caplog.text
    del document["provenance"]["versions"]["onnxruntime"]  # as registered before it was stored
    path.write_text(json.dumps(document))
    caplog.clear()
    registry.load(registry.resolve("m", "v1"))
    assert caplog.messages == []
