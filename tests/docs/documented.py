"""Examples in the documents: commands with what they print, made by running them. UPDATE_DOCS=1 writes them anew."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.lake.layout import Lake, Partition
from pipeline.quality import history
from pipeline.records import RunRecord
from tests import lakes

DOCS = Path(__file__).parent.parent.parent / "docs"
DAYS = [(date(2026, 1, 1) + timedelta(days=number)).isoformat() for number in range(10)]
Make = Callable[[Path], Lake]
EXAMPLE = re.compile(r"^    \$ (?P<command>.+)\n(?P<output>(?:(?:    .*)?\n)*?)(?=\n*(?:\S|    \$ )|\Z)", re.MULTILINE)


def examples(document: str) -> dict[str, str]:
    """Returns what stands below each command of a document, by the command."""
    text = (DOCS / document).read_text("utf-8")
    return {match["command"]: _plain(match["output"]) for match in EXAMPLE.finditer(text)}


def check(document: str, command: str, run: Callable[..., str]) -> None:
    """Compares an example with what the command prints now, or puts that in its place."""
    printed = "\n".join(line.rstrip() for line in run(*shlex.split(command)).splitlines()).strip("\n")
    if os.environ.get("UPDATE_DOCS"):
        _replace(DOCS / document, command, printed)
    assert examples(document)[command] == printed


def _plain(output: str) -> str:
    return "\n".join(line.removeprefix("    ").rstrip() for line in output.splitlines()).strip("\n")


def _replace(path: Path, command: str, printed: str) -> None:
    block = "".join(f"    {line}".rstrip() + "\n" for line in printed.splitlines())
    text = path.read_text("utf-8")
    found = next(match for match in EXAMPLE.finditer(text) if match["command"] == command)
    path.write_text(f"{text[: found.start()]}    $ {command}\n{block}{text[found.end() :]}", "utf-8")


def example_lake(root: Path) -> Lake:
    """Ten days of forty customers, whose scores rise slowly; the eighth day has twice as many, the last is revised."""
    lake = lakes.open_lake(root)
    for number, ds in enumerate(DAYS):
        keys = [f"user_{key:04d}" for key in range(80 if number == 7 else 40)]
        _add_day(lake, ds, keys, number)
    partition, run = Partition("churn", DAYS[-1], "v1"), lakes.run_id(DAYS[-1], 1)
    revised = _rows(DAYS[-1], ["user_0007"], 20, run=run, reason="changed", revision=1)
    part = lakes.add_part(lake, partition, revised)
    lakes.add_run(lake, partition, number=1, scored=1, unchanged=39, committed=[part], reason="changed")
    return lake


def example_lake_of_tasks(root: Path) -> Lake:
    """A day of each task but classification: jobs `spend` (regression), `topics` (multi-label), `shelf` (ranking)."""
    lake = lakes.open_lake(root)
    keys = [f"user_{key:04d}" for key in range(40)]
    own = np.arange(40)
    spend = (100 + 40 * np.sin(own)).astype(np.float32)
    topics = [[name for name, each in (("news", 2), ("sport", 3), ("arts", 5)) if key % each == 0] for key in own]
    items = [[f"sku-{(key * step) % 7 + 7 * rank}" for rank, step in enumerate((1, 3, 5))] for key in own]
    scores = [[float(value), float(value) - 1, float(value) - 2] for value in np.sin(own) + 3]
    outputs = {
        "spend": {"value": pa.array(spend)},
        "topics": {"prediction": pa.array(topics, pa.list_(pa.string()))},
        "shelf": {"top_items": pa.array(items), "top_scores": pa.array(scores, pa.list_(pa.float32()))},
    }
    for job, columns in outputs.items():
        partition = Partition(job, DAYS[0], "v1")
        rows = lakes.prediction_rows({"id": keys}, run=lakes.run_id(DAYS[0]), ds=DAYS[0])
        rows = rows.drop_columns(["prediction", "prediction_proba", "prob_class_0", "prob_class_1"])
        for name, values in columns.items():
            rows = rows.append_column(name, values)
        part = lakes.add_part(lake, partition, rows)
        lakes.add_run(lake, partition, scored=len(keys), committed=[part], confidence=None)
        lakes.mark(lake, partition)
    _add_performance(lake)
    return lake


def _add_performance(lake: Lake) -> None:
    """What labels say of `spend` and `shelf`."""
    at_k = [
        {"k": 1, "precision": 0.25, "recall": 0.125, "hit_rate": 0.25, "ndcg": 0.25},
        {"k": 3, "precision": 0.1667, "recall": 0.25, "hit_rate": 0.5, "ndcg": 0.2345},
    ]
    levels = [{"level": 0.1, "covered": 0.05, "pinball": 2.1}, {"level": 0.9, "covered": 0.9, "pinball": 2.4}]
    errors = {"mean_label": 99.2, "bias": 2.0, "mae": 11.25, "rmse": 15.5, "r2": 0.705, "quantiles": levels}
    figures: dict[str, dict[str, Any]] = {"spend": errors, "shelf": {"at_k": at_k}}
    for job, found in figures.items():
        run = lakes.run_id(DAYS[0])
        path = lake.workspace.path(f"performance/job={job}/ds={DAYS[0]}/model_version=v1/{run}.parquet")
        path.parent.mkdir(parents=True)
        row = {"run_id": run, "rows": 20, "predictions": 40, "computed_at": lakes.clock(DAYS[0]), **found}
        pq.write_table(pa.Table.from_pylist([row]), path)


def _add_day(lake: Lake, ds: str, keys: list[str], number: int) -> None:
    partition = Partition("churn", ds, "v1")
    lakes.add_input(lake, ds, lakes.input_rows(keys))
    part = lakes.add_part(lake, partition, _rows(ds, keys, number, run=lakes.run_id(ds)))
    record = lakes.add_run(lake, partition, scored=len(keys), quarantined=number % 3, committed=[part])
    lakes.mark(lake, partition)
    _add_quality(lake, record, nulls=number % 3)


def _rows(ds: str, keys: list[str], number: int, *, run: str, reason: str = "new", revision: int = 0) -> pa.Table:
    own = np.array([int(key.removeprefix("user_")) for key in keys])
    score = 1 / (1 + np.exp(-np.sin(own) * 2 - number / 10 - 0.4 * np.sin(own * 7 + number * 3)))
    labels = (score > 0.5).astype(np.int64)
    rows = lakes.prediction_rows(
        {"id": keys}, run=run, ds=ds, labels=labels, probabilities=list(np.maximum(score, 1 - score)), reason=reason,
        revision=revision,
    )  # fmt: skip
    for index, values in enumerate((1 - score, score)):
        name = f"prob_class_{index}"
        rows = rows.set_column(rows.schema.get_field_index(name), name, pa.array(values.astype(np.float32)))
    return rows


def _add_quality(lake: Lake, record: RunRecord, *, nulls: int) -> None:
    rows = [
        {
            "run_id": record.run_id,
            "model_version": "v1",
            "suite": "input",
            "name": "age_not_null",
            "expectation": "expect_column_values_to_not_be_null",
            "column": "age",
            "severity": "critical",
            "success": nulls == 0,
            "outcome": "quarantined" if nulls else "passed",
            "unexpected": nulls,
            "share": nulls / 42,
            "engine": "gx",
            "validated_at": lakes.clock(record.ds),
        }
    ]
    path = lake.workspace.path(history.key(record.job, record.ds, record.run_id, "input"))
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, history.schema()), path)
