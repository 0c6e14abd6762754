"""The cluster that all tests of Spark share, and the day with which they compare theirs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.engines.cluster import Cluster, standalone
from tests.engines.whole_day import ROWS
from tests.workspace import Workspace


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with standalone(tmp_path_factory.mktemp("cluster")) as started:
        yield started


@pytest.fixture(scope="session")
def whole(fresh_workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A day that threads have scored."""
    made = fresh_workspace.copy_to(tmp_path_factory.mktemp("whole"))
    made.day(ROWS)
    made.complete()
    return made
