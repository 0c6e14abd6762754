"""What a file of weights does not say about its network is asked, not guessed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pipeline.errors import ModelRefused
from pipeline.model.card import Card
from pipeline.model.registry import Registry
from tests.calling import Cli
from tests.model.networks import DIMENSIONS, classifier, save, save_classifier
from tests.model.programs import export

FEATURES = ("a", "b", "c")
X = np.random.default_rng(5).normal(size=(40, 3)).astype(np.float32)
NOBODY = "nothing else says which network these weights belong to"


class Stack(nn.Module):
    """Three linear layers, of which subclasses make something else than a plain stack."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(x)))))
        return result


class Residual(Stack):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.fc1(x))
        result: torch.Tensor = self.fc3(hidden + torch.relu(self.fc2(hidden)))
        return result


class OtherOrder(Stack):
    """Runs its second layer first."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.fc3(torch.relu(self.fc1(torch.relu(self.fc2(x)))))
        return result


class LastSoftplus(Stack):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.softplus(super().forward(x))


class Tanh(Stack):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.fc3(torch.tanh(self.fc2(torch.tanh(self.fc1(x)))))
        return result


class Embedded(nn.Module):
    """A table of which the first column chooses a row; its weight has the shape of a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.fc0 = nn.Embedding(2, 3)
        self.fc1 = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.fc1(self.fc0((x[:, 0] > 0).long())[:, :2] * x[:, 1:])
        return result


