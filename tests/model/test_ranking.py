"""Rankings: the best of many items per row, without ever holding the scores of all rows in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from pipeline.api.scorer import Scorer, score_file
from pipeline.errors import ModelRefused, QualityStop, SchemaMismatch
from pipeline.model import heads
from pipeline.model.card import Card
from pipeline.model.manifest import Signature
from pipeline.model.predictor import Predictor
from pipeline.model.registry import Registry
from pipeline.quality import outputs
from pipeline.records import RunRecord
from tests.workspace import Workspace

ROWS, ITEMS, TOP = 150, 10_000, 10
NAMES = [f"item {number}" for number in range(ITEMS)]
X = np.random.default_rng(0).normal(size=(ROWS, 2)).astype(np.float32)


def network(items: int = ITEMS) -> nn.Sequential:
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, items)).eval()


def scores_of(matrix: Any) -> Any:
    """Returns the scores of all items (rows, items)."""
    with torch.inference_mode():
        return network()(torch.from_numpy(matrix)).numpy()


def ranking(items: Any = NAMES, top: int = TOP) -> Signature:
    return Signature(features=("a", "b"), task="ranking", classes=tuple(items), top=top)


def register(workspace: Workspace, module: nn.Module, items: Any = NAMES, top: int = TOP) -> None:
    torch.save(module.state_dict(), workspace.root / "m.pt")
    Registry(Path(workspace.settings.models)).register(
        workspace.root / "m.pt",
        name="toy",
        version="v1",
        features=("a", "b"),
        alias="production",
        card=Card(signature={"task": "ranking", "top": top, "classes": items, "architecture": "mlp:relu"}),
    )


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = Workspace(tmp_path)
    made.job()
    made.day(ROWS)
    return made


def outcomes(record: RunRecord) -> dict[str, str]:
    return {check.name: check.outcome for check in record.checks if check.suite == "output"}


@pytest.mark.parametrize("items", [NAMES, list(range(ITEMS)), list(range(5, ITEMS + 5))], ids=["text", "index", "ids"])
def test_ranking_gives_the_best_items_and_their_scores_in_order(items: list[Any]) -> None:
    found = Predictor(network(), ranking(items), "cpu").predict(X, 64)
    scores = scores_of(X)
    order = np.argsort(-scores, axis=1)[:, :TOP]
    assert found["top_items"].tolist() == [[items[index] for index in row] for row in order]
    np.testing.assert_allclose(found["top_scores"], np.take_along_axis(scores, order, 1), rtol=0, atol=1e-5)


def test_ranking_in_arrow_is_the_same_as_in_numpy() -> None:
    predictor = Predictor(network(), ranking(), "cpu")
    found, batch = predictor.predict(X, 64), predictor.predict_arrow(X, 64)
    assert batch.schema.types == [pa.list_(pa.string()), pa.list_(pa.float32())]
    assert batch.column("top_items").to_pylist() == found["top_items"].tolist()
    assert batch.column("top_scores").to_pylist() == found["top_scores"].tolist()


def test_ranking_of_no_rows_is_empty() -> None:
    assert Predictor(network(), ranking(), "cpu").predict_arrow(X[:0], 64).num_rows == 0


def test_ranking_never_holds_the_scores_of_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    module = network()
    module.register_forward_hook(lambda _module, _arguments, result: seen.append(result.numel()))
    monkeypatch.setattr(heads, "SCORES_AT_ONCE", 20 * ITEMS)
    whole = Predictor(module, ranking(), "cpu").predict(X, 8192)
    assert seen == [20 * ITEMS] * 7 + [10 * ITEMS]
    monkeypatch.undo()
    alone = Predictor(network(), ranking(), "cpu").predict(X, 1)
    np.testing.assert_allclose(whole["top_scores"], alone["top_scores"], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_ranking_of_every_item_and_of_one(workspace: Workspace) -> None:
    assert Predictor(network(3), ranking("abc", 3), "cpu").predict(X, 64)["top_items"].shape == (ROWS, 3)
    register(workspace, network(3), list("abc"), 1)
    workspace.complete()
    assert {len(row["top_items"]) for row in workspace.stored()} == {1}


def test_register_refuses_a_ranking_of_other_items(workspace: Workspace) -> None:
    with pytest.raises(ModelRefused, match="has 9999 outputs, but its signature has 10000"):
        register(workspace, network(ITEMS - 1))


def test_register_checks_the_examples_scores(workspace: Workspace) -> None:
    torch.save(network().state_dict(), workspace.root / "m.pt")
    scores = np.sort(scores_of(X[:5]), axis=1)[:, ::-1][:, :TOP]
    card = Card(signature={"task": "ranking", "top": TOP, "classes": NAMES})
    registry = Registry(Path(workspace.settings.models))

    def register_with(top_scores: Any, version: str) -> None:
        examples = pa.table({"a": X[:5, 0], "b": X[:5, 1], "top_scores": top_scores.tolist()})
        registry.register(
            workspace.root / "m.pt", name="m", version=version, features=("a", "b"), examples=examples, card=card
        )

    for wrong in (scores + 0.01, scores[:, :-1]):
        with pytest.raises(ModelRefused, match="does not reproduce the examples' top_scores"):
            register_with(wrong, "wrong")
    register_with(scores, "right")


@pytest.mark.slow
def test_run_of_a_ranking_stores_lists_and_says_how_they_lie(workspace: Workspace) -> None:
    register(workspace, network())
    record = workspace.complete()
    stored = workspace.stored()
    rows = {row["id"]: row for row in pq.read_table(workspace.lake / "unscored").to_pylist()}
    matrix = np.array([[rows[row["id"]]["a"], rows[row["id"]]["b"]] for row in stored], np.float32)
    order = np.argsort(-scores_of(matrix), axis=1)[:, :TOP]
    assert [row["top_items"] for row in stored] == [[NAMES[index] for index in row] for row in order]
    best = [row["top_scores"][0] for row in stored]
    assert record.statistics.values == pytest.approx({"mean": np.mean(best), "low": min(best), "high": max(best)})
    assert record.statistics.items == len({item for row in stored for item in row["top_items"]})
    assert record.statistics.reasons == {"new": ROWS}
    names = ["scores_finite", "ranking_complete", "ranking_in_order", "items_known", "first_item_share"]
    assert {name: outcomes(record)[name] for name in names} == dict.fromkeys(names, "passed")
    assert workspace.run().up_to_date


def test_score_of_a_table_and_a_file_gives_the_lists(workspace: Workspace, tmp_path: Path) -> None:
    register(workspace, network())
    scorer = Scorer.load("toy", models=workspace.settings.models, device="cpu")
    rows = pa.table({"a": [*map(float, X[:3, 0]), None], "b": [*map(float, X[:3, 1]), 1.0]})
    wanted = [[NAMES[index] for index in row] for row in np.argsort(-scores_of(X[:3]), axis=1)[:, :TOP]]
    assert scorer.score(rows)["top_items"].to_pylist() == [*wanted, None]
    assert list(map(list, scorer.score(rows.to_pandas())["top_items"][:3])) == wanted
    pq.write_table(rows, tmp_path / "in.parquet")
    assert score_file(scorer, tmp_path / "in.parquet", tmp_path / "out.parquet") == (4, 1)
    assert pq.read_table(tmp_path / "out.parquet")["top_items"].to_pylist() == [*wanted, None]
    with pytest.raises(SchemaMismatch, match="cannot be written as CSV"):
        score_file(scorer, tmp_path / "in.parquet", tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def staged_as(monkeypatch: pytest.MonkeyPatch, items: list[Any], scores: list[float]) -> None:
    """Makes the ranking return these lists for each row."""

    def arrow(_head: heads.Ranking, results: heads.Results) -> list[Any]:
        rows = results[0].shape[1]
        return [pa.array([items] * rows, pa.list_(pa.string())), pa.array([scores] * rows, pa.list_(pa.float32()))]

    monkeypatch.setattr(heads.Ranking, "arrow", arrow)


@pytest.mark.parametrize(
    ("items", "scores", "check"),
    [
        (["a", "b"], [2.0, np.nan], "scores_finite"),
        (["a", "b"], [2.0, -np.inf], "scores_finite"),
        (["a", "b"], [1.0, 2.0], "ranking_in_order"),
        (["a", "a"], [2.0, 1.0], "ranking_complete"),
        (["a"], [2.0], "ranking_complete"),
        (["a", "b", "c"], [3.0, 2.0, 1.0], "ranking_complete"),
        (["a", "x"], [2.0, 1.0], "items_known"),
    ],
)
def test_run_of_an_invalid_ranking_stops(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, items: list[Any], scores: list[float], check: str
) -> None:
    register(workspace, network(3), list("abc"), 2)
    staged_as(monkeypatch, items, scores)
    with pytest.raises(QualityStop, match=check):
        workspace.run()
    assert not list((workspace.lake / "predictions").rglob("part-*.parquet"))


def test_ranking_that_is_the_same_for_everybody_is_noted(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    module = network(3)
    last = module[2]
    assert isinstance(last, nn.Linear)
    last.bias.data[:] = torch.tensor([0.0, 100.0, 0.0])
    register(workspace, module, list("abc"), 2)
    assert outcomes(workspace.complete())["first_item_share"] == "noted"
    monkeypatch.setattr(outputs, "MOST", 1.0)
    workspace.day(ROWS, "2026-01-02")
    assert outcomes(workspace.complete("2026-01-02"))["first_item_share"] == "passed"


@pytest.mark.slow
def test_run_after_a_crash_adopts_the_lists_that_were_staged(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(workspace, network())

    def crash(*_arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(outputs, "examine", crash)
        with pytest.raises(KeyboardInterrupt):
            workspace.run()
    with monkeypatch.context() as forbidden:
        forbidden.setattr(Predictor, "predict_arrow", crash)
        record = workspace.complete()
    assert record.dispositions["adopted"] == ROWS
    rows = {row["id"]: row for row in pq.read_table(workspace.lake / "unscored").to_pylist()}
    stored = workspace.stored()
    matrix = np.array([[rows[row["id"]]["a"], rows[row["id"]]["b"]] for row in stored], np.float32)
    order = np.argsort(-scores_of(matrix), axis=1)[:, :TOP]
    assert [row["top_items"] for row in stored] == [[NAMES[index] for index in row] for row in order]
