"""Models of a real MLflow tracking server, logged by their own libraries, with artifacts that the server proxies."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from typer.testing import CliRunner, Result

from pipeline.cli.commands import command_line
from pipeline.errors import ModelNotFound, ModelRefused, StorageUnavailable, UsageError
from pipeline.model.registry import Registry

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="the extra mlflow is not installed"),
    pytest.mark.filterwarnings("ignore"),  # MLflow warns about its own code
]

USER, PASSWORD = "ada", "s3cret-of-ada"
RNG = np.random.default_rng(7)
ROWS = pd.DataFrame(
    {"age": RNG.uniform(18, 80, 300), "visits": RNG.integers(0, 20, 300), "spend": RNG.gamma(2, 50, 300)}
)
LEFT = (ROWS["visits"] < 9).astype(int)
X = ROWS.to_numpy(np.float32)
QUIET = {"pip_requirements": ["torch"]}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Returns host and port of a server with a SQLite database and a folder of artifacts."""
    folder = tmp_path_factory.mktemp("mlflow")
    where = {
        "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{folder}/mlflow.db",
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(folder / "artifacts"),
        "ASKED_PASSWORD": PASSWORD,
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "GIT_PYTHON_REFRESH": "quiet",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    command = [sys.executable, "-m", "flask", "--app", "tests.model.tracking_server", "run", "--port", "0"]
    log = folder / "server.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(command, env={**os.environ, **where}, cwd=folder, stdout=output, stderr=output) as process,
    ):
        try:
            while (found := re.search(r"Running on http://(127\.0\.0\.1:\d+)", log.read_text())) is None:
                assert process.poll() is None, log.read_text()
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(0.1)
            yield found[1]
        finally:
            process.terminate()


@pytest.fixture(autouse=True)
def client(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "MLFLOW_TRACKING_URI": f"http://{USER}:{PASSWORD}@{server}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "GIT_PYTHON_REFRESH": "quiet",
    }.items():
        monkeypatch.setenv(name, value)


def logged(log: Callable[[], Any]) -> Any:
    """Logs a model in a run with a metric; returns what MLflow knows of it."""
    import mlflow

    with mlflow.start_run():
        mlflow.log_metric("auc", 0.93)
        return log()


def signature(rows: pd.DataFrame, outputs: Any = None) -> Any:
    from mlflow.models import infer_signature

    return infer_signature(rows, outputs)


def program(network: nn.Module | None = None, signature: Any = None) -> Any:
    import mlflow.pytorch

    torch.manual_seed(6)
    network = network or nn.Sequential(nn.Linear(3, 8), nn.GELU(), nn.Linear(8, 2))
    how = {"serialization_format": "pt2", "input_example": X[:4], "signature": signature}
    return logged(lambda: mlflow.pytorch.log_model(network.eval(), name="model", **how, **QUIET))


def trees(rows: pd.DataFrame = ROWS, **how: Any) -> Any:
    import mlflow.xgboost
    import xgboost

    booster = xgboost.train({"objective": "binary:logistic"}, xgboost.DMatrix(ROWS, LEFT), 5)
    return logged(lambda: mlflow.xgboost.log_model(booster, name="model", signature=signature(rows), **how, **QUIET))


def onnx(rows: pd.DataFrame) -> Any:
    import mlflow.onnx
    from skl2onnx import to_onnx
    from sklearn.linear_model import LogisticRegression

    graph = to_onnx(LogisticRegression(max_iter=500).fit(X, LEFT), X[:1])
    return logged(lambda: mlflow.onnx.log_model(graph, name="model", signature=signature(rows), **QUIET))


def register(url: str, *options: str, name: str = "m") -> Result:
    return CliRunner().invoke(command_line(), ["models", "register", url, f"--name={name}", "--version=v1", *options])


def registered(url: str, *options: str, name: str = "m") -> dict[str, Any]:
    done = register(url, *options, "--json", name=name)
    assert (done.exit_code, done.exception) == (0, None), done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def scores(name: str = "m") -> np.ndarray[Any, Any]:
    registry = Registry(Path("models"))
    found: np.ndarray[Any, Any] = registry.load(registry.resolve(name, "v1"), "cpu").predict(X, 64)["prob_class_1"]
    return found


