"""Models of a real MLflow registry (a file store): only their files are used, and no code in them is run."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner, Result

from pipeline.cli.commands import command_line
from pipeline.errors import ModelNotFound, ModelRefused, UsageError
from pipeline.model import mlflow as ours
from pipeline.model.registry import Registry

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="the extra mlflow is not installed"),
    pytest.mark.filterwarnings("ignore"),  # MLflow warns about its own code
]

X = np.random.default_rng(4).normal(size=(20, 2)).astype(np.float32)


def network() -> nn.Sequential:
    torch.manual_seed(6)
    return nn.Sequential(nn.Linear(2, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 2)).eval()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the folder in which MLflow stores runs and models; the working directory is beside it."""
    folder = tmp_path / "store"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", folder.as_uri())
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("GIT_PYTHON_REFRESH", "quiet")
    return folder


Log = Callable[[], Any]


def log_pytorch(**how: Any) -> Log:
    import mlflow.pytorch

    return lambda: mlflow.pytorch.log_model(network(), name="model", pip_requirements=["torch"], **how)


def publish(log: Log, name: str = "churn") -> Any:
    """Logs a model in a run with metrics and registers it; returns MLflow's version of it."""
    import mlflow

    with mlflow.start_run():
        mlflow.log_metrics({"auc": 0.93, "loss": 0.25, "broken": float("nan")})
        info = log()
    return mlflow.register_model(info.model_uri, name)


def publish_file(path: Path, name: str = "files") -> Any:
    """Registers a run's artifact without an MLflow flavour."""
    import mlflow

    client = mlflow.MlflowClient()
    with mlflow.start_run() as run:
        mlflow.log_artifact(str(path), "model")
    client.create_registered_model(name)
    return client.create_model_version(name, f"{run.info.artifact_uri}/model", run.info.run_id)


def register(url: str, *options: str) -> Result:
    arguments = ["models", "register", url, "--name=m", "--version=v1", "--features=a,b", *options]
    return CliRunner().invoke(command_line(), arguments)


@pytest.mark.slow
def test_program_of_mlflow_is_registered_and_gives_its_outputs(store: Path) -> None:
    import mlflow

    how = {"serialization_format": "pt2", "input_example": X[:4]}
    version = publish(log_pytorch(**how))
    mlflow.MlflowClient().set_registered_model_alias("churn", "champion", version.version)
    done = register("models:/churn@champion", "--metric", "auc=0.5", "--json")
    assert (done.exit_code, done.exception) == (0, None), done.output
    found = json.loads(done.stdout)
    assert found["kind"] == "program"
    assert found["metrics"] == {"auc": 0.5, "loss": 0.25}
    details = found["provenance"]["details"]
    assert (details["model"], details["run_id"]) == ("models:/churn/1", version.run_id)
    assert found["provenance"]["source"] == f"{store.as_uri()}#models:/churn@champion"
    registry = Registry(Path("models"))
    with torch.inference_mode():
        expected = torch.softmax(network()(torch.from_numpy(X)), 1)[:, 1]
    scored = registry.load(registry.resolve("m", "v1"), "cpu").predict(X, 16)
    np.testing.assert_allclose(scored["prob_class_1"], expected, rtol=0, atol=1e-6)
    assert register("models:/churn/1").exit_code == 0, "the same content by its number is the same model"


@pytest.mark.usefixtures("store")
def test_pickled_module_of_mlflow_is_refused_unless_its_file_is_pinned() -> None:
    publish(log_pytorch(serialization_format="pickle"))
    refused = register("models:/churn/1")
    assert isinstance(refused.exception, ModelRefused)
    assert "without running code" in str(refused.exception)
    with ours.fetched("models:/churn/1", allow_pickled=True) as found:
        sha256 = hashlib.sha256(found.path.read_bytes()).hexdigest()
    other = register("models:/churn/1", "--trust-code", "0" * 64)
    assert isinstance(other.exception, ModelRefused)
    assert not Path("models").exists()
    done = register("models:/churn/1", "--trust-code", sha256, "--json")
    assert (done.exit_code, done.exception) == (0, None), done.output
    assert json.loads(done.stdout)["kind"] == "pickled"


def test_weights_logged_as_a_file_are_registered(store: Path) -> None:
    plain = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2))
    save_file(plain.state_dict(), store.parent / "m.safetensors", metadata={"architecture": "mlp:tanh"})
    publish_file(store.parent / "m.safetensors")
    done = register("models:/files/1", "--json")
    assert (done.exit_code, done.exception) == (0, None), done.output
    assert json.loads(done.stdout)["signature"]["architecture"] == "mlp:tanh"


