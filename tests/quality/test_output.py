"""The built-in checks of what is staged, with staged files that were tampered with."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import run, staging
from pipeline.errors import QualityStop
from tests.workspace import DAY, Workspace, table


@pytest.mark.parametrize("stored", [0, 40], ids=["first scoring", "the rest of a day"])
def test_validate_output_row_staged_twice_in_place_of_another_is_stopped(workspace: Workspace, stored: int) -> None:
    if stored:
        workspace.day(table(100).slice(0, stored))
        workspace.run()
    workspace.day(100)
    ctx = workspace.context()
    manifest = ctx.registry.resolve("toy", "production")
    record = run.score(ctx, run.validate_input(ctx, run.plan(ctx, manifest, DAY)))
    path = staging.files(ctx, record, "scored")[0]
    rows = pq.read_table(path)
    pq.write_table(pa.concat_tables([rows.slice(1), rows.slice(1, 1)]), path)
    with pytest.raises(QualityStop):
        run.validate_output(ctx, record)
    stopped = [check for check in ctx.lake.records("toy", DAY)[0].checks if check.outcome == "stopped"]
    assert [(check.name, check.unexpected) for check in stopped] == [("keys_once", 1)]
