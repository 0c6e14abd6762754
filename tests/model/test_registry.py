"""The registry: a version permanently names one digest, appears atomically, and is checked when it is loaded."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.errors import ModelError, ModelMismatch, ModelNotFound, ModelRefused, UsageError
from pipeline.model.registry import Registry
from pipeline.tabular import sources
from tests.model.networks import DIMENSIONS, classifier, save, save_classifier

ROOT = Path(__file__).parent.parent.parent
FEATURES = ["age", "visits", "spend"]


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "models")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_classifier(tmp_path / "model.pt")


@pytest.fixture
def other(tmp_path: Path) -> Path:
    return save(tmp_path / "other.pt", {"model_state_dict": classifier(seed=1).state_dict(), **DIMENSIONS})


def tree(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


# Registering


def test_register_checkpoint_can_be_resolved_and_loaded(registry: Registry, model: Path) -> None:
    registered = registry.register(model, name="churn", version="v1", features=FEATURES, classes=["stays", "leaves"])
    resolved = registry.resolve("churn", "v1")
    assert resolved == registered
    assert resolved.signature.features == tuple(FEATURES)
    assert resolved.signature.classes == ("stays", "leaves")
    assert resolved.recorded_version is None
    assert (registry.root / "churn" / "v1" / "model.pt").read_bytes() == model.read_bytes()

    rows = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    with torch.inference_mode():
        expected = torch.softmax(classifier()(torch.from_numpy(rows)), dim=1).numpy()
    predictor = registry.load(resolved, "cpu")
    assert (predictor.signature, predictor.device) == (resolved.signature, "cpu")
    np.testing.assert_allclose(predictor.predict(rows, 8)["prob_class_1"], expected[:, 1], rtol=0, atol=1e-6)


def test_register_without_names_takes_those_of_the_file(registry: Registry, tmp_path: Path) -> None:
    path = save_classifier(tmp_path / "m.pt", feature_names=FEATURES, classes=["no", "yes"], version="2026-01")
    manifest = registry.register(path, name="churn", version="v1", features=None)
    assert manifest.signature.features == tuple(FEATURES)
    assert manifest.signature.classes == ("no", "yes")
    assert manifest.recorded_version == "2026-01"


def test_register_with_names_overrides_those_of_the_file(registry: Registry, tmp_path: Path) -> None:
    path = save_classifier(tmp_path / "m.pt", features=FEATURES, classes=["no", "yes"])
    manifest = registry.register(path, name="churn", version="v1", features=["a", "b", "c"], classes=[10, 20])
    assert manifest.signature.features == ("a", "b", "c")
    assert manifest.signature.classes == (10, 20)


@pytest.mark.parametrize("outputs", [1, 2, 4])
def test_register_without_classes_numbers_them(registry: Registry, tmp_path: Path, outputs: int) -> None:
    path = save(
        tmp_path / "m.pt",
        {"state_dict": classifier(output_dim=outputs).state_dict(), **DIMENSIONS, "output_dim": outputs},
    )
    manifest = registry.register(path, name="m", version="v1", features=FEATURES)
    assert manifest.signature.classes == tuple(range(max(outputs, 2)))


def test_register_same_content_again_changes_nothing(registry: Registry, model: Path) -> None:
    first = registry.register(model, name="churn", version="v1", features=FEATURES, alias="production")
    before = tree(registry.root)
    assert registry.register(model, name="churn", version="v1", features=FEATURES, alias="production") == first
    assert tree(registry.root) == before


@pytest.mark.parametrize("change", ["weights", "features", "classes"])
def test_register_other_content_under_the_same_version_is_refused(
    registry: Registry, model: Path, other: Path, change: str
) -> None:
    registry.register(model, name="churn", version="v1", features=FEATURES)
    before = tree(registry.root)
    with pytest.raises(ModelRefused, match="already exists with other content") as caught:
        registry.register(
            other if change == "weights" else model,
            name="churn",
            version="v1",
            features=FEATURES[::-1] if change == "features" else FEATURES,
            classes=[1, 0] if change == "classes" else None,
            alias="production",
        )
    assert "under a new version" in str(caught.value)
    assert tree(registry.root) == before


def test_register_again_over_a_damaged_version_is_refused(registry: Registry, model: Path) -> None:
    registry.register(model, name="churn", version="v1", features=FEATURES)
    (registry.root / "churn" / "v1" / "model.pt").write_bytes(b"damaged")
    with pytest.raises(ModelMismatch):
        registry.register(model, name="churn", version="v1", features=FEATURES)


@pytest.mark.parametrize(
    ("stated", "arguments", "error", "said"),
    [
        ({}, {"features": None}, ModelRefused, "pass --features"),
        ({}, {"features": ["a", "b"]}, ModelRefused, "has 3 features, but 2 are named"),
        ({}, {"features": []}, ModelRefused, "but 0 are named"),
        ({}, {"features": ["a", "b", "a"]}, ModelRefused, "`features`: 'a' appears twice"),
        ({}, {"classes": ["x", "y", "z"]}, ModelRefused, "has 2 classes, but 3 are named"),
        ({}, {"classes": ["x", 1]}, ModelRefused, "all text or all integers"),
        ({"classes": ["x", "y", "z"]}, {}, ModelRefused, "has 2 classes, but 3 are named"),
        ({"feature_names": FEATURES[::-1]}, {}, ModelRefused, "the same features in another order"),
        ({"input_dim": 5}, {}, ModelRefused, "`input_dim`"),
        ({}, {"name": "../churn"}, UsageError, "model '../churn' cannot be used as a name"),
        ({}, {"name": "README.md"}, UsageError, "a file has this name"),
        ({}, {"version": "v 1"}, UsageError, "version 'v 1' cannot be used as a name"),
        ({}, {"version": "aliases.json"}, UsageError, "this name is already used"),
        ({}, {"alias": ".hidden"}, UsageError, "alias '.hidden' cannot be used as a name"),
        ({}, {"alias": "v1"}, UsageError, "this name is already used"),
    ],
)
def test_register_bad_input_is_refused_and_writes_nothing(
    registry: Registry, tmp_path: Path, stated: dict[str, Any], arguments: dict[str, Any], error: type, said: str
) -> None:
    registry.root.mkdir()
    (registry.root / "README.md").write_text("about models")
    path = save_classifier(tmp_path / "m.pt", **stated)
    with pytest.raises(error) as caught:
        registry.register(path, **{"name": "churn", "version": "v1", "features": FEATURES, **arguments})
    assert said in str(caught.value)
    assert [entry.name for entry in registry.root.iterdir()] == ["README.md"]


@pytest.mark.parametrize("missing", ["absent.pt", "."])
def test_register_file_that_is_not_there_is_refused(registry: Registry, tmp_path: Path, missing: str) -> None:
    with pytest.raises(UsageError, match="no such model file"):
        registry.register(tmp_path / missing, name="churn", version="v1", features=FEATURES)
    assert not registry.root.exists()


def test_register_over_an_unknown_folder_is_refused(registry: Registry, model: Path) -> None:
    (registry.root / "churn" / "v1").mkdir(parents=True)
    with pytest.raises(ModelRefused, match="exists but is not a model"):
        registry.register(model, name="churn", version="v1", features=FEATURES)


CRASH = """
import os, signal, sys
from pathlib import Path
from pipeline.model import registry
at, models, model = sys.argv[1:]
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
if at == "rename":
    Path.rename = die
