"""Files of bare weights with a named architecture, and pickled modules, which are trusted only by a pinned digest."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pipeline.errors import JobError, ModelMismatch, ModelRefused
from pipeline.job.loading import find_job
from pipeline.model.card import Card
from pipeline.model.registry import Registry
from pipeline.records import State
from tests.workspace import Workspace

X = np.random.default_rng(2).normal(size=(40, 2)).astype(np.float32)


def network(activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(2, 8), activation(), nn.Linear(8, 8), activation(), nn.Linear(8, 2)).eval()


def expected(module: nn.Module) -> Any:
    with torch.inference_mode():
        return torch.softmax(module(torch.from_numpy(X)), 1)[:, 1].numpy()


def scored(registry: Registry, version: str = "v1", trusted: str | None = None) -> Any:
    return registry.load(registry.resolve("m", version), "cpu", trusted).predict(X, 16)["prob_class_1"]


def register(registry: Registry, path: Path, card: Card = Card(), features: Any = ("a", "b")) -> Any:  # noqa: B008
    return registry.register(path, name="m", version="v1", features=features, card=card)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "models")


@pytest.mark.parametrize(("name", "kind"), [("tanh", nn.Tanh), ("gelu", nn.GELU), ("silu", nn.SiLU), ("elu", nn.ELU)])
def test_safetensors_with_a_named_architecture_give_its_outputs(
    registry: Registry, tmp_path: Path, name: str, kind: type[nn.Module]
) -> None:
    module = network(kind)
    metadata = {"architecture": f"mlp:{name}", "features": '["a", "b"]', "classes": "no,yes", "version": "7"}
    save_file(module.state_dict(), tmp_path / "m.safetensors", metadata=metadata)
    manifest = register(registry, tmp_path / "m.safetensors", features=None)
    assert (manifest.kind, manifest.signature.architecture) == ("safetensors", f"mlp:{name}")
    assert (manifest.signature.features, manifest.signature.classes) == (("a", "b"), ("no", "yes"))
    assert manifest.recorded_version == "7"
    np.testing.assert_allclose(scored(registry), expected(module), rtol=0, atol=1e-6)


@pytest.mark.slow
def test_safetensors_of_more_than_ten_layers_run_in_the_order_of_their_numbers(
    registry: Registry, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Linear(2, 4)]
    for _ in range(11):
        layers += [nn.ReLU(), nn.Linear(4, 4)]
    module = nn.Sequential(*layers, nn.ReLU(), nn.Linear(4, 2)).eval()
    save_file(module.state_dict(), tmp_path / "m.safetensors")
    register(registry, tmp_path / "m.safetensors", Card(signature={"architecture": "mlp:relu"}))
    np.testing.assert_allclose(scored(registry), expected(module), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("names", "metadata", "architecture", "said"),
    [
        ("0 2 4", {}, None, "nothing else says which network these weights belong to"),
        ("0 2 4", {"architecture": "mlp:tanh"}, "mlp:relu", "names another architecture"),
        ("0 2 4", {"architecture": "resnet"}, None, "no architecture is called 'resnet'"),
        ("0 2 4", {"architecture": "mlp:than"}, None, "did you mean 'mlp:tanh'"),
        ("one two three", {"architecture": "mlp:tanh"}, None, "order of the layers is unknown"),
        ("one two three", {"architecture": "mlp:tanh", "layers": '["one", "two"]'}, None, "order of the layers"),
    ],
)
def test_safetensors_that_do_not_say_enough_are_refused(
    registry: Registry, tmp_path: Path, names: str, metadata: Any, architecture: Any, said: str
) -> None:
    renamed = dict(zip("024", names.split(), strict=True))
    state = {f"{renamed[key[0]]}{key[1:]}": value for key, value in network().state_dict().items()}
    save_file(state, tmp_path / "m.safetensors", metadata=metadata)
    with pytest.raises(ModelRefused, match=said):
        register(registry, tmp_path / "m.safetensors", Card(signature={"architecture": architecture}))


def test_safetensors_with_listed_layers_run_in_that_order(registry: Registry, tmp_path: Path) -> None:
    module = network()
    renamed = {"0": "third", "2": "first", "4": "second"}
    state = {f"{renamed[key[0]]}{key[1:]}": value for key, value in module.state_dict().items()}
    metadata = {"architecture": "mlp:tanh", "layers": json.dumps(["third", "first", "second"])}
    save_file(state, tmp_path / "m.safetensors", metadata=metadata)
    register(registry, tmp_path / "m.safetensors")
    np.testing.assert_allclose(scored(registry), expected(module), rtol=0, atol=1e-6)


def test_damaged_safetensors_are_refused(registry: Registry, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file(network().state_dict(), path, metadata={"architecture": "mlp:tanh"})
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ModelRefused, match="not a valid safetensors file"):
        register(registry, path)


def test_checkpoint_with_another_activation_is_rebuilt_with_it(registry: Registry, tmp_path: Path) -> None:
    module = network()
    torch.save({"state_dict": module.state_dict(), "activation": "tanh"}, tmp_path / "m.pt")
    with pytest.raises(ModelRefused, match="--architecture mlp:tanh"):
        register(registry, tmp_path / "m.pt")
    relu = registry.register(
        _plain(tmp_path, module), name="m", version="relu", features=("a", "b"), card=Card(assume_mlp=True)
    )
    tanh = register(registry, tmp_path / "m.pt", Card(signature={"architecture": "mlp:tanh"}))
    assert tanh.digest != relu.digest
    np.testing.assert_allclose(scored(registry), expected(module), rtol=0, atol=1e-6)
    assert not np.allclose(scored(registry, "relu"), expected(module), atol=1e-3)


def _plain(folder: Path, module: nn.Module) -> Path:
    torch.save(module.state_dict(), folder / "plain.pt")
    return folder / "plain.pt"


class MixesRows(nn.Module):
    """Subtracts the batch's mean, so that a row's output depends on the other rows."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.out(x - x.mean(dim=0))
        return result