class Autoencoder(nn.Module):
    """Scores a row by how well it is reconstructed; its layers chain, and their last width is that of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(3, 2), nn.Linear(2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = -((self.fc2(torch.relu(self.fc1(x))) - x) ** 2)
        return result


OTHERS: list[type[nn.Module]] = [Residual, OtherOrder, LastSoftplus, Tanh, Embedded, Autoencoder]


def made(kind: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return kind().eval()


def probabilities(module: nn.Module, matrix: Any = X) -> Any:
    with torch.inference_mode():
        return torch.softmax(module(torch.from_numpy(matrix)), 1).numpy()


def golden(module: nn.Module, matrix: Any = X, columns: tuple[int, ...] | None = None) -> pa.Table:
    """Returns rows with the outputs of the training code; `columns` are the classes whose probabilities are given."""
    found = probabilities(module, matrix)
    rows = {name: matrix[:, index] for index, name in enumerate(FEATURES)}
    return pa.table(rows | {f"prob_class_{index}": found[:, index] for index in columns or range(found.shape[1])})


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "models")


def register(registry: Registry, path: Path, version: str = "v1", *, assume: bool = False, **more: Any) -> str:
    """Registers a file and returns how its structure is known."""
    architecture = more.pop("architecture", None)
    signature = {} if architecture is None else {"architecture": architecture}
    card = Card(signature=signature, assume_mlp=assume)
    manifest = registry.register(path, name="m", version=version, features=FEATURES, card=card, **more)
    assert manifest.provenance is not None
    return manifest.provenance.details["structure"]


def checkpoint(folder: Path, module: nn.Module, **entries: object) -> Path:
    return save(folder / "m.pt", {"model_state_dict": module.state_dict(), **entries})


@pytest.mark.parametrize("kind", [Stack, *OTHERS])
def test_bare_weights_are_asked_for_their_structure(registry: Registry, tmp_path: Path, kind: type[nn.Module]) -> None:
    with pytest.raises(ModelRefused, match=NOBODY) as caught:
        register(registry, checkpoint(tmp_path, made(kind)))
    assert "layers fc" in str(caught.value.got)
    for way in ("torch.export", "--golden", "--architecture mlp:relu", "--assume-mlp"):
        assert way in str(caught.value.next_step)
    assert not (tmp_path / "models" / "m").exists()


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("how", [{}, {"assume": True}, {"architecture": "mlp:relu"}], ids=str)
def test_other_networks_are_refused_by_the_outputs_of_the_training_code(
    registry: Registry, tmp_path: Path, kind: type[nn.Module], how: Any
) -> None:
    """However sure the caller is, and whatever the file states: the outputs decide."""
    module = made(kind)
    outputs = module(torch.zeros(1, 3)).shape[1]
    path = checkpoint(tmp_path, module, input_dim=3, output_dim=outputs)
    with pytest.raises(ModelRefused, match="does not reproduce the examples' prob_class"):
        register(registry, path, examples=golden(module), **how)


def test_outputs_of_the_training_code_confirm_the_structure(registry: Registry, tmp_path: Path) -> None:
    said = register(registry, checkpoint(tmp_path, made(Stack)), examples=golden(made(Stack)))
    assert said == ("mlp:relu, which reproduces the outputs in the golden batch: fc1 3 to 3, fc2 3 to 3, fc3 3 to 2")
    found = registry.load(registry.resolve("m", "v1"), "cpu").predict(X, 16)
    np.testing.assert_allclose(found["prob_class_1"], probabilities(made(Stack))[:, 1], rtol=0, atol=1e-6)


def test_one_of_two_probabilities_is_enough(registry: Registry, tmp_path: Path) -> None:
    said = register(registry, checkpoint(tmp_path, made(Stack)), examples=golden(made(Stack), columns=(1,)))
    assert "reproduces the outputs" in said


def saturated() -> nn.Module:
    """A network whose probabilities are all 0 or 1, as those of a network without scaling often are."""
    module = made(Stack)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(40)
    return module


@pytest.mark.parametrize(
    ("module", "rows", "said"),
    [
        (made(Stack), golden(made(Stack)).drop_columns(["prob_class_0", "prob_class_1"]), NOBODY),
        (saturated(), golden(saturated(), X[:3]), "the golden rows do not tell it from"),
    ],
    ids=["no outputs", "saturated"],
)
def test_golden_rows_that_prove_nothing_leave_the_question_open(
    registry: Registry, tmp_path: Path, module: nn.Module, rows: pa.Table, said: str
) -> None:
    with pytest.raises(ModelRefused, match=NOBODY) as caught:
        register(registry, checkpoint(tmp_path, module), examples=rows)
    assert said in str(caught.value)


def test_stated_dimensions_are_taken_as_assumed_and_said(registry: Registry, tmp_path: Path) -> None:
    said = register(registry, save_classifier(tmp_path / "m.pt"))
    assert said.startswith("assumed to be mlp:relu, since the file states its dimensions only: fc1 3 to 8")
    manifest = registry.resolve("m", "v1")
    assert manifest.signature.architecture is None, "the digest is that of models registered earlier"


def test_single_layer_has_no_hidden_dimension_to_state(registry: Registry, tmp_path: Path) -> None:
    path = save(
        tmp_path / "m.pt", {"model_state_dict": {"fc.weight": torch.ones(1, 3)}, "input_dim": 3, "output_dim": 1}
    )
    assert "assumed to be mlp:relu" in register(registry, path)


@pytest.mark.parametrize("missing", DIMENSIONS)
def test_dimensions_must_all_be_stated(registry: Registry, tmp_path: Path, missing: str) -> None:
    entries = {name: value for name, value in DIMENSIONS.items() if name != missing}
    with pytest.raises(ModelRefused, match=NOBODY):
        register(registry, checkpoint(tmp_path, classifier(), **entries))


@pytest.mark.parametrize(
    ("names", "entries", "said"),
    [
        (("fc2", "fc1", "out"), {}, "the numbers in the names of the layers are in another order"),
        (("embedding", "fc1", "out"), {}, "'embedding' is not that of a layer in a plain stack"),
        (("fc1", "shortcut", "out"), {}, "'shortcut'"),
        (("encoder.0", "decoder.0", "decoder.2"), {}, "'decoder.0'"),
        (("fc1", "fc2", "out"), {"architecture": "ResNet"}, "the file names the architecture 'ResNet'"),
        (("fc1", "fc2", "out"), {"arch": "tabnet"}, "the file names the architecture 'tabnet'"),
    ],
)
def test_stated_dimensions_are_not_enough_if_something_speaks_against_a_stack(
    registry: Registry, tmp_path: Path, names: tuple[str, ...], entries: dict[str, str], said: str
) -> None:
    state = dict(zip(("fc1", "fc2", "out"), names, strict=True))
    renamed = {
        f"{state[key.partition('.')[0]]}.{key.partition('.')[2]}": v for key, v in classifier().state_dict().items()
    }
    path = save(tmp_path / "m.pt", {"model_state_dict": renamed, **DIMENSIONS, **entries})
    with pytest.raises(ModelRefused, match=NOBODY) as caught:
        register(registry, path)
    assert said in str(caught.value.got)
    assert "as --architecture says" in register(registry, path, architecture="mlp:relu")


def test_assumed_on_request_is_noted(registry: Registry, tmp_path: Path) -> None:
    said = register(registry, checkpoint(tmp_path, made(Stack)), assume=True)
    assert said == "assumed to be mlp:relu, by --assume-mlp: fc1 3 to 3, fc2 3 to 3, fc3 3 to 2"


def test_nothing_is_assumed_about_a_program(registry: Registry, tmp_path: Path) -> None:
    path = export(tmp_path / "m.pt2", made(Stack))
    with pytest.raises(ModelRefused, match=r"structure of its own(?s:.)*omit --assume-mlp"):
        registry.register(path, name="toy", version="v1", features=("a", "b", "c"), card=Card(assume_mlp=True))


def test_architecture_that_the_file_names_is_taken(registry: Registry, tmp_path: Path) -> None:
    path = checkpoint(tmp_path, made(Tanh), architecture="mlp:tanh")
    assert register(registry, path) == "mlp:tanh, as the file says"
    found = registry.load(registry.resolve("m", "v1"), "cpu").predict(X, 16)
    np.testing.assert_allclose(found["prob_class_1"], probabilities(made(Tanh))[:, 1], rtol=0, atol=1e-6)
    with pytest.raises(ModelRefused, match="names another architecture"):
        register(registry, path, "v2", architecture="mlp:relu")


def test_registering_an_assumed_model_again_asks_nothing(registry: Registry, tmp_path: Path) -> None:
    """A script that registers every night, written before there was a question."""
    path = checkpoint(tmp_path, made(Stack))
    register(registry, path, assume=True)
    assert "assumed" in register(registry, path)
    with pytest.raises(ModelRefused, match=NOBODY):
        register(registry, path, "v2")


# safetensors


def safetensors(folder: Path, module: nn.Module, **metadata: str) -> Path:
    save_file(module.state_dict(), folder / "m.safetensors", metadata=metadata)
    return folder / "m.safetensors"


def test_safetensors_are_asked_likewise(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match=NOBODY):
        register(registry, safetensors(tmp_path, made(Stack)))
    named = safetensors(tmp_path, made(Stack), architecture="mlp:relu")
    assert register(registry, named, "v1") == "mlp:relu, as the file says"
    stated = safetensors(tmp_path, made(Stack), input_dim="3", hidden_dim="3", output_dim="2")
    assert "assumed to be mlp:relu" in register(registry, stated, "v2")
    with pytest.raises(ModelRefused, match="`input_dim` that contradicts its weights"):
        register(registry, safetensors(tmp_path, made(Stack), input_dim="4", hidden_dim="3", output_dim="2"), "v3")
    with pytest.raises(ModelRefused, match="does not reproduce"):
        register(registry, safetensors(tmp_path, made(Residual)), "v3", examples=golden(made(Residual)))
    assert "reproduces" in register(registry, safetensors(tmp_path, made(Stack)), "v3", examples=golden(made(Stack)))


@pytest.mark.parametrize("names", [("enc.0", "dec.0", "dec.1"), ("0", "1", "extra")])
def test_safetensors_whose_layers_could_run_in_two_orders_are_refused(
    registry: Registry, tmp_path: Path, names: tuple[str, ...]
) -> None:
    layers = nn.ModuleList(nn.Linear(3, 3) for _ in names)
    state = {
        f"{name}.{key}": value
        for name, layer in zip(names, layers, strict=True)
        for key, value in layer.state_dict().items()
    }
    path = tmp_path / "m.safetensors"
    save_file(state, path, metadata={"architecture": "mlp:relu"})
    with pytest.raises(ModelRefused, match="order of the layers is unknown"):
        register(registry, path)
    save_file(state, path, metadata={"architecture": "mlp:relu", "layers": json.dumps(names)})
    register(registry, path)


# The command line


def test_command_line_says_what_was_assumed(cli: Cli, tmp_path: Path) -> None:
    def run(*arguments: object, **how: Any) -> Any:
        return cli("models", *arguments, **how)

    path = save_classifier(tmp_path / "stated.pt")
    done = run("register", path, "--name", "m", "--version", "v1", "--features", "a,b,c")
    assert "structure: assumed to be mlp:relu, since the file states its dimensions only" in done.stdout
    assert "assumed to be mlp:relu" in " ".join(run("show", "m", "v1").stdout.split())
    assert "assumed" in json.loads(run("show", "m", "v1", "--json").stdout)["provenance"]["details"]["structure"]

    bare = ("register", checkpoint(tmp_path, classifier()), "--name", "m", "--version", "v2", "--features", "a,b,c")
    refused = run(*bare, expect=ModelRefused)
    assert "--assume-mlp" in refused.stderr
    assert "by --assume-mlp" in run(*bare, "--assume-mlp").stdout
    pq.write_table(golden(classifier()), tmp_path / "golden.parquet")
    again = ("v3" if argument == "v2" else argument for argument in bare)
    assert "mlp:relu, which reproduces" in run(*again, "--golden", tmp_path / "golden.parquet").stdout