else:
    write = registry.LocalStorage.write
    registry.LocalStorage.write = lambda self, key, content: die() if key.endswith(at) else write(self, key, content)
names = {"name": "churn", "version": "v2", "features": ["a", "b", "c"], "alias": "production"}
registry.Registry(Path(models)).register(Path(model), **names)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("at", "versions"), [("model.json", 1), ("rename", 1), ("aliases.json", 2)])
def test_register_killed_midway_leaves_no_half_model(
    registry: Registry, model: Path, other: Path, at: str, versions: int
) -> None:
    registry.register(model, name="churn", version="v1", features=FEATURES, alias="production")
    command = [sys.executable, "-c", CRASH, at, str(registry.root), str(other)]
    killed = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(registry.manifests()) == versions
    assert registry.aliases("churn") == {"production": "v1"}
    registry.load(registry.resolve("churn", "production"))

    registry.register(other, name="churn", version="v2", features=["a", "b", "c"], alias="production")
    registry.load(registry.resolve("churn", "production"))
    assert registry.resolve("churn", "production").version == "v2"
    assert sorted(path.name for path in (registry.root / "churn").iterdir()) == [".lock", "aliases.json", "v1", "v2"]


def test_register_same_version_at_once_one_content_wins(registry: Registry, model: Path, other: Path) -> None:
    def attempt(index: int) -> str | None:
        try:
            path = (model, other)[index % 2]
            return Registry(registry.root).register(path, name="churn", version="v1", features=FEATURES).digest
        except ModelRefused:
            return None

    with ThreadPoolExecutor(8) as pool:
        digests = list(pool.map(attempt, range(16)))
    assert digests.count(None) == 8
    assert set(digests) - {None} == {registry.resolve("churn", "v1").digest}


# Aliases


def test_promote_moves_the_alias(registry: Registry, model: Path, other: Path) -> None:
    registry.register(model, name="churn", version="v1", features=FEATURES, alias="production")
    registry.register(other, name="churn", version="v2", features=FEATURES, alias="staging")
    assert registry.resolve("churn", "production").version == "v1"
    registry.promote("churn", "v2")
    assert registry.resolve("churn", "production").version == "v2"
    registry.promote("churn", "v1", alias="staging")
    registry.promote("churn", "staging")
    assert registry.aliases("churn") == {"production": "v1", "staging": "v1"}