@pytest.mark.slow
def test_model_whose_rows_depend_on_each_other_is_refused(registry: Registry, tmp_path: Path) -> None:
    from tests.model.programs import export

    with pytest.raises(ModelRefused, match="depends on the other rows"):
        register(registry, export(tmp_path / "m.pt2", MixesRows(), 2))


# Pickled modules


def pickled(path: Path, module: nn.Module) -> tuple[Path, str]:
    torch.save(module, path)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def test_pickled_module_is_refused_unless_its_file_is_pinned(registry: Registry, tmp_path: Path) -> None:
    path, sha256 = pickled(tmp_path / "m.pth", network())
    with pytest.raises(ModelRefused, match="contains pickled code; it was not run"):
        register(registry, path)
    with pytest.raises(ModelRefused, match="sha256 is pinned"):
        register(registry, path, Card(trusted="0" * 64))
    manifest = register(registry, path, Card(trusted=sha256))
    assert manifest.kind == "pickled"
    for trusted in (None, sha256, "0" * 64):
        with pytest.raises(ModelRefused, match="contains code, and the job does not trust it"):
            registry.load(manifest, "cpu", trusted)
    np.testing.assert_allclose(scored(registry, trusted=manifest.digest), expected(network()), rtol=0, atol=1e-6)


@pytest.mark.slow
def test_job_runs_a_pickled_module_only_with_trust_and_digest(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    path, sha256 = pickled(tmp_path / "m.pth", network())
    registry = Registry(Path(workspace.settings.models))
    manifest = registry.register(
        path, name="toy", version="v1", features=("a", "b"), alias="production", card=Card(trusted=sha256)
    )
    workspace.day(20)
    folder = workspace.job()
    text = (folder / "job.toml").read_text()
    with pytest.raises(ModelRefused, match="contains code"):
        workspace.run()

    def pinned(lines: str) -> None:
        (folder / "job.toml").write_text(text.replace('name = "toy"', f'name = "toy"\n{lines}'))

    pinned("trust_code = true")
    with pytest.raises(JobError, match="`trust_code` also needs the model's `digest`"):
        find_job("toy", workspace.settings)
    pinned(f'trust_code = true\ndigest = "{"0" * 64}"')
    with pytest.raises(ModelMismatch, match="does not have the digest that the job pins"):
        workspace.run()
    pinned(f'trust_code = true\ndigest = "{manifest.digest}"')
    assert workspace.complete().state is State.complete


def test_job_that_pins_a_digest_stops_when_the_alias_moves(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.model()
    workspace.day(20)
    digest = Registry(Path(workspace.settings.models)).resolve("toy", "v1").digest
    folder = workspace.job()
    job = folder / "job.toml"
    job.write_text(job.read_text().replace('name = "toy"', f'name = "toy"\ndigest = "{digest}"'))
    workspace.complete()
    workspace.model("v2", seed=1)
    with pytest.raises(ModelMismatch, match="does not have the digest that the job pins"):
        workspace.run()