def test_model_is_the_same_by_each_of_its_addresses(server: str) -> None:
    import mlflow

    info = program()
    version = mlflow.register_model(info.model_uri, "churn")
    mlflow.MlflowClient().set_registered_model_alias("churn", "champion", version.version)
    mlflow.MlflowClient().transition_model_version_stage("churn", version.version, "Staging")
    exact = f"models:/churn/{version.version}"
    addresses = {
        f"runs:/{info.run_id}/model": f"runs:/{info.run_id}/model",
        f"models:/{info.model_id}": f"models:/{info.model_id}",
        **dict.fromkeys([exact, "models:/churn@champion", "models:/churn/latest", "models:/churn/staging"], exact),
    }
    digests = set()
    for number, (address, model) in enumerate(addresses.items()):
        found = registered(address, "--features", "age,visits,spend", name=f"m{number}")
        digests.add(found["digest"])
        assert found["metrics"] == {"auc": 0.93}
        assert found["provenance"]["source"] == f"http://{server}#{address}"
        details = found["provenance"]["details"]
        assert (details["model"], details["model_id"], details["run_id"]) == (model, info.model_id, info.run_id)
    assert len(digests) == 1


def test_program_takes_names_and_types_from_tensors_of_its_signature() -> None:
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    class Clicks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.item, self.layer = nn.Embedding(10, 2), nn.Linear(3, 2)

        def forward(self, price: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
            return self.layer(torch.cat([price, self.item(item)], dim=1))

    import mlflow.pytorch

    torch.manual_seed(1)
    network = Clicks().eval()
    prices, items = RNG.normal(size=(5, 1)).astype(np.float32), RNG.integers(0, 10, 5)
    specs: Any = [TensorSpec(np.dtype(np.float32), (-1, 1), "price"), TensorSpec(np.dtype(np.int64), (-1,), "item")]
    how = {"serialization_format": "pt2", "input_example": (prices, items), **QUIET}
    declared = ModelSignature(inputs=Schema(specs))
    info = logged(lambda: mlflow.pytorch.log_model(network, name="model", signature=declared, **how))
    golden = pd.DataFrame({"price": prices[:, 0], "item": items})
    with torch.inference_mode():
        golden["prob_class_1"] = torch.softmax(network(*map(torch.from_numpy, (prices, items))), 1)[:, 1].numpy()
    golden.to_csv("golden.csv", index=False)
    found = registered(info.model_uri, "--golden", "golden.csv")
    assert found["signature"]["features"] == ["price", "item"]
    assert found["signature"]["inputs"]["item"]["kind"] == "integer"
    assert found["provenance"]["details"]["features"] == "by the MLflow signature"


def test_trees_of_xgboost_score_as_in_xgboost() -> None:
    import xgboost

    info = trees()
    assert registered(info.model_uri)["signature"]["features"] == ["age", "visits", "spend"]
    booster = xgboost.train({"objective": "binary:logistic"}, xgboost.DMatrix(ROWS, LEFT), 5)
    np.testing.assert_allclose(scores(), booster.predict(xgboost.DMatrix(ROWS.astype(np.float32))), atol=1e-6)


def test_trees_of_lightgbm_take_their_names_from_the_signature() -> None:
    import lightgbm
    import mlflow.lightgbm

    booster = lightgbm.train({"objective": "binary", "verbose": -1}, lightgbm.Dataset(X, LEFT), 5)
    info = logged(lambda: mlflow.lightgbm.log_model(booster, name="model", signature=signature(ROWS), **QUIET))
    found = registered(info.model_uri)
    assert found["signature"]["features"] == ["age", "visits", "spend"], "trained on a matrix, the file names none"
    assert found["provenance"]["details"]["features"] == "by the MLflow signature"
    np.testing.assert_allclose(scores(), booster.predict(X), atol=1e-6)


def test_onnx_model_takes_its_names_from_the_signature() -> None:
    from sklearn.linear_model import LogisticRegression

    info = onnx(ROWS)
    done = register(info.model_uri)
    assert (done.exit_code, done.exception) == (0, None), done.output
    assert "features: age, visits, spend (by the MLflow signature)" in done.stdout
    expected = LogisticRegression(max_iter=500).fit(X, LEFT).predict_proba(X)[:, 1]
    np.testing.assert_allclose(scores(), expected, atol=1e-5)


def test_names_on_the_command_line_rename_features_and_do_not_reorder_them() -> None:
    info = onnx(ROWS)
    found = registered(info.model_uri, "--features", "alter,besuche,umsatz")
    assert found["signature"]["features"] == ["alter", "besuche", "umsatz"]
    said = "as given; the MLflow signature has age, visits, spend"
    assert found["provenance"]["details"]["features"] == said
    for names in ("visits,age,spend", "visits,age,umsatz", "age,visits"):
        refused = register(info.model_uri, "--features", names, name="other")
        assert isinstance(refused.exception, ModelRefused)
        assert "the MLflow signature has" in refused.exception.what
        assert refused.exception.expected == "age, visits, spend"


@pytest.mark.parametrize(
    ("log", "file", "said"),
    [
        (lambda: onnx(ROWS.assign(more=1.0)), "takes 3 values per row", "4"),
        (lambda: trees(ROWS[["visits", "age", "spend"]]), "names age, visits, spend", "visits, age, spend"),
    ],
)
def test_signature_that_contradicts_the_file_is_refused(log: Callable[[], Any], file: str, said: str) -> None:
    refused = register(log().model_uri)
    assert isinstance(refused.exception, ModelRefused)
    assert refused.exception.what == "the model's file and the MLflow signature contradict each other"
    assert file in str(refused.exception.expected)
    assert refused.exception.got == f"the MLflow signature: {said}"


def test_signature_with_other_outputs_than_the_program_is_refused() -> None:
    info = program(signature=signature(X, np.zeros((4, 5), np.float32)))
    refused = register(info.model_uri, "--features", "a,b,c")
    assert isinstance(refused.exception, ModelRefused)
    assert (refused.exception.expected, refused.exception.got) == (
        "the program gives 2 outputs",
        "the MLflow signature: 5",
    )


def test_text_in_the_signature_asks_how_it_becomes_a_number() -> None:
    rows = ROWS.assign(visits="web")
    info = onnx(rows)
    refused = register(info.model_uri)
    assert isinstance(refused.exception, ModelRefused)
    assert "visits is of type text" in refused.exception.what
    inputs = {"visits": {"kind": "category", "vocabulary": ["web", "app"]}}
    Path("signature.json").write_text(json.dumps({"inputs": inputs}))
    assert registered(info.model_uri, "--signature", "signature.json")["signature"]["inputs"].keys() == {"visits"}


def pickled_sklearn() -> Any:
    import mlflow.sklearn
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=500).fit(X, LEFT)
    return mlflow.sklearn.log_model(model, name="model", serialization_format="cloudpickle", **QUIET)