def test_folder_without_a_model_file_is_refused(store: Path) -> None:
    (store.parent / "model.onnx").write_bytes(b"onnx")
    publish_file(store.parent / "model.onnx")
    refused = register("models:/files/1")
    assert isinstance(refused.exception, ModelRefused)
    assert "model.onnx" in str(refused.exception)


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("url", ["models:/nobody/1", "models:/nobody@champion"])
def test_model_that_mlflow_does_not_have_is_not_found(url: str) -> None:
    with pytest.raises(ModelNotFound, match="MLflow does not provide the model"), ours.fetched(url):
        pass


VERSION_OR_ALIAS = "name a version, `latest`, or an alias"
RUN = "pass runs:/RUN_ID/PATH"
COPY = "copy the file to this machine and pass its path"


@pytest.mark.parametrize(
    ("url", "way"),
    [
        ("models:/churn", VERSION_OR_ALIAS),
        ("models:/churn/newest", VERSION_OR_ALIAS),
        ("models:/a/b@c", VERSION_OR_ALIAS),
        ("models:/churn@", VERSION_OR_ALIAS),
        ("runs:/0123abcd", RUN),
        ("mlflow-artifacts:/0/0123abcd/model", RUN),
        ("s3://bucket/model.pt2", COPY),
        ("https://example.com/model.pt2", COPY),
    ],
)
def test_url_of_another_form_is_named_with_the_one_to_use(tmp_path: Path, url: str, way: str) -> None:
    refused = register(url)
    assert isinstance(refused.exception, UsageError)
    assert refused.exception.what == "not an MLflow model URL"
    assert way in str(refused.exception.next_step)
    assert not (tmp_path / "models").exists()


def test_credentials_in_a_url_are_not_shown() -> None:
    with pytest.raises(UsageError) as caught, ours.fetched("https://user:secret@example.com/m.pt2"):
        pass
    assert "secret" not in str(caught.value)


@pytest.mark.usefixtures("store")
def test_registry_of_an_unknown_scheme_is_an_error_with_a_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "unknown://somewhere")
    refused = register("models:/churn/1")
    assert isinstance(refused.exception, ModelNotFound)
    assert "MLFLOW_REGISTRY_URI" in str(refused.exception.next_step)


@pytest.mark.usefixtures("store")
def test_program_logged_with_an_example_of_one_row_says_to_use_two() -> None:
    publish(log_pytorch(serialization_format="pt2", input_example=X[:1]))
    refused = register("models:/churn/1")
    assert isinstance(refused.exception, ModelRefused)
    assert "for exactly 1 rows at a time" in refused.exception.what
    assert "if the input_example has two rows or more" in str(refused.exception.next_step)


def publish_folder(store: Path, flavor: str, file: str, named: str | None = None) -> None:
    """Registers a folder with a file of another library, as its flavor writes it; the description names `named`."""
    import mlflow

    folder = store.parent / "logged"
    folder.mkdir()
    data = named or file
    (folder / "MLmodel").write_text(f"flavors:\n  python_function:\n    data: {data}\n  {flavor}:\n    data: {data}\n")
    shutil.copy(Path(__file__).parent / "files" / file, folder)
    with mlflow.start_run() as run:
        mlflow.log_artifacts(str(folder), "model")
    client = mlflow.MlflowClient()
    client.create_registered_model("files")
    client.create_model_version("files", f"{run.info.artifact_uri}/model", run.info.run_id)


@pytest.mark.parametrize(
    ("flavor", "file"), [("xgboost", "xgboost.ubj"), ("lightgbm", "lightgbm.txt"), ("onnx", "sklearn.onnx")]
)
def test_file_of_a_library_with_an_extra_is_registered(store: Path, flavor: str, file: str) -> None:
    publish_folder(store, flavor, file)
    done = register("models:/files/1", "--features", "x,y,z", "--json")
    assert (done.exit_code, done.exception) == (0, None), done.output
    assert json.loads(done.stdout)["kind"] == flavor


@pytest.mark.parametrize(
    ("flavor", "file", "named", "way"),
    [
        ("xgboost", "xgboost.pkl", None, "booster.save_model(path)"),
        ("sklearn", "sklearn.pkl", None, "skl2onnx.to_onnx"),
        ("xgboost", "xgboost.pkl", str(Path(__file__).parent / "files" / "xgboost.ubj"), "booster.save_model(path)"),
    ],
)
def test_model_of_another_flavor_is_named_with_the_way_that_works(
    store: Path, flavor: str, file: str, named: str | None, way: str
) -> None:
    publish_folder(store, flavor, file, named)
    refused = register("models:/files/1")
    assert isinstance(refused.exception, ModelRefused)
    assert way in str(refused.exception.next_step)


@pytest.mark.usefixtures("store")
def test_fetched_files_are_gone_afterwards() -> None:
    publish(log_pytorch(serialization_format="pt2", input_example=X[:4]))
    with ours.fetched("models:/churn/1") as found:
        folder = found.path
        assert folder.exists()
    assert not folder.exists()
