"""`lakescore models`: output for people, and JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from pipeline.cli import register as commands
from pipeline.errors import ModelMismatch, ModelNotFound, ModelRefused, SchemaMismatch, UsageError
from pipeline.model.registry import Registry
from tests.calling import Cli, Expected
from tests.model.networks import save_classifier
from tests.model.programs import export
from tests.workspace import Workspace


class Commands:
    """The command group, with a registry in an empty folder."""

    def __init__(self, cli: Cli, folder: Path) -> None:
        self.cli = cli
        self.checkpoint = save_classifier(folder / "churn.pt", version="7f3a")
        self.registry = Registry(folder / "models")

    def __call__(self, *arguments: object, expect: Expected = 0) -> subprocess.CompletedProcess[str]:
        return self.cli("models", *arguments, expect=expect)

    def json(self, *arguments: object) -> Any:
        return json.loads(self(*arguments, "--json").stdout)

    def register(self, version: str = "v1", *more: str) -> None:
        self("register", self.checkpoint, "--name", "churn", "--version", version, "--features", "a, b,c", *more)


@pytest.fixture
def run(cli: Cli, tmp_path: Path) -> Commands:
    return Commands(cli, tmp_path)


def test_register_then_list_shows_the_model(run: Commands) -> None:
    result = run(
        "register", run.checkpoint, "--name", "churn", "--version", "v1", "--features", "a,b,c", "--alias", "prod"
    )
    manifest = run.registry.resolve("churn", "prod")
    said = f"churn v1 is registered as prod, digest {manifest.digest[:12]}\n"
    said += "task: classification of 0, 1 (by default; see --task)\n"
    assert result.stdout.startswith(said + "outputs: logits (the model ends in a linear layer)\nstructure: assumed")
    shown = run("list").stdout
    assert [word for word in ("churn", "v1", "prod", "0, 1", manifest.digest[:12]) if word not in shown] == []


def test_register_json_is_the_manifest(run: Commands) -> None:
    shown = run.json(
        "register", run.checkpoint, "--name", "m", "--version", "v1", "--features", "a,b,c", "--alias", "x"
    )
    manifest = run.registry.resolve("m", "v1")
    assert shown == {**manifest.model_dump(mode="json"), "aliases": ["x"]}
    assert shown["recorded_version"] == "7f3a"


@pytest.mark.parametrize(
    ("option", "classes"),
    [
        ([], (0, 1)),
        (["--classes", "10,-20"], (10, -20)),
        (["--classes", "no, yes"], ("no", "yes")),
        (["--classes", "1,b"], ("1", "b")),
    ],
    ids=str,
)
def test_register_classes_are_integers_if_all_are(
    run: Commands, option: list[str], classes: tuple[str | int, ...]
) -> None:
    run.register("v1", *option)
    assert run.registry.resolve("churn", "v1").signature.classes == classes
    assert run.registry.resolve("churn", "v1").signature.features == ("a", "b", "c")


def test_register_without_features_says_to_pass_them(run: Commands) -> None:
    assert (
        "pass --features"
        in run("register", run.checkpoint, "--name", "churn", "--version", "v1", expect=ModelRefused).stderr
    )
    assert not run.registry.root.exists()


def test_list_without_models_says_so(run: Commands) -> None:
    result = run("list")
    assert result.stdout == ""
    assert "no model is registered" in result.stderr
    assert run.json("list") == []


def test_list_json_has_every_version_with_its_aliases(run: Commands) -> None:
    run.register("v1", "--alias", "production")
    run.register("v2")
    run("promote", "churn", "v1", "--alias", "stable")
    assert [(entry["version"], entry["aliases"]) for entry in run.json("list")] == [
        ("v1", ["production", "stable"]),
        ("v2", []),
    ]


def test_show_without_version_shows_production_else_the_newest(run: Commands) -> None:
    run.register("v1")
    run.register("v2")
    assert run.json("show", "churn")["version"] == "v2"
    run("promote", "churn", "v1")
    assert run.json("show", "churn")["version"] == "v1"
    assert run.json("show", "churn", "v2")["version"] == "v2"


def test_show_prints_all_facts_about_a_version(run: Commands) -> None:
    run.register("v1", "--alias", "production", "--classes", "stays,leaves")
    shown = run("show", "churn", "production").stdout
    manifest = run.registry.resolve("churn", "v1")
    expected = ["a, b, c", "stays, leaves", "7f3a", "production", manifest.digest, "as registered", "UTC"]
    assert [words for words in expected if words not in shown] == []


def test_show_of_a_changed_file_is_refused(run: Commands) -> None:
    run.register()
    (run.registry.root / "churn" / "v1" / "model.pt").write_bytes(b"other")
    assert "digest differs" in run("show", "churn", "v1", expect=ModelMismatch).stderr


def test_show_unknown_model_names_the_nearest(run: Commands) -> None:
    run.register()
    assert "did you mean 'churn'" in run("show", "chrun", expect=ModelNotFound).stderr


@pytest.mark.slow
def test_promote_says_what_it_replaced(run: Commands) -> None:
    run.register("v1")
    run.register("v2")
    assert run("promote", "churn", "v1").stdout == "production of churn is v1\n"
    assert run("promote", "churn", "v2").stdout == (
        "production of churn is v2, was v1\n"
        "days scored by v1 are stale now for jobs that use production; lakescore backfill --stale scores them anew\n"
    )
    said = run("promote", "churn", "v2", "--class", "1", expect=UsageError).stderr
    assert "--date, --sample and --class need --max-flips" in said
    assert run.json("promote", "churn", "v1") == {
        "name": "churn",
        "alias": "production",
        "version": "v1",
        "before": "v2",
        "flips": None,
    }


def test_promote_alias_that_is_a_version_is_refused(run: Commands) -> None:
    run.register()
    assert "is already a version of churn" in run("promote", "churn", "v1", "--alias", "v1", expect=UsageError).stderr


def test_models_errors_have_exit_codes_and_json(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "notes.pt").write_text("hello")
    arguments = ("models", "register", "notes.pt", "--name", "churn", "--features", "a")
    refused = json.loads(cli(*arguments, "--version", "v1", "--json", expect=1).stdout)
    assert (refused["error"], refused["where"], refused["transient"]) == ("ModelRefused", "notes.pt", False)
    assert "cannot be used as a name" in cli(*arguments, "--version", "v 1", expect=UsageError).stderr
    assert not (tmp_path / "models").exists()


def test_register_command_keeps_signature_metrics_and_provenance(run: Commands, tmp_path: Path) -> None:
    save_file(dict(torch.nn.Linear(2, 2).state_dict()), tmp_path / "m.safetensors")
    (tmp_path / "s.json").write_text('{"inputs": {"a": {"kind": "number", "null": 0.5}}}')
    options = "--features a,b --architecture mlp:tanh --signature s.json --metric auc=0.9 --metric loss=0.25"
    found = run.json("register", "m.safetensors", "--name=m", "--version=v1", *options.split())
    assert found["signature"]["inputs"] == {"a": {"kind": "number", "null": 0.5}}
    assert found["signature"]["architecture"] == "mlp:tanh"
    assert found["metrics"] == {"auc": 0.9, "loss": 0.25}
    assert found["provenance"]["source"] == "m.safetensors"
    assert set(found["provenance"]["versions"]) == {"lakescore", "python", "torch"}
    again = run.registry.resolve("m", "v1")
    assert again.model_dump(mode="json") | {"aliases": []} == found


@pytest.mark.parametrize("options", ["--metric auc", "--metric auc=nan", "--metric =1", "--signature absent.json"])
def test_register_command_refuses_what_is_misspelt(run: Commands, options: str) -> None:
    run("register", "churn.pt", "--name=m", "--version=v1", "--features=a,b,c", *options.split(), expect=UsageError)
    assert not run.registry.root.exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the limit is one of Linux")
def test_register_of_a_small_program_that_makes_large_tensors_is_refused(
    run: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Large(torch.nn.Module):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return features.repeat(1, 600_000).sum(dim=1, keepdim=True) + features[:, :2]

    path = export(tmp_path / "large.pt2", Large())
    monkeypatch.setattr(commands, "ROOM", 1_000_000_000)
    given = ("--name", "large", "--version", "v1", "--features", "a,b,c", "--outputs", "logits")
    refused = run("register", path, *given, expect=ModelRefused)
    assert path.stat().st_size < 100_000
    assert "takes too much memory to be tried out" in refused.stderr
    assert not run.registry.root.exists()


@pytest.mark.slow
def test_register_with_training_data_keeps_their_profile(workspace: Workspace, cli: Cli) -> None:
    pq.write_table(
        pa.table({"a": [0.1, 0.2, 0.3] * 50, "b": [1.0, 2.0, 3.0] * 50}), workspace.root / "training.parquet"
    )
    command = ("models", "register", "toy-v1.pt", "--name", "toy", "--features", "a,b")
    cli(*command, "--version", "v2", "--baseline", "training.parquet")
    kept = pq.read_table(workspace.root / "models" / "toy" / "v2" / "baseline.parquet").to_pylist()
    assert {row["column_name"]: row["rows"] for row in kept} == dict.fromkeys(
        ("a", "b", "prob_class_1", "prediction_proba", "prediction"), 150
    )
    refused = cli(*command, "--version", "v1", "--baseline", "training.parquet", expect=1).stderr
    assert "was registered without training data, and a version cannot be changed" in refused


def test_register_misspelt_feature_names_the_column_of_the_training_rows(workspace: Workspace, cli: Cli) -> None:
    (workspace.root / "training.csv").write_text("id,a,b\n" + "".join(f"u{i},{i},{i % 3}\n" for i in range(50)))
    command = ("models", "register", "toy-v1.pt", "--name", "toy", "--version", "v2", "--features", "a,bb")
    said = cli(*command, "--baseline", "training.csv", expect=SchemaMismatch).stderr
    assert "the training data has no bb, did you mean 'b'?" in said
    assert "id, a, b\n" in said
    assert "correct --features" in said
