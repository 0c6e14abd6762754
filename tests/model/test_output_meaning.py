"""What a model outputs: taken where it is certain, refused where it contradicts, asked where it cannot be told."""

from __future__ import annotations

import functools
import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline.errors import ModelError, ModelRefused
from pipeline.model import manifest as manifests
from pipeline.model.card import Card
from pipeline.model.manifest import Manifest, Outputs, Signature
from pipeline.model.registry import Registry
from pipeline.tabular import sources
from tests.calling import Cli
from tests.model.programs import export

FEATURES = ("a", "b", "c")
ROWS = torch.from_numpy(np.random.default_rng(3).normal(0, 2, (200, 3)).astype(np.float32))
LABELS = tuple("xyzuv")
End = Callable[[torch.Tensor], torch.Tensor]


class Ends(nn.Module):
    """A small network whose last step is given."""

    def __init__(self, end: End, outputs: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(5)
            self.body = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, outputs))
        self.end = end

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.end(self.body(x))


class SigmoidLast(nn.Sequential):
    """Pickled by the tests; its class can be imported."""


def scores(x: torch.Tensor, outputs: int) -> torch.Tensor:
    """What the network computes before its last step."""
    with torch.inference_mode():
        found: torch.Tensor = Ends(lambda given: given, outputs)(x)
    return found


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "models")


def register(registry: Registry, path: Path, *, version: str = "v1", examples: Any = None, **entries: Any) -> Manifest:
    classes, training = entries.pop("classes", None), entries.pop("training", None)
    return registry.register(
        path,
        name="m",
        version=version,
        features=FEATURES,
        classes=classes,
        examples=examples,
        training=None if training is None else sources.find([training]),
        card=Card(signature=entries),
    )


@functools.cache
def exported(end: End, outputs: int, decomposed: bool) -> bytes:
    """Exporting takes longer than the rest of a test, and several tests need the same program."""
    with tempfile.TemporaryDirectory() as folder:
        return export(Path(folder) / "m.pt2", Ends(end, outputs).eval(), decomposed=decomposed).read_bytes()


def program(tmp_path: Path, end: End, outputs: int, *, decomposed: bool = False) -> Path:
    path = tmp_path / "m.pt2"
    path.write_bytes(exported(end, outputs, decomposed))
    return path


def probabilities(registry: Registry, found: Manifest) -> Any:
    """The stored probabilities of ROWS, (rows, classes)."""
    columns = registry.load(found, "cpu").predict(ROWS.numpy(), 64)
    return np.column_stack([columns[f"prob_class_{index}"] for index in range(len(found.signature.classes))])


def binary(second: torch.Tensor) -> torch.Tensor:
    return torch.cat([1 - second, second], dim=1)


# What is certain is taken

CERTAIN: dict[str, tuple[End, int, Outputs]] = {
    "linear": (lambda z: z, 3, "logits"),
    "one logit": (lambda z: z, 1, "logits"),
    "one logit per row": (lambda z: z[:, 0], 1, "logits"),
    "sum of linear layers": (lambda z: z + z, 1, "logits"),
    "both signs": (lambda z: z * 3, 2, "logits"),
    "one of both signs": (lambda z: z * 3, 1, "logits"),
    "softmax": (lambda z: torch.softmax(z, dim=1), 3, "probabilities"),
    "softmax of two": (functional.softmax, 2, "probabilities"),
    "softmax in float64": (lambda z: torch.softmax(z, dim=-1, dtype=torch.float64), 3, "probabilities"),
    "sigmoid": (torch.sigmoid, 1, "probabilities"),
    "sigmoid, squeezed": (lambda z: torch.sigmoid(z).squeeze(-1), 1, "probabilities"),
    "sigmoid, clamped": (lambda z: torch.sigmoid(z).clamp(1e-6, 1 - 1e-6), 1, "probabilities"),
    "special.expit": (torch.special.expit, 1, "probabilities"),
    "softmax by hand": (lambda z: z.exp() / z.exp().sum(dim=1, keepdim=True), 3, "probabilities"),
    "mean of two": (lambda z: (torch.softmax(z, 1) + torch.softmax(2 * z, 1)) / 2, 3, "probabilities"),
    "sigmoid and its rest": (lambda z: binary(torch.sigmoid(z)), 1, "probabilities"),
    "softmax, second column": (lambda z: torch.softmax(z, dim=1)[:, 1], 2, "probabilities"),
    "softmax, from the second column": (lambda z: torch.softmax(z, dim=1)[:, 1:], 2, "probabilities"),
    "exp of log_softmax": (lambda z: functional.log_softmax(z, dim=1).exp(), 3, "probabilities"),
    "log_softmax": (lambda z: functional.log_softmax(z, dim=1), 3, "log_probabilities"),
    "logarithm of softmax": (lambda z: torch.softmax(z, dim=1).log(), 3, "log_probabilities"),
    "z - logsumexp": (lambda z: z - z.logsumexp(dim=1, keepdim=True), 3, "log_probabilities"),
    "logsigmoid": (functional.logsigmoid, 1, "log_probabilities"),
}


