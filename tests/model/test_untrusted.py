"""Files that try to run code: each writes a marker if it does. Each attack is proved to work against torch itself."""

from __future__ import annotations

import hashlib
import json
import pickle
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner, Result

from pipeline.api.scorer import Scorer
from pipeline.cli.commands import command_line
from pipeline.errors import JobError, ModelMismatch, ModelRefused, QualityStop
from pipeline.model.card import Card
from pipeline.model.manifest import digest
from pipeline.model.registry import Registry
from tests.model.programs import export, tampered
from tests.workspace import DAY, Workspace


class Marks:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


class MarkingModule(nn.Sequential):
    """A module that works, and touches a file when it is unpickled."""

    mark: Path

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (str(self.mark), self.state_dict())


def _rebuilt(mark: str, state: dict[str, torch.Tensor]) -> nn.Module:
    Path(mark).touch()
    module = _network()
    module.load_state_dict(state)
    return module


def _network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 2)).eval()


def _marking(mark: Path) -> MarkingModule:
    torch.manual_seed(0)
    module = MarkingModule(*_network())
    module.mark = mark
    return module


def pickled_object(folder: Path, mark: Path) -> Path:
    """A checkpoint whose state dict contains code as well as weights."""
    torch.save({"model_state_dict": _network().state_dict(), "optimizer": Marks(mark)}, folder / "m.pt")
    return folder / "m.pt"


def pickled_module(folder: Path, mark: Path) -> Path:
    torch.save(_marking(mark), folder / "m.pt")
    return folder / "m.pt"


def bare_pickle(folder: Path, mark: Path) -> Path:
    """A bare pickle, not made by torch, as joblib or cloudpickle would write it."""
    (folder / "m.pt").write_bytes(pickle.dumps(Marks(mark)))
    return folder / "m.pt"


def old_checkpoint(folder: Path, mark: Path) -> Path:
    torch.save({"state_dict": Marks(mark)}, folder / "m.pt", _use_new_zipfile_serialization=False)
    return folder / "m.pt"


def program_with(folder: Path, edit: Callable[[str, Any], Any]) -> Path:
    path = export(folder / "m.pt2", _network(), 2)
    path.write_bytes(tampered(path, edit))
    return path


def pickled_weights(folder: Path, mark: Path) -> Path:
    def edit(name: str, content: Any) -> Any:
        if name.endswith("weights_config.json"):
            next(iter(content["config"].values()))["use_pickle"] = True
        return pickle.dumps(Marks(mark)) if name.endswith("weights/weight_0") else content

    return program_with(folder, edit)


def program_called_checkpoint(folder: Path, mark: Path) -> Path:
    """A program's archive that torch.load would also accept as a checkpoint."""
    path = pickled_weights(folder, mark)
    with zipfile.ZipFile(path, "a") as archive:
        root = archive.namelist()[0].partition("/")[0]
        archive.writestr(f"{root}/data.pkl", pickle.dumps(Marks(mark)))
    return path


ATTACKS = [pickled_object, pickled_module, bare_pickle, old_checkpoint, pickled_weights, program_called_checkpoint]
Attack = Callable[[Path, Path], Path]


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """The marker file that an attack writes. It must not exist at the end; tests that expect it remove it."""
    path = tmp_path / "executed"
    yield path
    assert not path.exists(), "code in the file was run"


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.chdir(tmp_path)
    made = Workspace(tmp_path)
    made.job()
    made.day(20)
    return made


def command(*arguments: str) -> Result:
    return CliRunner().invoke(command_line(), [*arguments])


def load_as_torch_does(path: Path) -> None:
    if path.suffix == ".pt2":
        torch.export.load(path)
    else:
        torch.load(path, weights_only=False)


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.filterwarnings("ignore")
def test_attack_is_one_for_torch_itself(attack: Attack, tmp_path: Path, mark: Path) -> None:
    path = attack(tmp_path, mark)
    with suppress(Exception):  # depends on what torch does with the code's result
        load_as_torch_does(path)
    assert mark.exists()
    mark.unlink()


@pytest.mark.parametrize("attack", ATTACKS)
def test_register_refuses_a_file_with_code_and_does_not_run_it(
    attack: Attack, workspace: Workspace, mark: Path
) -> None:
    path = attack(workspace.root, mark)
    done = command("models", "register", str(path), "--name=m", "--version=v1", "--features=a,b")
    assert isinstance(done.exception, ModelRefused), done.output
    assert not Path(workspace.settings.models).exists()


