"""A day that was run twice, for tests of what takes results back, and of what looks for damage."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from pipeline.records import RunRecord
from tests.workspace import DAY, Workspace, changed, kept_as_it_is, table


@pytest.fixture(scope="session")
def run_twice(fresh_workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """Two complete runs: 50 rows; then two of them changed and one rejected. To be copied."""
    made = fresh_workspace.copy_to(tmp_path_factory.mktemp("revised"))
    rows = table(50)
    made.day(rows)
    made.complete()
    made.day(changed(rows, "a", {0: 5.0, 1: 5.0, 2: None}))
    made.complete()
    with kept_as_it_is(made):
        yield made


@pytest.fixture
def revised(workspace: Workspace, run_twice: Workspace) -> tuple[RunRecord, RunRecord]:
    """The two runs, in a lake that `workspace` then has."""
    shutil.rmtree(workspace.root)
    second, first = run_twice.copy_to(workspace.root).context().lake.records.of_day("toy", DAY)
    return first, second
