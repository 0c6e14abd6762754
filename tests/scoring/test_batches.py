"""The score of a row depends neither on the other rows of its batch, nor on the number of workers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.database import resources
from pipeline.database.connection import connect
from pipeline.job.config import Policy
from pipeline.model.manifest import Signature
from pipeline.model.predictor import Predictor
from pipeline.scoring.batch import prepare
from tests.model.tasks import TASKS, Task, furthest, matrix
from tests.workspace import Workspace, table

TOLERANCE = 1e-5
"""The tolerance that docs/models.md states."""
ROWS = 9_000
BATCHES = (1, 7, 64, 8192, ROWS)
ALONE = 300
"""Number of rows that are scored one by one."""

Scored = tuple[Task, Predictor, dict[str, Any]]


@pytest.fixture(scope="module", params=TASKS, ids=lambda task: task.name)
def scored(request: pytest.FixtureRequest) -> Scored:
    """A task, its model, and the outputs of all rows in batches of 1,000."""
    task: Task = request.param
    predictor = Predictor(task.network(), task.signature, "cpu")
    return task, predictor, predictor.predict(matrix(ROWS), 1000)


def decisions_agree(task: Task, found: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Tells whether labels are the same, except where scores within the tolerance of each other decide them."""
    if task.entries.get("task") == "ranking":
        differ = found["top_items"] != expected["top_items"]
        scores = expected["top_scores"]
        gaps = np.abs(np.diff(scores, axis=1, append=scores[:, -1:]))
        close = np.minimum(gaps, np.roll(gaps, 1, axis=1)) <= 2 * TOLERANCE * np.maximum(1, np.abs(scores))
        close[:, -1] = True  # the score of the item after the last is unknown
        return bool((~differ | close).all())
    if task.entries.get("task") in {"regression", "multilabel"}:
        return True  # a threshold decides, or the labels copy the numbers
    differ = found["prediction"] != expected["prediction"]
    best = np.sort([values for name, values in expected.items() if name.startswith("prob_class_")], axis=0)
    return bool((~differ | (best[-1] - best[-2] <= 2 * TOLERANCE)).all())


@pytest.mark.parametrize("batch_rows", BATCHES)
def test_scores_do_not_depend_on_the_batch_size(scored: Scored, batch_rows: int) -> None:
    task, predictor, of_all = scored
    rows = matrix(ALONE if batch_rows < 64 else ROWS)
    expected = {name: values[: len(rows)] for name, values in of_all.items()}
    found = predictor.predict(rows, batch_rows)
    assert furthest(found, expected) <= TOLERANCE
    assert decisions_agree(task, found, expected)


def test_scores_do_not_depend_on_the_number_of_threads(scored: Scored) -> None:
    task, predictor, expected = scored
    rows = matrix(ROWS)
    parts = np.array_split(np.arange(ROWS), 7)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda part: predictor.predict(rows[part[0] : part[-1] + 1], 999), parts))
    joined = {name: np.concatenate([each[name] for each in found]) for name in expected}
    assert furthest(joined, expected) <= TOLERANCE
    assert decisions_agree(task, joined, expected)


def test_prepared_rows_do_not_hold_the_memory_of_the_batch() -> None:
    """Any column of a batch of DuckDB's holds all of them, and the writer keeps rows until it has a row group."""
    columns = ", ".join(f"range::FLOAT AS f{index}" for index in range(4))
    query = f"""
        SELECT range AS id, 'x' || range AS text, {columns},
            NULL::BIGINT AS __fingerprint, NULL::INTEGER AS __revision,
            FALSE AS __other_carried, FALSE AS __other_version
        FROM range(3000)
    """
    signature = Signature(features=("f0", "f1", "f2", "f3"), classes=(0, 1))
    with connect() as con:
        (batch,) = con.sql(query).to_arrow_reader(4096)
        prepared = prepare(batch, signature, Policy(), kept=("id", "text"))
    assert prepared.rows.equals(batch.select(["id", "text"]))
    assert not _addresses(prepared.rows) & _addresses(batch)


def _addresses(batch: pa.RecordBatch) -> set[int]:
    return {buffer.address for column in batch.columns for buffer in column.buffers() if buffer is not None}


@pytest.mark.slow
def test_run_stores_the_same_with_one_worker_and_with_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "BATCH_ROWS", 8192)
    stored = []
    for threads, batch_rows in ((1, 8192), (2, 100), (5, 1024)):
        made = Workspace(tmp_path / str(threads))
        job = made.job() / "job.toml"
        job.write_text(job.read_text() + f"\n[engine]\nbatch_rows = {batch_rows}\n")
        made.model()
        made.day(table(60_000))
        made.run(threads=threads)
        stored.append(made.stored("SELECT id, prediction, prob_class_0, prob_class_1 FROM predictions ORDER BY id"))
    first, *others = ({row["id"]: row for row in rows} for rows in stored)
    for other in others:
        assert other.keys() == first.keys()
        numbers = [
            [[row[f"prob_class_{label}"] for label in (0, 1)] for row in rows.values()] for rows in (first, other)
        ]
        np.testing.assert_allclose(numbers[1], numbers[0], rtol=0, atol=TOLERANCE)