@pytest.mark.parametrize("attack", ATTACKS)
def test_register_with_another_digest_does_not_run_it(attack: Attack, workspace: Workspace, mark: Path) -> None:
    path = attack(workspace.root, mark)
    options = ("--name=m", "--version=v1", "--features=a,b", f"--trust-code={'0' * 64}")
    done = command("models", "register", str(path), *options)
    assert isinstance(done.exception, ModelRefused), done.output


def replace_model(workspace: Workspace, attack: Attack, mark: Path, *, kind: str | None = None) -> str:
    """Registers a harmless model, then replaces it by an attack, as anybody with write access to the registry could.

    If `kind` is given, model.json is forged to match. Returns the digest of the attack as a model.
    """
    workspace.model()
    folder = Path(workspace.settings.models) / "toy" / "v1"
    content = attack(workspace.root, mark).read_bytes()
    (folder / "model.pt").write_bytes(content)
    registry = Registry(Path(workspace.settings.models))
    found = digest({"model.pt": content}, registry.resolve("toy", "v1").signature)
    if kind is not None:
        document = json.loads((folder / "model.json").read_bytes())
        (folder / "model.json").write_text(json.dumps({**document, "kind": kind, "digest": found}))
    return found


def loads(workspace: Workspace) -> Iterator[Callable[[], object]]:
    """Yields every way to load a registered model."""
    yield workspace.run
    yield lambda: Scorer.load("toy", models=workspace.settings.models)
    arguments = ("score", str(workspace.lake / "unscored" / f"ds={DAY}" / "data.parquet"), "out.parquet")
    yield lambda: raised(command(*arguments, "--model", "toy"))
    yield lambda: raised(command(*arguments, "--job", "toy"))


def raised(result: Result) -> None:
    if result.exception is not None:
        raise result.exception


@pytest.mark.parametrize("attack", ATTACKS)
def test_registered_file_that_was_replaced_is_not_run(attack: Attack, workspace: Workspace, mark: Path) -> None:
    replace_model(workspace, attack, mark)
    for load in loads(workspace):
        with pytest.raises(ModelMismatch, match="digest differs"):
            load()
    assert isinstance(command("verify").exception, QualityStop)
    assert isinstance(command("models", "show", "toy").exception, ModelMismatch)


@pytest.mark.parametrize("kind", ["checkpoint", "program", "safetensors", "pickled"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_registered_file_with_a_forged_manifest_is_not_run(
    attack: Attack, kind: str, workspace: Workspace, mark: Path
) -> None:
    replace_model(workspace, attack, mark, kind=kind)
    for load in loads(workspace):
        with pytest.raises(ModelRefused):
            load()


def test_job_without_a_digest_cannot_trust_and_another_digest_does_not(workspace: Workspace, mark: Path) -> None:
    job = workspace.settings.jobs / "toy" / "job.toml"
    text = job.read_text()

    def pin(lines: str) -> None:
        job.write_text(text.replace('name = "toy"', f'name = "toy"\n{lines}'))

    found = replace_model(workspace, pickled_module, mark, kind="pickled")
    pin("trust_code = true")
    with pytest.raises(JobError, match="also needs the model's `digest`"):
        workspace.run()
    pin(f'trust_code = true\ndigest = "{"0" * 64}"')
    with pytest.raises(ModelMismatch, match="does not have the digest that the job pins"):
        workspace.run()
    pin(f'digest = "{found}"')
    with pytest.raises(ModelRefused, match="the job does not trust it"):
        workspace.run()
    assert not mark.exists()
    pin(f'trust_code = true\ndigest = "{found}"')
    with pytest.raises(QualityStop, match="golden_batch"):  # it is not the registered model
        workspace.run()
    assert mark.exists(), "trusted and pinned, it is run: the tests above can fail"
    mark.unlink()


def test_registering_a_trusted_module_needs_the_digest_of_its_file(workspace: Workspace, mark: Path) -> None:
    path = pickled_module(workspace.root, mark)
    registry = Registry(Path(workspace.settings.models))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    for trusted in (None, "0" * 64, sha256[:-1]):
        with pytest.raises(ModelRefused):
            registry.register(path, name="m", version="v1", features=("a", "b"), card=Card(trusted=trusted))
    assert not mark.exists()
    registry.register(path, name="m", version="v1", features=("a", "b"), card=Card(trusted=sha256))
    assert mark.exists()
    mark.unlink()