def test_promote_several_aliases_at_once_loses_none(registry: Registry, model: Path) -> None:
    registry.register(model, name="churn", version="v1", features=FEATURES)
    names = [f"alias-{index}" for index in range(24)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: Registry(registry.root).promote("churn", "v1", name), names))
    assert registry.aliases("churn") == dict.fromkeys(names, "v1")


def test_promote_alias_with_a_versions_name_is_refused(registry: Registry, model: Path) -> None:
    registry.register(model, name="churn", version="v1", features=FEATURES)
    with pytest.raises(UsageError, match="'v1' is already a version of churn"):
        registry.promote("churn", "v1", alias="v1")
    assert registry.aliases("churn") == {}


def test_register_version_with_an_aliases_name_is_refused(registry: Registry, model: Path) -> None:
    registry.register(model, name="churn", version="v1", features=FEATURES, alias="production")
    with pytest.raises(UsageError, match="'production' is already an alias of churn"):
        registry.register(model, name="churn", version="production", features=FEATURES)
    assert [manifest.version for manifest in registry.manifests()] == ["v1"]


def test_promote_unknown_version_is_refused(registry: Registry, model: Path) -> None:
    registry.register(model, name="churn", version="v1", features=FEATURES, alias="production")
    before = tree(registry.root)
    with pytest.raises(ModelNotFound, match="did you mean 'v1'"):
        registry.promote("churn", "v11")
    assert tree(registry.root) == before


@pytest.mark.parametrize(("content", "field"), [("{", "JSON"), ('{"production": 3}', "`production`"), ("[]", "object")])
def test_aliases_damaged_names_file_and_field(registry: Registry, model: Path, content: str, field: str) -> None:
    registry.register(model, name="churn", version="v1", features=FEATURES, alias="production")
    path = registry.root / "churn" / "aliases.json"
    path.write_text(content)
    with pytest.raises(ModelError) as caught:
        registry.resolve("churn", "production")
    assert caught.value.where == str(path)
    assert field in caught.value.what


# Finding


@pytest.mark.parametrize(
    ("name", "version", "said"),
    [
        ("chrun", "v1", ["no model is called 'chrun', did you mean 'churn'?", "churn, fraud"]),
        ("sales", "v1", ["no model is called 'sales'", "lakescore models register"]),
        (
            "churn",
            "v3",
            ["no version or alias 'v3', did you mean 'v2'?", "v1, v2, production (alias of v1)", "next      name one"],
        ),
        ("churn", "prod", ["no version or alias 'prod', did you mean 'production'?"]),
        ("README.md", "v1", ["no model is called 'README.md'"]),
    ],
)
def test_resolve_what_is_not_there_says_what_is(
    registry: Registry, model: Path, name: str, version: str, said: list[str]
) -> None:
    registry.register(model, name="churn", version="v1", features=FEATURES, alias="production")
    registry.register(model, name="churn", version="v2", features=FEATURES)
    registry.register(model, name="fraud", version="v1", features=FEATURES)
    (registry.root / "README.md").write_text("about models")
    with pytest.raises(ModelNotFound) as caught:
        registry.resolve(name, version)
    assert [words for words in said if words not in str(caught.value)] == []


def test_resolve_in_an_absent_registry_says_that_there_is_none(registry: Registry) -> None:
    with pytest.raises(ModelNotFound) as caught:
        registry.resolve("churn", "production")
    assert caught.value.expected is None
    assert caught.value.where == f"{registry.root}, a folder that does not exist"
    assert "correct LAKESCORE_MODELS" in str(caught.value.next_step)
    assert registry.manifests() == []


@pytest.mark.parametrize(("name", "version"), [("../churn", "v1"), ("churn", "../v1"), ("churn/v1", "v1"), ("", "v1")])
def test_resolve_path_instead_of_a_name_is_refused(registry: Registry, name: str, version: str) -> None:
    with pytest.raises(UsageError, match="cannot be used as a name"):
        registry.resolve(name, version)


def test_resolve_alias_of_a_removed_version_says_so(registry: Registry, model: Path) -> None:
    registry.register(model, name="churn", version="v1", features=FEATURES, alias="production")
    registry.register(model, name="churn", version="v2", features=FEATURES)
    (registry.root / "churn" / "v1").rename(registry.root / "v1")
    with pytest.raises(ModelNotFound, match="points to v1, which does not exist"):
        registry.resolve("churn", "production")


