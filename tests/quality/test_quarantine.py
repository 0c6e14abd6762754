"""Rows in quarantine are released."""

from __future__ import annotations

import pyarrow as pa
import pytest

from pipeline.errors import UsageError
from pipeline.quality import quarantine
from pipeline.quality.quarantine import InQuarantine
from tests.quality.test_examine import BETWEEN, rule, suite
from tests.workspace import DAY, Workspace, changed, table


def test_run_released_row_is_scored_in_spite_of_the_rule(workspace: Workspace) -> None:
    suite(workspace, rule(BETWEEN, column="a", max_value=50, meta={"name": "a_range"}))
    workspace.day(changed(table(10), "a", {0: 99.0, 1: 99.0}))
    workspace.run()
    ctx = workspace.context()
    assert quarantine.days(ctx) == [InQuarantine(DAY, "a_range", 2, ("u0", "u1"), stopped=False)]
    assert quarantine.release(ctx, DAY, ["u0"]) == 1
    ledger = workspace.complete().ledger
    assert ledger is not None
    assert (ledger.scored.rows, ledger.unchanged.rows, ledger.quarantined.rows) == (1, 8, 1)
    assert quarantine.days(ctx) == [InQuarantine(DAY, "a_range", 1, ("u1",), stopped=False)]
    assert workspace.run().up_to_date


def test_release_unknown_key_or_other_reason_is_refused(workspace: Workspace) -> None:
    suite(workspace, rule(BETWEEN, column="a", max_value=50, meta={"name": "a_range"}))
    workspace.day(changed(changed(table(10), "a", {0: 99.0}), "b", {1: None}))
    workspace.run()
    with pytest.raises(UsageError, match="'u9'"):
        quarantine.release(workspace.context(), DAY, ["u9"])
    with pytest.raises(UsageError, match="null:b"):
        quarantine.release(workspace.context(), DAY, ["u1"])


def test_nan_is_out_of_range_though_the_statistics_of_its_file_leave_it_out(workspace: Workspace) -> None:
    """In a column that is no feature, nothing but the suite looks at it."""
    suite(workspace, rule(BETWEEN, column="weight", min_value=0, max_value=1, meta={"name": "weight_range"}))
    workspace.day(table(10).append_column("weight", pa.array([float("nan")] + [0.5] * 9)))
    workspace.run()
    assert quarantine.days(workspace.context()) == [InQuarantine(DAY, "weight_range", 1, ("u0",), stopped=False)]
