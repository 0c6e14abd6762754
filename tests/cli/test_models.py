"""`lakescore models`: what people and programs see."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from pipeline.cli import models
from pipeline.errors import ModelMismatch, ModelNotFound, ModelRefused, UsageError
from pipeline.model.registry import Registry
from tests.conftest import Lakescore
from tests.model.networks import save_classifier


class Commands:
    """The group of commands, over a registry in an empty folder."""

    def __init__(self, folder: Path) -> None:
        self.checkpoint = save_classifier(folder / "churn.pt", version="7f3a")
        self.registry = Registry(folder / "models")
        self.app = typer.Typer()
        models.add_to(self.app)

    def __call__(self, *arguments: object) -> Result:
        result = CliRunner().invoke(self.app, ["models", *map(str, arguments)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    def json(self, *arguments: object) -> Any:
        result = self(*arguments, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def register(self, version: str = "v1", *more: str) -> None:
        self("register", self.checkpoint, "--name", "churn", "--version", version, "--features", "a, b,c", *more)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    monkeypatch.setenv("LAKESCORE_MODELS", str(tmp_path / "models"))
    return Commands(tmp_path)


def test_register_then_list_shows_the_model(run: Commands) -> None:
    result = run(
        "register", run.checkpoint, "--name", "churn", "--version", "v1", "--features", "a,b,c", "--alias", "prod"
    )
    manifest = run.registry.resolve("churn", "prod")
    assert result.stdout == f"churn v1 is registered as prod, digest {manifest.digest[:12]}\n"
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
    with pytest.raises(ModelRefused, match="pass --features"):
        run("register", run.checkpoint, "--name", "churn", "--version", "v1")
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


def test_show_tells_all_about_a_version(run: Commands) -> None:
    run.register("v1", "--alias", "production", "--classes", "stays,leaves")
    shown = run("show", "churn", "production").stdout
    manifest = run.registry.resolve("churn", "v1")
    expected = ["a, b, c", "stays, leaves", "7f3a", "production", manifest.digest, "as registered", "UTC"]
    assert [words for words in expected if words not in shown] == []


def test_show_of_a_changed_file_is_refused(run: Commands) -> None:
    run.register()
    (run.registry.root / "churn" / "v1" / "model.pt").write_bytes(b"other")
    with pytest.raises(ModelMismatch, match="digest differs"):
        run("show", "churn", "v1")


def test_show_unknown_model_names_the_nearest(run: Commands) -> None:
    run.register()
    with pytest.raises(ModelNotFound, match="did you mean 'churn'"):
        run("show", "chrun")


def test_promote_says_what_it_replaced(run: Commands) -> None:
    run.register("v1")
    run.register("v2")
    assert run("promote", "churn", "v1").stdout == "production of churn is v1\n"
    assert run("promote", "churn", "v2").stdout == "production of churn is v2, was v1\n"
    assert run.json("promote", "churn", "v1") == {
        "name": "churn",
        "alias": "production",
        "version": "v1",
        "before": "v2",
        "flips": None,
    }


def test_promote_alias_that_is_a_version_is_refused(run: Commands) -> None:
    run.register()
    with pytest.raises(UsageError, match="is a version of churn already"):
        run("promote", "churn", "v1", "--alias", "v1")


def test_models_errors_have_exit_codes_and_json(lakescore: Lakescore, tmp_path: Path) -> None:
    (tmp_path / "notes.pt").write_text("hello")
    arguments = ("models", "register", "notes.pt", "--name", "churn", "--features", "a")
    refused = json.loads(lakescore(*arguments, "--version", "v1", "--json", expect=1).stdout)
    assert (refused["error"], refused["where"], refused["transient"]) == ("ModelRefused", "notes.pt", False)
    assert "cannot be used as a name" in lakescore(*arguments, "--version", "v 1", expect=2).stderr
    assert not (tmp_path / "models").exists()
