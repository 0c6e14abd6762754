"""What a record says of its committed rows: computed from the stored files, and the same as a reader finds there."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import LedgerImbalance
from pipeline.staging.folders import staged_files
from tests.stages import commit, scored
from tests.workspace import Workspace, changed, table


def test_withdrawn_rows_are_told_apart_from_changed_unchanged_and_new_ones(workspace: Workspace) -> None:
    rows = table(60)
    workspace.day(rows.slice(0, 50))
    workspace.run()
    workspace.day(changed(rows.slice(3), "a", {0: 5.0, 1: 5.0, 2: 5.0, 3: 5.0, 4: 5.0}))
    record = workspace.complete()
    assert record.ledger is not None
    assert (record.ledger.unchanged.rows, record.statistics.reasons) == (42, {"changed": 5, "new": 10})
    assert record.withdrawn == 3


def test_mean_confidence_is_the_mean_over_all_stored_rows_of_the_run(workspace: Workspace) -> None:
    workspace.day(200)
    record = workspace.complete()
    stored = pa.Table.from_pylist(workspace.stored())
    assert len(record.statistics.classes) > 1
    mean = sum(stored.column("prediction_proba").to_pylist()) / 200
    assert record.statistics.mean_confidence == pytest.approx(mean, abs=1e-9)


@pytest.mark.parametrize(
    ("damage", "got"),
    [
        (lambda rows: rows.slice(1), "1 rows mark such keys"),
        (lambda rows: rows.set_column(0, "id", pa.array(["x", "y"])), "2 rows mark such keys, but other keys"),
    ],
    ids=["one lost", "other keys"],
)
def test_marks_that_do_not_add_up_are_told_from_those_of_other_keys(
    workspace: Workspace, damage: Callable[[pa.Table], pa.Table], got: str
) -> None:
    workspace.job(policy='withdrawn = "mark"')
    rows = table({"id": ["u", "v", "w"], "a": [1.0, 2.0, 3.0], "b": [1.0, 2.0, 3.0]})
    workspace.day(rows)
    workspace.run()
    workspace.day(rows.slice(2))
    ctx = workspace.context()
    record = scored(ctx)
    (path,) = staged_files(ctx, record, "withdrawn")
    pq.write_table(damage(pq.read_table(path)), path)
    with pytest.raises(LedgerImbalance) as caught:
        commit(ctx, record)
    assert f"{got}\n" in f"{caught.value}\n"
