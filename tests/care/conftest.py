"""A day that was run twice, for tests of what takes results back."""

from __future__ import annotations

import pytest

from pipeline.records import RunRecord
from tests.workspace import Workspace, changed, table


@pytest.fixture
def revised(workspace: Workspace) -> tuple[RunRecord, RunRecord]:
    """Two complete runs: 50 rows; then two of them changed and one rejected."""
    rows = table(50)
    workspace.day(rows)
    first = workspace.complete()
    workspace.day(changed(rows, "a", {0: 5.0, 1: 5.0, 2: None}))
    return first, workspace.complete()