def test_manifests_are_sorted_and_skip_other_files(registry: Registry, model: Path) -> None:
    for name, version in (("fraud", "v1"), ("churn", "v10"), ("churn", "v9")):
        registry.register(model, name=name, version=version, features=FEATURES)
    (registry.root / "churn" / ".v11.0123abcd.tmp").mkdir()
    (registry.root / "churn" / ".v11.0123abcd.tmp" / "model.json").write_text("{")
    (registry.root / "churn" / "notes").mkdir()
    (registry.root / "empty").mkdir()
    (registry.root / "README.md").write_text("about models")
    found = [(manifest.name, manifest.version) for manifest in registry.manifests()]
    assert found == [("churn", "v10"), ("churn", "v9"), ("fraud", "v1")]
    assert [manifest.version for manifest in registry.manifests("churn")] == ["v10", "v9"]


# Loading


def change_file(folder: Path) -> None:
    save(folder / "model.pt", {"model_state_dict": classifier(seed=1).state_dict(), **DIMENSIONS})


def remove_file(folder: Path) -> None:
    (folder / "model.pt").unlink()


def swap_features(folder: Path) -> None:
    edit(folder / "model.json", lambda document: document["signature"]["features"].reverse())


def rename_class(folder: Path) -> None:
    edit(folder / "model.json", lambda document: document["signature"].update(classes=["no", "yes"]))


@pytest.mark.parametrize("tamper", [change_file, remove_file, swap_features, rename_class])
def test_load_of_what_was_not_registered_is_refused(
    registry: Registry, model: Path, tamper: Callable[[Path], None]
) -> None:
    registry.register(model, name="churn", version="v1", features=FEATURES)
    tamper(registry.root / "churn" / "v1")
    with pytest.raises(ModelMismatch) as caught:
        registry.load(registry.resolve("churn", "v1"))
    assert caught.value.where == str(registry.root / "churn" / "v1")
    assert "under a new version" in str(caught.value)


def test_load_of_a_malicious_file_put_there_later_does_not_run_it(
    registry: Registry, model: Path, tmp_path: Path
) -> None:
    registry.register(model, name="churn", version="v1", features=FEATURES)
    target = tmp_path / "executed"
    (registry.root / "churn" / "v1" / "model.pt").write_bytes(f"cos\nsystem\n(S'touch {target}'\ntR.".encode())
    with pytest.raises(ModelMismatch):
        registry.load(registry.resolve("churn", "v1"))
    assert not target.exists()


def test_load_of_an_old_manifest_stays_possible(registry: Registry, model: Path) -> None:
    planned = registry.register(model, name="churn", version="v1", features=FEATURES)
    swap_features(registry.root / "churn" / "v1")
    assert registry.load(planned).signature.features == tuple(FEATURES)


def test_load_on_an_absent_device_is_refused(registry: Registry, model: Path) -> None:
    manifest = registry.register(model, name="churn", version="v1", features=FEATURES)
    with pytest.raises(UsageError, match="'cuda:99' is not available"):
        registry.load(manifest, "cuda:99")


def test_resolve_folder_copied_by_hand_is_refused(registry: Registry, model: Path) -> None:
    registry.register(model, name="churn", version="v1", features=FEATURES)
    (registry.root / "churn" / "v1").rename(registry.root / "churn" / "v2")
    with pytest.raises(ModelError) as caught:
        registry.resolve("churn", "v2")
    assert (caught.value.expected, caught.value.got) == ("churn v2", "churn v1")


def test_resolve_misspelt_key_in_model_json_names_file_and_key(registry: Registry, model: Path) -> None:
    registry.register(model, name="churn", version="v1", features=FEATURES)
    path = registry.root / "churn" / "v1" / "model.json"
    edit(path, lambda document: document.update(kinds=document.pop("kind")))
    with pytest.raises(ModelError, match="unknown key `kinds`, did you mean 'kind'") as caught:
        registry.resolve("churn", "v1")
    assert caught.value.where == str(path)


# Golden batch and baseline


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(path.read_bytes() + b"x"), Path.unlink])
@pytest.mark.parametrize("kind", ["golden", "baseline"])
def test_file_of_a_model_that_is_not_what_was_registered_is_refused(
    registry: Registry, model: Path, tmp_path: Path, kind: str, damage: Callable[[Path], object]
) -> None:
    rows = np.random.default_rng(0).normal(size=(200, 3))
    pq.write_table(pa.table(dict(zip(FEATURES, rows.T, strict=True))), tmp_path / "training.parquet")
    training = sources.find([tmp_path / "training.parquet"])
    found = registry.register(model, name="churn", version="v1", features=FEATURES, training=training)
    path = registry.root / "churn" / "v1" / f"{kind}.parquet"
    assert getattr(registry, kind)(found) == path.read_bytes()
    damage(path)
    with pytest.raises(ModelMismatch, match="of churn v1 is not what was registered"):
        getattr(registry, kind)(found)