def pickled_lightgbm() -> Any:
    import lightgbm
    import mlflow.lightgbm

    model = lightgbm.LGBMClassifier(n_estimators=2, verbose=-1).fit(X, LEFT)
    return mlflow.lightgbm.log_model(model, name="model", serialization_format="cloudpickle", **QUIET)


def python_model() -> Any:
    """Logs Python code around a program, which alone would be data."""
    import mlflow.pyfunc

    def doubled(model_input: Any) -> Any:
        return model_input * 2

    network = nn.Sequential(nn.Linear(3, 2)).eval()
    rows = torch.export.Dim("rows")
    torch.export.save(torch.export.export(network, (torch.zeros(2, 3),), dynamic_shapes=({0: rows},)), "inner.pt2")
    return mlflow.pyfunc.log_model(name="model", python_model=doubled, artifacts={"inner": "inner.pt2"}, **QUIET)


@pytest.mark.parametrize(
    ("log", "way"),
    [
        (pickled_sklearn, "mlflow.onnx.log_model(skl2onnx.to_onnx("),
        (pickled_lightgbm, "mlflow.lightgbm.log_model(model.booster_"),
        (python_model, "log the model inside it by its own flavor"),
    ],
)
def test_code_is_refused_with_the_way_that_works(log: Callable[[], Any], way: str) -> None:
    refused = register(logged(log).model_uri, "--features", "age,visits,spend")
    assert isinstance(refused.exception, ModelRefused)
    assert "without running code" in refused.exception.what
    assert way in str(refused.exception.next_step)


