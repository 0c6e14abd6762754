"""The tests of this room look at no pages; those that do ask for them."""

from __future__ import annotations

import pytest

from tests.workspace import Workspace


@pytest.fixture
def workspace(workspace: Workspace) -> Workspace:
    """A lake without input, a job `toy` whose runs make no pages, and its model."""
    return workspace.without_pages()
