"""Models of many features and many classes, through the whole run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.model.card import Card
from pipeline.model.registry import Registry
from pipeline.records import RunRecord, State
from tests.calling import Cli
from tests.workspace import DAY, Workspace

NEXT = "2026-01-02"
LEAN = "[drift]\nenabled = false\n[report]\nenabled = false\n"


def made(root: Path, features: int, classes: int, more: str = "") -> Workspace:
    """Returns a workspace with a job `toy` of so many features, and a network of one layer for it."""
    workspace = Workspace(root)
    folder = workspace.job()
    names = [f"f{index}" for index in range(features)]
    text = (folder / "job.toml").read_text().replace('features = ["a", "b"]', "")
    (folder / "job.toml").write_text(text + more)
    torch.manual_seed(0)
    layer = torch.nn.Linear(features, classes)
    checkpoint = root / "wide.pt"
    torch.save({"model_state_dict": {f"fc0.{name}": value for name, value in layer.state_dict().items()}}, checkpoint)
    registry = Registry(Path(workspace.settings.models))
    card = Card(signature={"architecture": "mlp:relu"})
    registry.register(checkpoint, name="toy", version="v1", features=names, card=card, alias="production")
    return workspace


def day(workspace: Workspace, features: int, rows: int, ds: str = DAY) -> dict[str, list[float]]:
    """Writes the input of a day; returns the probabilities of each id, as torch alone computes them."""
    values = np.random.default_rng(rows).normal(size=(rows, features)).astype(np.float32)
    ids = [f"u{index}" for index in range(rows)]
    workspace.day(pa.table({"id": ids, **{f"f{index}": values[:, index] for index in range(features)}}), ds)
    layer = torch.load(workspace.root / "wide.pt", weights_only=True)["model_state_dict"]
    logits = torch.nn.functional.linear(torch.from_numpy(values), layer["fc0.weight"], layer["fc0.bias"])
    return dict(zip(ids, torch.softmax(logits, 1).tolist(), strict=True))


def assert_scored(workspace: Workspace, expected: dict[str, list[float]], record: RunRecord | None) -> None:
    assert record is not None
    assert (record.state, record.warnings) == (State.complete, ())
    assert not [check for check in record.checks if check.outcome == "stopped"]
    classes = len(next(iter(expected.values())))
    (part,) = (workspace.lake / f"predictions/job=toy/ds={record.ds}/model_version=v1").glob("part-*.parquet")
    found = pq.read_table(part, partitioning=None).to_pydict()
    of_classes = np.array([found[f"prob_class_{index}"] for index in range(classes)]).T
    np.testing.assert_allclose(of_classes, [expected[key] for key in found["id"]], atol=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_1100_features_and_1100_classes_are_validated_scored_and_committed(tmp_path: Path) -> None:
    workspace = made(tmp_path, 1100, 1100, LEAN)
    expected = day(workspace, 1100, 20)
    assert_scored(workspace, expected, workspace.run().record)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("features", "classes"), [(1000, 2), (20, 1000)])
def test_1000_features_or_classes_go_through_every_command(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, features: int, classes: int
) -> None:
    workspace = made(tmp_path, features, classes)
    monkeypatch.setenv("LAKESCORE_LAKE", workspace.settings.lake)
    monkeypatch.setenv("LAKESCORE_JOBS", str(workspace.settings.jobs))
    monkeypatch.setenv("LAKESCORE_MODELS", workspace.settings.models)
    for ds in (DAY, NEXT):
        expected = day(workspace, features, 150, ds)
        assert_scored(workspace, expected, workspace.run(ds).record)
    cli("query", "SELECT count(*), min(prob_class_1) FROM predictions")
    cli("explain", "u1", "--job", "toy", "--date", NEXT, "--replay")
    cli("drift", "--job", "toy", "--date", NEXT)
    cli("report")
    cli("verify")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("features", "classes"), [(5000, 2), (20, 5000)])
def test_5000_features_or_classes_are_scored_and_profiled_in_a_runs_memory(
    tmp_path: Path, features: int, classes: int
) -> None:
    workspace = made(tmp_path, features, classes, "[report]\nenabled = false\n")
    expected = day(workspace, features, 150)
    assert_scored(workspace, expected, workspace.run().record)
    (profile,) = (workspace.lake / f"profiles/job=toy/ds={DAY}").rglob("*.parquet")
    counted = pq.read_table(profile, columns=["column_name"], partitioning=None).column(0).to_pylist()
    assert len(counted) == features + (1 if classes == 2 else classes) + 2