def expected(end: End, outputs: int, meaning: Outputs) -> Any:
    """The probabilities by plain torch, in float64."""
    found = end(scores(ROWS, outputs).double())
    found = found.unsqueeze(1) if found.ndim == 1 else found
    if found.shape[1] == 1:
        second = {"logits": torch.sigmoid, "probabilities": lambda p: p, "log_probabilities": torch.exp}[meaning](found)
        return binary(second).numpy()
    if meaning == "logits":
        return torch.softmax(found, dim=1).numpy()
    return (found if meaning == "probabilities" else found.exp()).numpy()


@pytest.mark.filterwarnings("ignore:Implicit dimension choice")
@pytest.mark.parametrize("name", CERTAIN)
def test_outputs_that_are_certain_are_taken_and_scored_as_torch_does(
    registry: Registry, tmp_path: Path, name: str
) -> None:
    end, outputs, meaning = CERTAIN[name]
    found = register(registry, program(tmp_path, end, outputs))
    assert found.signature.outputs == meaning
    assert found.provenance is not None
    assert found.provenance.details["outputs"]
    np.testing.assert_allclose(probabilities(registry, found), expected(end, outputs, meaning), rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", ["one logit", "softmax", "sigmoid, squeezed"])
def test_outputs_of_a_decomposed_program_are_found_as_well(registry: Registry, tmp_path: Path, name: str) -> None:
    end, outputs, meaning = CERTAIN[name]
    found = register(registry, program(tmp_path, end, outputs, decomposed=True))
    assert found.signature.outputs == meaning
    np.testing.assert_allclose(probabilities(registry, found), expected(end, outputs, meaning), rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("end", "meaning", "wanted"),
    [
        (lambda z: z, "logits", torch.sigmoid),
        (torch.sigmoid, "probabilities", torch.sigmoid),
        (functional.logsigmoid, "log_probabilities", torch.sigmoid),
        (lambda z: torch.softmax(z, dim=1), "probabilities", lambda z: torch.softmax(z, dim=1)),
        (lambda z: torch.cat([z[:, :2].sigmoid(), z[:, 2:].sigmoid()], dim=1), "probabilities", torch.sigmoid),
    ],
    ids=["logits", "sigmoid", "logsigmoid", "softmax", "a sigmoid of each tower"],
)
def test_outputs_of_multilabel_are_taken(
    registry: Registry, tmp_path: Path, end: End, meaning: str, wanted: End
) -> None:
    found = register(registry, program(tmp_path, end, 5), task="multilabel", classes=LABELS)
    assert found.signature.outputs == meaning
    np.testing.assert_allclose(probabilities(registry, found), wanted(scores(ROWS, 5)).numpy(), rtol=0, atol=2e-6)


def test_confident_rows_have_the_class_and_confidence_that_torch_gives(registry: Registry, tmp_path: Path) -> None:
    found = register(registry, program(tmp_path, torch.sigmoid, 1))
    columns = registry.load(found, "cpu").predict(ROWS.numpy(), 64)
    second = torch.sigmoid(scores(ROWS, 1))[:, 0]
    assert columns["prediction"].tolist() == (second > 0.5).long().tolist()
    assert 0 < int((second > 0.5).sum()) < len(ROWS)
    np.testing.assert_allclose(columns["prediction_proba"], torch.maximum(second, 1 - second).numpy(), atol=1e-6)


def test_outputs_of_a_regression_and_a_ranking_are_stored_as_they_are(registry: Registry, tmp_path: Path) -> None:
    found = register(registry, program(tmp_path, torch.sigmoid, 1), task="regression")
    values = registry.load(found, "cpu").predict(ROWS.numpy(), 64)["value"]
    np.testing.assert_allclose(values, torch.sigmoid(scores(ROWS, 1))[:, 0].numpy(), rtol=0, atol=1e-6)
    ranking: dict[str, Any] = {"task": "ranking", "classes": LABELS, "top": 2}
    path = program(tmp_path, lambda z: torch.softmax(z, 1), 5)
    found = register(registry, path, version="v2", **ranking)
    best = registry.load(found, "cpu").predict(ROWS.numpy(), 64)["top_scores"]
    np.testing.assert_allclose(best, torch.softmax(scores(ROWS, 5), 1).topk(2).values.numpy(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("last", ["sigmoid", "none"])
def test_checkpoint_gives_logits_whatever_its_training_code_ended_in(
    registry: Registry, tmp_path: Path, last: str
) -> None:
    body = Ends(lambda z: z, 1).body
    layers = nn.Sequential(*body, nn.Sigmoid()) if last == "sigmoid" else body
    torch.save({"state_dict": layers.state_dict(), "architecture": "mlp:relu"}, tmp_path / "m.pt")
    found = register(registry, tmp_path / "m.pt")
    assert found.signature.outputs == "logits"
    np.testing.assert_allclose(
        probabilities(registry, found)[:, 1], torch.sigmoid(scores(ROWS, 1))[:, 0].numpy(), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("module", [nn.Sequential, SigmoidLast])
def test_pickled_module_is_known_by_its_last_layer_or_asked_about(
    registry: Registry, tmp_path: Path, module: type[nn.Sequential]
) -> None:
    torch.save(module(*Ends(lambda z: z, 1).body, nn.Sigmoid()).eval(), tmp_path / "m.pt")
    trusted = hashlib.sha256((tmp_path / "m.pt").read_bytes()).hexdigest()

    def registered(**entries: str) -> Manifest:
        card = Card(entries, trusted=trusted)
        return registry.register(tmp_path / "m.pt", name="m", version="v1", features=FEATURES, card=card)

    if module is SigmoidLast:  # its code may do anything
        with pytest.raises(ModelRefused, match="cannot be told"):
            registered()
        found = registered(outputs="probabilities")
    else:
        found = registered()
    assert found.signature.outputs == "probabilities"
    columns = registry.load(found, "cpu", trusted=found.digest).predict(ROWS.numpy(), 64)
    wanted = torch.sigmoid(scores(ROWS, 1))[:, 0].numpy()
    np.testing.assert_allclose(columns["prob_class_1"], wanted, rtol=0, atol=1e-6)


# What cannot be told is asked

UNCLEAR: dict[str, tuple[End, int, str]] = {
    "sigmoid by hand": (lambda z: 1 / (1 + torch.exp(-z)), 1, "they lie between 0 and 1"),
    "mean of two": (lambda z: (torch.sigmoid(z) + torch.sigmoid(2 * z)) / 2, 1, "they lie between 0 and 1"),
    "1 - sigmoid": (lambda z: 1 - torch.sigmoid(z), 1, "they lie between 0 and 1"),
    "hardsigmoid": (functional.hardsigmoid, 1, "they lie between 0 and 1"),
    "a sigmoid per class": (torch.sigmoid, 3, "ends in sigmoid, but the probabilities of a row do not sum to one"),
    "a logsigmoid per class": (functional.logsigmoid, 3, "do not sum to one"),
    "a sigmoid per joined class": (lambda z: torch.cat([z[:, :1].sigmoid(), z[:, 1:].sigmoid()], 1), 2, "sum to one"),
    "a hardsigmoid per class": (functional.hardsigmoid, 3, "they lie between 0 and 1"),
    "softmax, first column": (lambda z: torch.softmax(z, dim=1)[:, 0], 2, "should belong to the second class"),
    "softmax, first of split": (lambda z: torch.softmax(z, dim=1).unbind(1)[0], 2, "belong to the second class"),
    "softplus": (functional.softplus, 1, "none of them is negative"),
    "relu": (torch.relu, 3, "none of them is negative"),
    "-softplus": (lambda z: -functional.softplus(z), 1, "none of them is positive"),
    "tanh": (torch.tanh, 1, "the model ends in tanh"),
    "sorted": (lambda z: z.sort(dim=1)[0], 3, "the model ends in sort"),
}


@pytest.mark.parametrize("name", UNCLEAR)
def test_outputs_that_cannot_be_told_are_asked_about(registry: Registry, tmp_path: Path, name: str) -> None:
    end, outputs, said = UNCLEAR[name]
    with pytest.raises(ModelRefused, match="cannot be told whether the model's outputs are logits") as caught:
        register(registry, program(tmp_path, end, outputs))
    assert said in str(caught.value.got)
    assert "--outputs" in str(caught.value.next_step)
    assert not registry.root.exists()


@pytest.mark.parametrize(
    ("name", "meaning"),
    [("sigmoid by hand", "probabilities"), ("tanh", "logits"), ("a sigmoid per class", "logits")],
)
def test_outputs_that_are_stated_are_taken_where_nothing_contradicts(
    registry: Registry, tmp_path: Path, name: str, meaning: Outputs
) -> None:
    end, outputs, _ = UNCLEAR[name]
    found = register(registry, program(tmp_path, end, outputs), outputs=meaning)
    assert found.signature.outputs == meaning
    np.testing.assert_allclose(probabilities(registry, found), expected(end, outputs, meaning), rtol=0, atol=2e-6)


def test_linear_layer_whose_only_output_may_be_a_probability_is_asked_about(registry: Registry, tmp_path: Path) -> None:
    layer = nn.Linear(3, 1)
    layer.weight.data.zero_()
    layer.bias.data.fill_(0.4)
    state = nn.Sequential(layer).state_dict()
    torch.save({"state_dict": state, "architecture": "mlp:relu"}, tmp_path / "m.pt")
    with pytest.raises(ModelRefused, match="cannot be told"):
        register(registry, tmp_path / "m.pt")
    assert register(registry, tmp_path / "m.pt", outputs="logits").signature.outputs == "logits"


def test_sums_of_one_in_a_few_rows_may_be_a_coincidence(registry: Registry, tmp_path: Path) -> None:
    path = program(tmp_path, lambda z: z.exp() / z.exp().sum(dim=1, keepdim=True), 3)
    with pytest.raises(ModelRefused, match="cannot be told") as caught:
        register(registry, path, examples=pa.table(dict(zip(FEATURES, ROWS[:3].numpy().T, strict=True))))
    assert "coincidence" in str(caught.value.got)


# What contradicts is refused


@pytest.mark.parametrize(
    ("name", "stated"),
    [
        ("one logit", "probabilities"),
        ("linear", "probabilities"),
        ("one logit", "log_probabilities"),
        ("a sigmoid per class", "probabilities"),
        ("sigmoid", "logits"),
        ("logsigmoid", "logits"),
        ("softmax", "logits"),
        ("softmax by hand", "logits"),
        ("softmax", "log_probabilities"),
    ],
)
def test_outputs_that_contradict_what_was_stated_are_refused(
    registry: Registry, tmp_path: Path, name: str, stated: str
) -> None:
    end, outputs, _ = (CERTAIN | UNCLEAR)[name]
    with pytest.raises(ModelRefused, match=f"the model's outputs are not {stated.replace('_', '-')}"):
        register(registry, program(tmp_path, end, outputs), outputs=stated)


@pytest.mark.parametrize(
    ("end", "outputs", "step"),
    [
        (lambda z: z.argmax(dim=1).float(), 3, "argmax"),
        (lambda z: z.max(dim=1).indices.float(), 3, "the index of max"),
        (lambda z: torch.round(torch.sigmoid(z)), 1, "round"),
        (lambda z: (z > 0).float(), 1, "gt"),
        (lambda z: functional.one_hot(z.argmax(dim=1), 3).float(), 3, "one_hot"),
    ],
)
def test_outputs_that_are_classes_are_refused_whatever_is_stated(
    registry: Registry, tmp_path: Path, end: End, outputs: int, step: str
) -> None:
    stated: tuple[dict[str, str], ...] = ({}, {"outputs": "probabilities"})
    for entries in stated:
        with pytest.raises(ModelRefused, match="outputs classes, not scores") as caught:
            register(registry, program(tmp_path, end, outputs), **entries)
        assert step in str(caught.value.got)


def test_outputs_that_are_integers_are_refused_as_classes(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="whole numbers, which are classes"):
        register(registry, program(tmp_path, lambda z: z.argmax(dim=1), 3))


def test_outputs_that_look_like_classes_are_asked_about(registry: Registry, tmp_path: Path) -> None:
    path = program(tmp_path, lambda z: torch.where(z > 0, 3.0, -2.0), 1)
    with pytest.raises(ModelRefused, match="cannot be told") as caught:
        register(registry, path)
    assert "whole numbers, as classes are" in str(caught.value.got)


def test_softmax_of_a_single_output_is_refused(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="same for all rows"):
        register(registry, program(tmp_path, lambda z: torch.softmax(z, dim=1), 1))


def test_softmax_over_the_rows_is_no_softmax_over_the_classes(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match=r"cannot be told|depends on the other rows"):
        register(registry, program(tmp_path, lambda z: torch.softmax(z, dim=0), 3))


@pytest.mark.parametrize("task", [{"task": "regression"}, {"task": "ranking", "classes": (0, 1), "top": 1}])
def test_outputs_of_other_tasks_cannot_be_stated(task: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="`outputs` belongs to a classification or multilabel"):
        Signature.model_validate({"features": ("a",), "outputs": "logits", **task})


# The training code's own outputs decide


def examples(second: torch.Tensor) -> pa.Table:
    columns = dict(zip(FEATURES, ROWS.numpy().T, strict=True))
    return pa.table({**columns, "prob_class_1": second.numpy()})


@pytest.mark.parametrize("name", ["sigmoid by hand", "softmax, first column", "tanh"])
@pytest.mark.parametrize("meaning", ["logits", "probabilities"])
def test_golden_outputs_decide_what_cannot_be_told(
    registry: Registry, tmp_path: Path, name: str, meaning: Outputs
) -> None:
    end, outputs, _ = UNCLEAR[name]
    second = torch.from_numpy(expected(end, outputs, meaning)[:, 1])
    found = register(registry, program(tmp_path, end, outputs), examples=examples(second))
    assert found.signature.outputs == meaning
    np.testing.assert_allclose(probabilities(registry, found)[:, 1], second, rtol=0, atol=2e-6)


def test_golden_outputs_prove_even_logits_that_are_a_softmax(registry: Registry, tmp_path: Path) -> None:
    second = torch.softmax(torch.softmax(scores(ROWS, 2), 1), 1)[:, 1]  # trained with CrossEntropyLoss on a softmax
    path = program(tmp_path, lambda z: torch.softmax(z, dim=1), 2)
    found = register(registry, path, examples=examples(second), outputs="logits")
    np.testing.assert_allclose(probabilities(registry, found)[:, 1], second.numpy(), rtol=0, atol=1e-6)


def test_golden_outputs_contradict_what_was_stated(registry: Registry, tmp_path: Path) -> None:
    path = program(tmp_path, lambda z: 1 / (1 + torch.exp(-z)), 1)
    right = examples(torch.sigmoid(scores(ROWS, 1))[:, 0])
    with pytest.raises(ModelRefused, match="are not logits") as caught:
        register(registry, path, examples=right, outputs="logits")
    assert "probabilities, by the outputs in the golden batch" in str(caught.value.got)


def test_golden_outputs_that_no_meaning_reproduces_are_refused_as_before(registry: Registry, tmp_path: Path) -> None:
    path = program(tmp_path, lambda z: 1 / (1 + torch.exp(-z)), 1)
    with pytest.raises(ModelRefused, match="does not reproduce the examples' prob_class_1"):
        register(registry, path, examples=examples(torch.rand(200)))


# Versions registered before, and what is shown


def test_signature_with_logits_has_the_digest_of_before() -> None:
    signature = Signature(features=("a", "b"), classes=(0, 1), outputs="logits")
    before = b'{"classes":[0,1],"features":["a","b"],"task":"classification"}'
    wanted = hashlib.sha256(b"model.pt\x007\x00weightssignature\x00" + before).hexdigest()
    assert manifests.digest({"model.pt": b"weights"}, signature) == wanted


def registered_before(registry: Registry, path: Path, outputs: int, monkeypatch: pytest.MonkeyPatch) -> Manifest:
    """Registers a program as versions of Lakescore did that took all outputs for logits."""
    from pipeline.model import output_meaning

    with monkeypatch.context() as patched:
        patched.setattr(
            output_meaning, "settle", lambda predictor, *_arguments, **_options: (predictor.signature, None)
        )
        return register(registry, path, classes=tuple(range(max(outputs, 2))))


def test_version_registered_before_keeps_its_meaning(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = program(tmp_path, lambda z: torch.softmax(z, dim=1), 3)
    before = registered_before(registry, path, 3, monkeypatch)
    twice = torch.softmax(torch.softmax(scores(ROWS, 3), 1), 1).numpy()
    np.testing.assert_allclose(probabilities(registry, before), twice, rtol=0, atol=1e-6)
    with pytest.raises(ModelRefused, match="outputs were taken as logits, but are probabilities"):
        register(registry, path)
    assert register(registry, path, version="v2").signature.outputs == "probabilities"


def test_version_registered_before_is_the_same_if_log_probabilities_were_taken_as_logits(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = program(tmp_path, lambda z: functional.log_softmax(z, dim=1), 3)
    before = registered_before(registry, path, 3, monkeypatch)
    assert register(registry, path) == before
    wanted = torch.softmax(scores(ROWS, 3), 1).numpy()
    np.testing.assert_allclose(probabilities(registry, before), wanted, rtol=0, atol=1e-6)


def test_commands_say_what_was_taken_and_why(cli: Cli, tmp_path: Path) -> None:
    path = program(tmp_path, torch.sigmoid, 1)
    names = ("--name", "m", "--version", "v1", "--features", "a,b,c")
    said = "probabilities (the model ends in sigmoid)"
    assert f"outputs: {said}" in cli("models", "register", path, *names).stdout
    assert said in cli("models", "show", "m").stdout
    refused = cli("models", "register", path, *names, "--outputs", "logits", expect=ModelRefused)
    assert "the model ends in sigmoid" in refused.stderr
    refused = cli("models", "register", path, *names, "--outputs", "logit", expect=ModelRefused)
    assert "`outputs`" in refused.stderr


# Rows that a model cannot take


class Logarithm(nn.Module):
    """Takes positive numbers only."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Ends(lambda z: z, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(torch.log(x))


class Indexed(nn.Module):
    """Takes 0 to 3 as its first feature."""

    def __init__(self) -> None:
        super().__init__()
        self.colour = nn.Embedding(4, 1)
        self.body = Ends(lambda z: z, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(torch.cat([self.colour(x[:, 0].long()), x[:, 1:]], dim=1))


def training_file(path: Path, rows: int = 500) -> Path:
    rng = np.random.default_rng(1)
    columns = {name: np.round(rng.lognormal(0, 1, rows).astype(np.float32), 3) for name in FEATURES}
    pq.write_table(pa.table({**columns, "a": rng.integers(1, 4, rows).astype(np.float32)}), path)
    return path


def test_nan_for_drawn_rows_is_said_and_names_golden(registry: Registry, tmp_path: Path) -> None:
    path = export(tmp_path / "m.pt2", Logarithm().eval())
    with pytest.raises(ModelRefused, match=r"outputs for \d+ of 256 drawn rows are NaN or infinite") as caught:
        register(registry, path)
    assert "--golden" in str(caught.value.next_step)
    assert "--baseline" in str(caught.value.next_step)


@pytest.mark.parametrize("module", [Logarithm, Indexed])
def test_golden_rows_are_drawn_from_the_values_of_the_baseline(
    registry: Registry, tmp_path: Path, module: type[nn.Module]
) -> None:
    path, training = export(tmp_path / "m.pt2", module().eval()), training_file(tmp_path / "t.parquet")
    found = register(registry, path, training=training)
    content = registry.golden(found)
    assert content is not None
    golden, given = pq.read_table(pa.BufferReader(content)), pq.read_table(training)
    assert golden.num_rows == 256
    for name in FEATURES:
        assert set(golden[name].to_pylist()) <= set(given[name].to_pylist())
    rows = {tuple(row[name] for name in FEATURES) for row in golden.to_pylist()}
    assert not rows & {tuple(row[name] for name in FEATURES) for row in given.to_pylist()}, "a row of a person is kept"


def test_baseline_for_which_a_model_gives_nan_names_golden(registry: Registry, tmp_path: Path) -> None:
    path = export(tmp_path / "m.pt2", Logarithm().eval())
    pq.write_table(pa.table({name: -np.arange(1.0, 50) for name in FEATURES}), tmp_path / "t.parquet")
    with pytest.raises(ModelRefused, match="of the training data are NaN or infinite") as caught:
        register(registry, path, training=tmp_path / "t.parquet")
    assert "--golden" in str(caught.value.next_step)


def test_golden_rows_for_which_a_model_gives_nan_are_refused(registry: Registry, tmp_path: Path) -> None:
    path = export(tmp_path / "m.pt2", Logarithm().eval())
    given = pa.table({name: np.array([1.0, -1.0, 2.0]) for name in FEATURES})
    with pytest.raises(ModelRefused, match="outputs for 1 of 3 rows of the golden batch are NaN or infinite"):
        register(registry, path, examples=given)


class Picky(nn.Module):
    """Pickled by the tests; its code refuses some rows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool((x < 0).any()):
            raise ValueError("an age is not negative")
        return x[:, :2]


TASKS: list[dict[str, Any]] = [{}, {"task": "regression", "variance": "variance"}]


@pytest.mark.parametrize("task", TASKS, ids=["classification", "regression"])
def test_rows_that_a_model_cannot_be_run_on_are_said(registry: Registry, tmp_path: Path, task: dict[str, Any]) -> None:
    torch.save(Picky(), tmp_path / "m.pt")
    card = Card(task, trusted=hashlib.sha256((tmp_path / "m.pt").read_bytes()).hexdigest())
    with pytest.raises(ModelRefused, match="cannot be run on drawn rows") as caught:
        registry.register(tmp_path / "m.pt", name="m", version="v1", features=FEATURES, card=card)
    assert "an age is not negative" in str(caught.value.got)
    assert "--golden" in str(caught.value.next_step)
    path = export(tmp_path / "m.pt2", Indexed().eval())
    with pytest.raises(ModelError, match="looks up an index that it does not have") as unknown:
        register(registry, path, **task)
    assert "--golden" in str(unknown.value.next_step)
