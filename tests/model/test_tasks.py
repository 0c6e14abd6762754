"""Tasks: what regression and multi-label models store, and the resulting checks, statistics and views."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from pipeline.api.scorer import Scorer
from pipeline.cli.commands import command_line
from pipeline.errors import JobError, ModelMismatch, ModelRefused, QualityStop
from pipeline.job.loading import find_job
from pipeline.model.card import Card
from pipeline.model.manifest import Signature
from pipeline.model.outputs import output_schema, quantile
from pipeline.model.predictor import Predictor
from pipeline.model.registry import Registry
from pipeline.records import RunRecord
from tests.workspace import DAY, Workspace, table

ROWS = 120
LABELS = ["sport", "news", "arts"]
QUANTILES = {"task": "regression", "quantiles": [0.05, 0.5, 0.95]}
X = np.random.default_rng(0).normal(size=(ROWS, 2)).astype(np.float32)


def network(outputs: int) -> nn.Sequential:
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, outputs)).eval()


class Ordered(nn.Module):
    """Quantiles that never cross, as a quantile regression should output them."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raw = self.inner(x)
        return torch.cumsum(torch.cat([raw[:, :1], nn.functional.softplus(raw[:, 1:])], dim=1), dim=1)


def raw(module: nn.Module, matrix: Any = X) -> Any:
    with torch.inference_mode():
        return module(torch.from_numpy(matrix)).numpy()


def predict(module: nn.Module, **signature: Any) -> dict[str, Any]:
    entries = {"features": ("a", "b"), **signature}
    return Predictor(module, Signature.model_validate(entries), "cpu").predict(X, 32)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = Workspace(tmp_path)
    made.job()
    made.day(ROWS)
    return made


def register(workspace: Workspace, module: nn.Module, classes: Any = None, **signature: Any) -> None:
    path = workspace.root / "m.pt"
    if isinstance(module, nn.Sequential):
        torch.save(module.state_dict(), path)
        signature["architecture"] = "mlp:relu"
    else:
        from tests.model.programs import export

        path = export(workspace.root / "m.pt2", module, 2)
    Registry(Path(workspace.settings.models)).register(
        path,
        name="toy",
        version="v1",
        features=("a", "b"),
        classes=classes,
        alias="production",
        card=Card(signature=signature),
    )


def outcomes(record: RunRecord) -> dict[str, str]:
    return {check.name: check.outcome for check in record.checks if check.suite == "output"}


def matrix_of(ids: list[str]) -> Any:
    rows = table(ROWS).to_pylist()
    by_id = {row["id"]: [row["a"], row["b"]] for row in rows}
    return np.array([by_id[each] for each in ids], np.float32)


# Predictions


