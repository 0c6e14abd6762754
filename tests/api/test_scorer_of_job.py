"""A row that is scored online equals its stored prediction: for each task, with imputation, categories and NULL."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from pipeline.api.scorer import Scorer
from pipeline.errors import JobError, ModelMismatch
from pipeline.model.card import Card
from pipeline.model.registry import Registry
from tests.model.programs import export
from tests.workspace import Workspace

ROWS = 60
TOLERANCE = 1e-5
"""Of outputs that are computed with other rows, absolute or relative to the output: docs/models.md."""
INPUTS = {
    "channel": {"kind": "category", "vocabulary": ["web", "app", "shop"], "unknown": "quarantine", "null": "web"},
    "visits": {"kind": "number", "null": 3.5, "scale": [{"log1p": True}]},
    "seen": {"kind": "timestamp", "convert": "cyclic", "period": "week"},
    "profile": {"kind": "list", "length": 4, "null": 0},
}
FEATURES = ("age", *INPUTS)
WIDTH = 9


class Filled(nn.Module):
    """Replaces NaN itself, as a model does that is given NULL."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(WIDTH, 16), nn.Tanh(), nn.Linear(16, outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(torch.nan_to_num(x, nan=-1.0) / 10)


class Quantiles(Filled):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raw = super().forward(x)
        return torch.cumsum(torch.cat([raw[:, :1], nn.functional.softplus(raw[:, 1:])], dim=1), dim=1)


@dataclass(frozen=True)
class Case:
    module: Callable[[], nn.Module]
    entries: dict[str, Any]
    job: str = ""
    rejected: set[int] = field(default_factory=lambda: {5, 7, 11})
    """Rows that a run puts into quarantine: age is NULL (5), infinite (7), the channel is unknown (11)."""


BINARY = {"classes": ("stays", "leaves"), "outputs": "logits"}
CASES = {
    "classification": Case(lambda: Filled(2), BINARY),
    "classification, NULL to the model": Case(
        lambda: Filled(2), BINARY, '[policy]\nnull_features = "score"\nmax_quarantined = 1.0\n', {7, 11}
    ),
    "classification, bfloat16": Case(lambda: Filled(5), {"outputs": "logits"}, '[engine]\nprecision = "bfloat16"\n'),
    "regression": Case(lambda: Filled(1), {"task": "regression"}),
    "regression, quantiles": Case(lambda: Quantiles(3), {"task": "regression", "quantiles": (0.1, 0.5, 0.9)}),
    "multi-label": Case(
        lambda: Filled(3), {"task": "multilabel", "classes": ("news", "sport", "arts"), "outputs": "logits"}
    ),
    "ranking": Case(
        lambda: Filled(50), {"task": "ranking", "classes": tuple(f"sku-{n}" for n in range(50)), "top": 10}
    ),
}


def register(workspace: Workspace, case: Case, seed: int = 4) -> None:
    torch.manual_seed(seed)
    path = export(workspace.root / f"model-{seed}.pt2", case.module().eval(), WIDTH)
    card = Card(signature={"inputs": INPUTS} | {k: v for k, v in case.entries.items() if k != "classes"})
    Registry(Path(workspace.settings.models)).register(
        path,
        name="toy",
        version=f"v{seed}",
        features=FEATURES,
        classes=case.entries.get("classes"),
        alias="production",
        card=card,
    )


def rows() -> pa.Table:
    """Features as they arrive: with NULL that is replaced, NULL that is not, infinity, and an unknown category."""
    rng = np.random.default_rng(6)
    age: list[float | None] = rng.uniform(18, 90, ROWS).tolist()
    age[5], age[7] = None, float("inf")
    channel: list[str | None] = rng.choice(["web", "app", "shop"], ROWS).tolist()
    channel[2], channel[11] = None, "fax"
    visits: list[int | None] = rng.integers(0, 50, ROWS).tolist()
    visits[3] = visits[5] = None
    profile: list[list[float | None] | None] = rng.normal(size=(ROWS, 4)).tolist()
    profile[4], profile[6] = None, [0.5, None, 0.5, 0.5]
    seen = [datetime(2026, 1, 5, tzinfo=UTC) + timedelta(hours=7 * number) for number in range(ROWS)]
    columns = {"age": age, "channel": channel, "visits": visits, "seen": seen, "profile": profile}
    return pa.table({"id": [f"u{number}" for number in range(ROWS)], **columns})


