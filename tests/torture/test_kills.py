"""`kill -9`, in short: the full figures are those of `make torture`, in docs/reliability.md."""

from __future__ import annotations

import uuid

import pytest

from tests.s3 import BUCKET, S3Server
from tests.torture.kills import torture
from tests.workspace import Workspace

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("writers", [1, 3])
def test_kills_on_disk_leave_nothing_torn_doubled_or_lost(workspace: Workspace, writers: int) -> None:
    figures = torture(workspace, str(workspace.lake), kills=8, writers=writers, seed=writers)
    assert figures.clean, figures
    assert figures.polls > 20


def test_kills_beside_what_takes_rows_back_leave_it_complete(workspace: Workspace) -> None:
    figures = torture(workspace, str(workspace.lake), kills=10, writers=1, seed=3, care=True)
    assert figures.clean, figures
    assert figures.care >= 3


def test_kills_on_s3_leave_nothing_torn_doubled_or_lost(workspace: Workspace, s3: S3Server) -> None:
    figures = torture(workspace, f"s3://{BUCKET}/{uuid.uuid4().hex}", kills=6, writers=3)
    assert figures.clean, figures
