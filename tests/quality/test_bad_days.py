"""Realistic bad days, each caught by a named check."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.demo import FEATURES, make_workspace
from pipeline.errors import ModelRefused, QualityStop
from pipeline.flow.day import run_day
from pipeline.ingest.generate import batches
from pipeline.model.registry import Registry
from pipeline.quality import builtin
from pipeline.records import CheckResult
from tests.workspace import Workspace, kept_as_it_is

ROWS = 2000
DAYS = ("2026-01-01", "2026-01-02", "2026-01-03")
BAD = "2026-01-04"
Change = Callable[[pa.Table], pa.Table]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """The default job, its suites, and a model."""
    root = tmp_path_factory.mktemp("customers") / "made"
    make_workspace(root)
    made = Workspace(root)
    made.model(name="batch_inference", features=FEATURES)
    _scale_down(made)
    with kept_as_it_is(made):
        yield made


@pytest.fixture(scope="module")
def scored(fresh: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Workspace, list[CheckResult]]]:
    """The same after three good days, and the results of the last one."""
    made = fresh.copy_to(tmp_path_factory.mktemp("scored"))
    checks: list[CheckResult] = []
    for ds in DAYS:
        write(made, ds)
        checks = run(made, ds)
        assert caught(checks) == {}
    with kept_as_it_is(made):
        yield made, checks


@pytest.fixture
def customers(fresh: Workspace, tmp_path: Path) -> Workspace:
    return fresh.copy_to(tmp_path)


@pytest.fixture
def after_good_days(scored: tuple[Workspace, list[CheckResult]], tmp_path: Path) -> Workspace:
    return scored[0].copy_to(tmp_path)


DIMENSIONS = {"input_dim": 6, "hidden_dim": 16, "output_dim": 2}


def _scale_down(workspace: Workspace) -> None:
    """Registers a network that takes features of any size, as a trained one with scaling does."""
    torch.manual_seed(1)
    layers = [torch.nn.Linear(6, 16), torch.nn.Linear(16, 2)]
    with torch.no_grad():
        layers[0].weight /= torch.tensor([40.0, 70_000, 500, 5, 80, 30])
    state = {f"fc{i}.{name}": value for i, layer in enumerate(layers) for name, value in layer.state_dict().items()}
    path = workspace.root / "scaled.pt"
    torch.save({"model_state_dict": state, **DIMENSIONS}, path)
    registry = Registry(Path(workspace.settings.models))
    registry.register(path, name="batch_inference", version="v2", features=FEATURES, alias="production")


def write(workspace: Workspace, ds: str, change: Change = lambda rows: rows) -> None:
    rows = pa.Table.from_batches(list(batches(ds, ROWS, 0)))
    workspace.day(change(rows), ds)


def run(workspace: Workspace, ds: str) -> list[CheckResult]:
    """Returns the results of a day, whether it stops or not."""
    ctx = workspace.context("batch_inference")
    try:
        record = run_day(ctx, ds).record
    except QualityStop:
        record = ctx.lake.records.of_day("batch_inference", ds)[0]
    assert record is not None
    return list(record.checks)


def caught(checks: list[CheckResult]) -> dict[str, str]:
    return {check.name: check.outcome for check in checks if check.outcome != "passed"}


def values(rows: pa.Table, name: str, change: Callable[[np.ndarray], np.ndarray]) -> pa.Table:
    index = rows.schema.get_field_index(name)
    return rows.set_column(index, name, pa.array(change(rows.column(name).to_numpy())))


def constant(rows: pa.Table) -> pa.Table:
    for name in FEATURES:
        rows = values(rows, name, lambda column: np.full(len(column), column[0]))
    return rows


def swapped(rows: pa.Table) -> pa.Table:
    names = [{"age": "income", "income": "age"}.get(name, name) for name in rows.column_names]
    return rows.rename_columns(names)


def cents(rows: pa.Table) -> pa.Table:
    return values(rows, "income", lambda column: column * 100)


@pytest.mark.slow
def test_run_good_days_pass_every_check(scored: tuple[Workspace, list[CheckResult]]) -> None:
    _, checks = scored
    assert {check.engine for check in checks} == {"gx", "sql", "plan", "model"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "name"),
    [
        pytest.param(constant, "all_default_features", id="constant features"),
        pytest.param(swapped, "scale:age", id="swapped columns"),
        pytest.param(cents, "income_mean", id="income in cents"),
        pytest.param(lambda rows: rows.slice(0, ROWS // 10), "row_count", id="a tenth of the rows"),
    ],
)
def test_run_bad_day_is_stopped_by_a_named_check(after_good_days: Workspace, change: Change, name: str) -> None:
    write(after_good_days, BAD, change)
    assert caught(run(after_good_days, BAD))[name] == "stopped"
    assert not list((after_good_days.lake / "predictions").rglob(f"ds={BAD}"))


@pytest.mark.parametrize(("change", "name"), [(cents, "scale:income"), (swapped, "scale:age")])
def test_run_other_units_are_seen_without_a_suite(after_good_days: Workspace, change: Change, name: str) -> None:
    for side in ("input", "output"):
        (after_good_days.settings.jobs / "batch_inference" / f"{side}.json").unlink()
    write(after_good_days, BAD, change)
    (stopped,) = (check for check in run(after_good_days, BAD) if check.name == name)
    assert stopped.outcome == "stopped"
    told = r"typical size [\d,.]+, usually [\d,.]+; first seen in unscored/ds=.*/data\.parquet"
    assert re.fullmatch(told, stopped.observed or "")


def test_scale_of_older_records_is_read_from_their_text() -> None:
    fields = {"suite": "input", "name": "scale:a", "expectation": "guard", "severity": "critical", "success": True}
    older = CheckResult.model_validate({**fields, "outcome": "passed", "observed": "9.33"})
    newer = CheckResult.model_validate(
        {**fields, "outcome": "passed", "observed": "typical size 3", "expected": "x", "value": 1.5}
    )
    assert [builtin.measured(check) for check in (older, newer)] == [9.33, 1.5]


def test_run_model_with_weights_of_zero_is_stopped_and_its_predictions_put_aside(customers: Workspace) -> None:
    state = torch.load(customers.root / "scaled.pt")["model_state_dict"]
    path = customers.root / "zero.pt"
    torch.save(
        {"model_state_dict": {name: torch.zeros_like(value) for name, value in state.items()}, **DIMENSIONS}, path
    )
    Registry(Path(customers.settings.models)).register(
        path, name="batch_inference", version="v3", features=FEATURES, alias="production"
    )
    write(customers, DAYS[0])
    assert caught(run(customers, DAYS[0]))["constant_scores"] == "stopped"
    assert not list(customers.lake.rglob("part-*"))
    assert sum(pq.read_metadata(path).num_rows for path in customers.lake.glob(".rejected/**/scored-*")) == ROWS
    assert not list(customers.lake.glob(".staging/**/*.parquet"))


def test_run_guard_switched_off_lets_pass_and_shows_as_off(customers: Workspace) -> None:
    path = customers.settings.jobs / "batch_inference" / "job.toml"
    text = path.read_text()
    path.unlink()
    path.write_text(text + '\n[quality]\noff = ["constant_scores", "class_share"]\n')
    state = torch.load(customers.root / "scaled.pt")["model_state_dict"]
    zero = customers.root / "zero.pt"
    torch.save(
        {"model_state_dict": {name: torch.zeros_like(value) for name, value in state.items()}, **DIMENSIONS}, zero
    )
    registry = Registry(Path(customers.settings.models))
    registry.register(zero, name="batch_inference", version="v3", features=FEATURES, alias="production")
    write(customers, DAYS[0])
    found = caught(run(customers, DAYS[0]))
    assert found == {"constant_scores": "off", "class_share": "off"}
    assert list(customers.lake.rglob("part-*"))


def test_run_model_that_no_longer_gives_its_golden_batch_scores_nothing(
    customers: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.model import checkpoint

    build = checkpoint.build

    def other(found: checkpoint.Checkpoint, activation: str) -> torch.nn.Sequential:
        return torch.nn.Sequential(build(found, activation), torch.nn.ReLU())  # as if torch's arithmetic had changed

    monkeypatch.setattr(checkpoint, "build", other)
    write(customers, DAYS[0])
    assert caught(run(customers, DAYS[0])) == {"golden_batch": "stopped"}
    assert not list(customers.lake.rglob("scored-*"))


def test_register_features_in_another_order_than_trained_is_refused_by_the_golden_batch(customers: Workspace) -> None:
    registry = Registry(Path(customers.settings.models))
    predictor = registry.load(registry.resolve("batch_inference", "v2"), "cpu")
    rows = pa.Table.from_batches(list(batches(DAYS[0], 50, 0)))
    matrix = np.column_stack([rows.column(name).to_numpy().astype(np.float32) for name in FEATURES])
    trained = predictor.predict(matrix, 50)["prob_class_1"]
    examples = rows.append_column("prob_class_1", pa.array(trained))
    path = customers.root / "scaled.pt"
    registry.register(path, name="batch_inference", version="v3", features=FEATURES, examples=examples)
    with pytest.raises(ModelRefused, match="does not reproduce the examples' prob_class_1"):
        registry.register(
            path, name="batch_inference", version="v4", features=tuple(reversed(FEATURES)), examples=examples
        )