def test_regression_gives_the_value() -> None:
    found = predict(network(1), task="regression")
    assert list(found) == ["value"]
    np.testing.assert_allclose(found["value"], raw(network(1))[:, 0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["variance", "log_variance"])
def test_regression_with_variance_gives_it_beside_the_mean(kind: str) -> None:
    found = predict(network(2), task="regression", variance=kind)
    mean, second = raw(network(2)).T
    np.testing.assert_allclose(found["value"], mean, rtol=0, atol=1e-6)
    wanted = np.exp(second) if kind == "log_variance" else second
    np.testing.assert_allclose(found["value_variance"], wanted, rtol=1e-5, atol=1e-6)


def test_regression_with_quantiles_predicts_the_middle_one() -> None:
    found = predict(Ordered(), **QUANTILES)
    assert list(found) == ["value", "value_q5", "value_q50", "value_q95"]
    np.testing.assert_allclose(np.column_stack(list(found.values())), raw(Ordered())[:, [1, 0, 1, 2]], atol=1e-6)


@pytest.mark.parametrize(
    ("level", "name"), [(0.05, "value_q5"), (0.5, "value_q50"), (0.975, "value_q97_5"), (0.0001, "value_q0_01")]
)
def test_quantile_is_named_by_its_percent(level: float, name: str) -> None:
    assert quantile(level) == name


@pytest.mark.parametrize("classes", [LABELS, [7, 8, 9]])
def test_multilabel_gives_each_probability_and_the_labels_that_reach_the_threshold(classes: list[Any]) -> None:
    found = predict(network(3), task="multilabel", classes=classes, threshold=0.6)
    wanted = 1 / (1 + np.exp(-raw(network(3))))
    for index in range(3):
        np.testing.assert_allclose(found[f"prob_class_{index}"], wanted[:, index], rtol=0, atol=1e-6)
    lists = [[label for label, score in zip(classes, row, strict=True) if score >= 0.6] for row in wanted]
    assert [list(each) for each in found["prediction"]] == lists
    assert {len(each) for each in lists} > {0, 1}


def test_scorer_gives_the_columns_of_the_task(workspace: Workspace) -> None:
    register(workspace, network(3), LABELS, task="multilabel")
    scorer = Scorer.load("toy", models=workspace.settings.models, device="cpu")
    found = scorer.score(pa.table({"a": [1.0, None], "b": [2.0, 3.0]}))
    assert found.schema.field("prediction").type == pa.list_(pa.string())
    assert found["prediction"].to_pylist()[1] is None


@pytest.mark.parametrize(
    ("signature", "said"),
    [
        ({"task": "regression", "classes": (1, 2)}, "has no `classes`"),
        ({"classes": (0, 1), "quantiles": (0.5,)}, "belong to a regression"),
        ({"task": "regression", "quantiles": (0.5, 0.1, 0.9)}, "ascending"),
        ({"task": "regression", "quantiles": (0.1, 0.9)}, "odd in number"),
        ({"task": "regression", "quantiles": (0.1, 0.50001, 0.9)}, "at most four decimals"),
        ({"task": "regression", "quantiles": (0.5,), "variance": "variance"}, "not both"),
        ({"task": "multilabel"}, "at least 1 item"),
        ({"task": "forecast"}, "Input should be"),
        ({"task": "ranking", "classes": (1, 2)}, "a ranking needs `top`"),
        ({"task": "ranking", "classes": (1, 2), "top": 3}, "at least as many `classes`"),
        ({"classes": (1, 2), "top": 1}, "a ranking needs `top`"),
    ],
)
def test_signature_that_fits_no_task_is_refused(signature: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Signature.model_validate({"features": ("a",), **signature})


@pytest.mark.parametrize(
    ("outputs", "signature", "said"),
    [
        (3, {"task": "regression"}, "has 3 outputs, but its signature has 1"),
        (1, QUANTILES, "has 1 outputs, but its signature has 3"),
    ],
)
def test_register_refuses_a_task_that_does_not_fit(
    workspace: Workspace, outputs: int, signature: dict[str, Any], said: str
) -> None:
    with pytest.raises(ModelRefused, match=said):
        register(workspace, network(outputs), **signature)


def test_model_that_gives_other_outputs_than_its_signature_is_refused() -> None:
    with pytest.raises(ModelMismatch, match="does not match its signature"):
        predict(network(2), task="regression")


# Runs


@pytest.mark.slow
def test_run_of_a_regression_stores_values_and_says_how_they_lie(workspace: Workspace) -> None:
    register(workspace, network(1), task="regression")
    record = workspace.complete()
    stored = workspace.stored()
    values = [row["value"] for row in stored]
    wanted = raw(network(1), matrix_of([row["id"] for row in stored]))[:, 0]
    np.testing.assert_allclose(values, wanted, rtol=0, atol=1e-6)
    assert "prediction" not in stored[0]
    assert record.statistics.classes == {}
    assert record.statistics.values == pytest.approx({"mean": np.mean(values), "low": min(values), "high": max(values)})
    found = outcomes(record)
    assert found["values_finite"] == "passed"
    assert not [name for name in found if name.startswith("prob") or name in ("class_share", "mean_confidence")]
    assert workspace.run().up_to_date
    workspace.day(ROWS + 5)
    assert workspace.complete().statistics.reasons == {"changed": ROWS, "new": 5}


@pytest.mark.slow
def test_run_of_quantiles_checks_their_order(workspace: Workspace) -> None:
    register(workspace, Ordered(), **QUANTILES)
    assert outcomes(workspace.complete())["quantiles_in_order"] == "passed"


def test_run_of_quantiles_that_cross_stops(workspace: Workspace) -> None:
    register(workspace, network(3), **QUANTILES)
    with pytest.raises(QualityStop, match="quantiles_in_order"):
        workspace.run()


def test_run_of_a_negative_variance_stops(workspace: Workspace) -> None:
    register(workspace, network(2), task="regression", variance="variance")
    with pytest.raises(QualityStop, match="variance_not_negative"):
        workspace.run()


def test_run_of_values_that_are_not_finite_stops(workspace: Workspace) -> None:
    module = network(1)
    register(workspace, module, task="regression")
    workspace.day({"id": ["u1", "u2"], "a": [1.0, 3e38], "b": [1.0, 3e38]})
    with pytest.raises(QualityStop, match="values_finite"):
        workspace.run()


def test_run_of_values_that_are_not_finite_is_recorded_where_nothing_is_validated(workspace: Workspace) -> None:
    register(workspace, network(1), task="regression")
    job = workspace.settings.jobs / "toy" / "job.toml"
    job.write_text(job.read_text() + "[quality]\nenabled = false\n")
    workspace.day({"id": ["u1", "u2"], "a": [1.0, 3e38], "b": [1.0, 3e38]})
    record = workspace.complete()
    assert (record.statistics.values, record.statistics.reasons) == (None, {"new": 2})
    assert workspace.run().up_to_date


def test_run_of_constant_values_stops(workspace: Workspace) -> None:
    module = network(1)
    for parameter in module.parameters():
        parameter.data.zero_()
    list(module.parameters())[-1].data.fill_(1000.0)
    register(workspace, module, task="regression")
    with pytest.raises(QualityStop, match="constant_scores"):
        workspace.run()


@pytest.mark.slow
def test_run_of_multilabel_counts_each_label(workspace: Workspace) -> None:
    register(workspace, network(3), LABELS, task="multilabel", threshold=0.6)
    record = workspace.complete()
    stored = workspace.stored()
    scores = 1 / (1 + np.exp(-raw(network(3), matrix_of([row["id"] for row in stored]))))
    wanted = [[label for label, score in zip(LABELS, row, strict=True) if score >= 0.6] for row in scores]
    assert [row["prediction"] for row in stored] == wanted
    counts = {label: sum(label in each for each in wanted) for label in LABELS}
    nothing = sum(not each for each in wanted)
    assert nothing
    assert record.statistics.classes == {**counts, "": nothing}
    assert record.statistics.shares["no label"] == nothing / ROWS
    assert sum(record.statistics.shares.values()) > 1
    assert record.statistics.reasons == {"new": ROWS}
    found = outcomes(record)
    assert found["prediction_known"] == "passed"
    assert "probabilities_sum" not in found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("outputs", "classes", "signature", "column", "said"),
    [
        (1, None, {"task": "regression"}, "value", "values from"),
        (3, LABELS, {"task": "multilabel"}, "prediction", "labels"),
        (3, LABELS, {"task": "ranking", "top": 2}, "top_items", "3 items, the best with scores from"),
    ],
)
def test_commands_show_what_a_task_gives(
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    outputs: int,
    classes: Any,
    signature: dict[str, Any],
    column: str,
    said: str,
) -> None:
    register(workspace, network(outputs), classes, **signature)
    monkeypatch.chdir(workspace.root)
    run = CliRunner().invoke(command_line(), ["run", "--job", "toy", "--date", DAY])
    assert (run.exit_code, run.exception) == (0, None)
    assert said in run.output
    text = f"SELECT count({column}) AS n FROM predictions"
    shown = CliRunner().invoke(command_line(), ["query", text, "--json"])
    assert (shown.exit_code, shown.exception) == (0, None)
    assert json.loads(shown.stdout)[0]["n"] == ROWS
    text = "SELECT value_range IS NOT NULL AS ranged, items FROM runs"
    (found,) = json.loads(CliRunner().invoke(command_line(), ["query", text, "--json"]).stdout)
    assert found == {"ranged": column != "prediction", "items": 3 if column == "top_items" else None}


@pytest.mark.slow
def test_value_distribution_is_that_of_the_stored_values(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    register(workspace, network(1), task="regression")
    workspace.complete()
    monkeypatch.chdir(workspace.root)
    shown = CliRunner().invoke(command_line(), ["query", "value_distribution", "--json"])
    assert (shown.exit_code, shown.exception) == (0, None)
    (row,) = json.loads(shown.stdout)
    values = [each["value"] for each in workspace.stored()]
    assert row["rows"] == ROWS
    assert row["mean"] == pytest.approx(np.mean(values), abs=1e-6)
    assert row["q50"] == pytest.approx(np.median(values), abs=1e-6)


@pytest.mark.parametrize("column", ["value", "value_q5", "value_q97_5", "value_variance", "top_items", "top_scores"])
def test_job_that_carries_a_column_of_a_task_is_refused(workspace: Workspace, column: str) -> None:
    workspace.job("carrying", reads=f'carry = ["{column}"]')
    with pytest.raises(JobError, match=r"a column .* of its own"):
        find_job("carrying", workspace.settings)


def test_job_may_carry_a_column_that_only_begins_alike(workspace: Workspace) -> None:
    workspace.job("carrying", reads='carry = ["value_date"]')
    assert find_job("carrying", workspace.settings).input.carry == ("value_date",)


def test_output_schema_has_no_null() -> None:
    for signature in ({"task": "regression"}, QUANTILES, {"task": "multilabel", "classes": (1, 2)}):
        schema = output_schema(Signature.model_validate({"features": ("a",), **signature}))
        assert not any(field.nullable for field in schema)
