"""The built-in checks of what is staged, with staged files that were tampered with."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from duckdb import FunctionExpression

from pipeline.database.connection import connect
from pipeline.errors import QualityStop
from pipeline.model.manifest import Signature
from pipeline.quality import output_rules, outputs
from pipeline.quality.verdict import BUILT_IN
from pipeline.selecting.plan import plan
from pipeline.staging.folders import staged_files
from tests.stages import stage
from tests.workspace import DAY, Workspace, changed, table


@pytest.mark.parametrize("stored", [0, 40], ids=["first scoring", "the rest of a day"])
def test_validate_output_row_staged_twice_in_place_of_another_is_stopped(workspace: Workspace, stored: int) -> None:
    if stored:
        workspace.day(table(100).slice(0, stored))
        workspace.run()
    workspace.day(100)
    ctx = workspace.context()
    record = stage(ctx, plan(ctx, DAY), "validate_input", "score")
    path = staged_files(ctx, record, "scored")[0]
    rows = pq.read_table(path)
    pq.write_table(pa.concat_tables([rows.slice(1), rows.slice(1, 1)]), path)
    with pytest.raises(QualityStop):
        stage(ctx, record, "validate_output")
    stopped = [check for check in ctx.lake.records.of_day("toy", DAY)[0].checks if check.outcome == "stopped"]
    assert [(check.name, check.unexpected) for check in stopped] == [("keys_once", 1)]


def test_changed_row_of_a_key_that_another_program_has_doubled_points_to_verify(workspace: Workspace) -> None:
    rows = table(20)
    workspace.day(rows)
    workspace.run()
    (part,) = (workspace.lake / "predictions").rglob("*.parquet")
    shutil.copy(part, part.with_name("part-00000001.parquet"))
    workspace.day(changed(rows, "a", {3: 9.0}))
    with pytest.raises(QualityStop, match="keys_once") as raised:
        workspace.run()
    assert "lakescore verify" in str(raised.value.next_step)


@pytest.mark.parametrize(
    ("signature", "columns"),
    [
        ({"classes": (0, 1)}, ["prob_class_0", "prob_class_1"]),
        ({"task": "multilabel", "classes": ("a", "b")}, ["prob_class_0", "prob_class_1"]),
        ({"task": "regression", "variance": "variance"}, ["value", "value_variance"]),
        ({"task": "regression", "quantiles": (0.1, 0.5, 0.9)}, ["value", "value_q10", "value_q50", "value_q90"]),
        ({"task": "ranking", "classes": ("a", "b"), "top": 2}, ["top_items", "top_scores"]),
    ],
)
def test_every_check_of_every_task_can_be_switched_off(signature: dict[str, Any], columns: list[str]) -> None:
    found = output_rules.bad_rows(Signature(features=("a",), **signature), columns)
    assert found
    assert set(found) <= set(BUILT_IN)


@pytest.mark.parametrize("classes", [3, 1100])  # the second is more than the depth to which Python nests calls
def test_bad_probabilities_are_found_however_many_classes_there_are(classes: int) -> None:
    rows = np.random.default_rng(0).dirichlet(np.ones(classes), 8).astype(np.float32)
    entropy = -(rows.astype(np.float64) * np.log(rows)).sum(axis=1)
    rows[3:, :3] = [[np.nan, 0.5, 0], [np.inf, 0, 0], [-0.25, 0.25, 0], [1.5, -0.5, 0], [0.5, 0, 0]]
    rows[3:, 3:] = 0
    columns = {f"prob_class_{index}": rows[:, index] for index in range(classes)}
    table = pa.table({"prediction": [0] * 7 + [classes], **columns})
    found = output_rules.bad_rows(Signature(features=("a",), classes=tuple(range(classes))), table.column_names)
    with connect(threads=1) as con:
        stored = con.from_arrow(table)
        (counts,) = stored.aggregate(
            [FunctionExpression("count_if", rule).alias(name) for name, rule in found.items()]
        ).fetchall()
        of_rows = stored.limit(3).select(outputs._entropy(output_rules.scores(table.column_names))).fetchall()
    assert dict(zip(found, counts, strict=True)) == {
        "probabilities_finite": 2,
        "probabilities_in_range": 3,  # NaN is not finite, and counted there
        "probabilities_sum": 4,
        "prediction_known": 1,
    }
    assert [value for (value,) in of_rows] == pytest.approx(entropy[:3], rel=1e-5)