def scored(tmp_path: Path, case: Case) -> Workspace:
    workspace = Workspace(tmp_path)
    folder = workspace.job(features="")
    text = (folder / "job.toml").read_text()
    if "[policy]" in case.job:
        text = text.replace("[policy]\nmax_quarantined = 1.0\n", "")
    quiet = "[quality]\nenabled = false\n[drift]\nenabled = false\n[report]\nenabled = false\n"
    (folder / "job.toml").write_text(text + case.job + quiet)
    register(workspace, case)
    workspace.day(rows())
    return workspace


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=name, marks=[] if name == "classification, NULL to the model" else pytest.mark.slow)
        for name, case in CASES.items()
    ],
)
def test_one_row_scored_online_equals_its_stored_prediction(case: Case, tmp_path: Path) -> None:
    workspace = scored(tmp_path, case)
    record = workspace.complete()
    assert record.ledger is not None
    assert (record.ledger.scored.rows, record.ledger.quarantined.rows) == (
        ROWS - len(case.rejected),
        len(case.rejected),
    )
    stored = {row["id"]: row for row in workspace.stored()}

    scorer = Scorer.of_job("toy", workspace.settings)
    (file,) = workspace.lake.glob("unscored/*/*.parquet")
    bfloat16 = "bfloat16" in case.job
    assert scorer.predictor.precision == ("bfloat16" if bfloat16 else "float32")
    tolerance = 0.02 if bfloat16 else TOLERANCE
    for number, row in enumerate(pq.read_table(file).to_pylist()):
        (found,) = scorer.score(pa.Table.from_pylist([row])).to_pylist()
        if number in case.rejected:
            assert row["id"] not in stored
            assert set(found.values()) == {None}
            continue
        expected = stored[row["id"]]
        for name, value in found.items():
            if isinstance(value, list) and isinstance(value[0] if value else None, float):
                np.testing.assert_allclose(value, expected[name], rtol=tolerance, atol=tolerance)
            elif isinstance(value, float):
                assert value == pytest.approx(expected[name], rel=tolerance, abs=tolerance), (row["id"], name)
            else:
                assert value == expected[name], (row["id"], name)


@pytest.fixture(scope="module")
def regression(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return scored(tmp_path_factory.mktemp("regression"), CASES["regression"])


def test_frame_of_one_row_without_values_is_scored_like_the_table(regression: Workspace) -> None:
    scorer = Scorer.of_job("toy", regression.settings)
    row = rows().slice(2, 3)  # channel is NULL in the first of these rows, visits in the second, profile in the third
    expected = scorer.score(row)["value"].to_pylist()
    for number in range(3):
        (values,) = row.slice(number, 1).to_pylist()
        found = scorer.score(pd.DataFrame([values], index=["here"]))
        assert found.index.tolist() == ["here"]
        assert found["value"].tolist() == pytest.approx([expected[number]], rel=TOLERANCE)


def test_scorer_of_a_job_that_pins_another_model_is_refused(regression: Workspace) -> None:
    folder = regression.job("pinned", features="")
    text = (folder / "job.toml").read_text()
    (folder / "job.toml").write_text(text.replace('name = "toy"', f'name = "toy"\ndigest = "{"0" * 64}"'))
    with pytest.raises(ModelMismatch, match="does not have the digest that the job pins"):
        Scorer.of_job("pinned", regression.settings)
    with pytest.raises(JobError, match="no job is called 'tyo', did you mean 'toy'"):
        Scorer.of_job("tyo", regression.settings)