def test_file_of_a_run_is_registered_without_a_flavor() -> None:
    import mlflow

    files = Path(__file__).parent / "files"
    with mlflow.start_run() as run:
        mlflow.log_artifact(str(files / "xgboost.ubj"), "trees")
        mlflow.log_artifact(str(files / "sklearn.pkl"), "pickled")
    assert registered(f"runs:/{run.info.run_id}/trees/xgboost.ubj", "--features", "x,y,z")["kind"] == "xgboost"
    assert registered(f"runs:/{run.info.run_id}/trees", "--features", "x,y,z")["kind"] == "xgboost"
    refused = register(f"runs:/{run.info.run_id}/pickled/sklearn.pkl", "--features", "x,y,z", name="other")
    assert isinstance(refused.exception, ModelRefused)
    assert "skl2onnx" in str(refused.exception.next_step)


def test_what_mlflow_does_not_have_is_not_found() -> None:
    import mlflow

    info = program()
    mlflow.register_model(info.model_uri, "found")
    for url in (
        "models:/nobody/1",
        "models:/nobody/latest",
        "models:/found/77",
        "models:/found@challenger",
        "models:/found/production",
        f"models:/m-{'0' * 32}",
        f"runs:/{'0' * 32}/model",
        f"runs:/{info.run_id}/nothing",
    ):
        refused = register(url)
        assert isinstance(refused.exception, ModelNotFound), url
        assert refused.exception.where == url
        assert PASSWORD not in str(refused.exception)


def run_cli(url: str) -> subprocess.CompletedProcess[str]:
    """Registers a model in a process of its own, whose logs are seen."""
    start = "from pipeline.cli.app import program; program()"
    command = [sys.executable, "-c", start, "models", "register", url, "--name=m", "--version=v1"]
    environment = {**os.environ, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.parametrize(
    ("address", "url", "error"),
    [
        ("http://ada:wrong-password@{server}", "models:/churn/1", ModelNotFound),
        ("http://ada:s3cret-of-ada@{closed}", "models:/churn/1", StorageUnavailable),
        ("http://ada:s3cret-of-ada@{server}", "models:/busy/1", StorageUnavailable),
    ],
)
def test_server_that_does_not_answer_is_named_without_its_password(
    server: str, monkeypatch: pytest.MonkeyPatch, address: str, url: str, error: type[Exception]
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        host, port = closed.getsockname()
        address = address.format(server=server, closed=f"{host}:{port}")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        done = run_cli(url)
    assert done.returncode == (75 if error is StorageUnavailable else 1), done.stderr
    assert "MLflow" in done.stderr
    assert "password" not in done.stdout + done.stderr.replace("MLFLOW_TRACKING_PASSWORD", "")
    assert "s3cret" not in done.stdout + done.stderr
    if "wrong" in address:
        assert "MLFLOW_TRACKING_PASSWORD" in done.stderr


def test_password_of_the_server_is_in_no_file_and_no_output(capfd: pytest.CaptureFixture[str]) -> None:
    info = program()
    capfd.readouterr()  # MLflow prints the address of the run itself
    done = register(info.model_uri, "--features", "age,visits,spend")
    assert (done.exit_code, done.exception) == (0, None), done.output
    assert PASSWORD not in done.output + "".join(capfd.readouterr())
    files = [path for path in Path("models").rglob("*") if path.is_file()]
    assert [path for path in files if PASSWORD.encode() in path.read_bytes()] == []


def test_address_of_another_kind_is_refused_before_the_server_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert isinstance(register("models:/churn").exception, UsageError)
