"""Where a run stages its rows, and what it leaves for other runs."""

from __future__ import annotations

import os
import socket
import subprocess

import pytest

from pipeline.records import ModelRef, RunRecord, State
from pipeline.staging.adopting import left_behind
from pipeline.staging.folders import discard_staging, shared_staging_folder, staged_files, staging_folder
from tests import lakes
from tests.stages import scored
from tests.workspace import Workspace


@pytest.fixture
def record(workspace: Workspace) -> RunRecord:
    workspace.day(5)
    return scored(workspace.context())


def test_runs_share_a_folder_only_if_partition_model_and_job_are_the_same(record: RunRecord) -> None:
    folder = shared_staging_folder(record)
    assert shared_staging_folder(record.with_(run_id="other")) == folder
    assert staging_folder(record) == f"{folder}/{record.run_id}"
    others = [
        record.with_(ds="2026-01-02"),
        record.with_(job="other"),
        record.with_(job_digest="f" * 64),
        record.with_(model=ModelRef(name="toy", version="v1", digest="f" * 64)),
        record.with_(model=record.model.model_copy(update={"version": "v2"})),
    ]
    assert len({folder, *map(shared_staging_folder, others)}) == len(others) + 1


def test_left_behind_is_what_others_staged_and_stays_theirs(workspace: Workspace, record: RunRecord) -> None:
    ctx = workspace.context()
    own = scored(ctx, run_id="zzz")
    theirs = staged_files(ctx, record, "scored")
    found = [[path.read_bytes() for path in paths] for paths in left_behind(ctx, own)]
    assert found == [[path.read_bytes() for path in theirs]]
    assert all(path.exists() for path in theirs)
    assert not list(workspace.lake.rglob("left-*"))


@pytest.mark.parametrize(
    ("host", "pid", "state", "stays"),
    [
        (socket.gethostname(), "dead", State.scored, False),
        (socket.gethostname(), "alive", State.scored, True),
        ("elsewhere", "dead", State.scored, True),
        ("", "none", State.scored, True),  # between two stages
        (socket.gethostname(), "alive", State.failed, False),
        (socket.gethostname(), "dead", State.stopped, True),
    ],
)
def test_discard_removes_staging_without_a_live_process(
    workspace: Workspace, record: RunRecord, host: str, pid: str, state: State, stays: bool
) -> None:
    ctx = workspace.context()
    gone = subprocess.Popen(["true"])
    gone.wait()
    number = {"dead": gone.pid, "alive": os.getpid(), "none": 0}[pid]
    lakes.put_record(ctx.lake, record.with_(host=host, pid=number, state=state))
    discard_staging(ctx, scored(ctx, run_id="zzz"))
    assert bool(staged_files(ctx, record, "scored")) is stays


def test_two_processes_of_one_run_look_at_what_is_left_behind_at_once(workspace: Workspace, record: RunRecord) -> None:
    own = scored(workspace.context(), run_id="zzz")
    first, second = (left_behind(workspace.context(), own) for _ in range(2))
    (seen,) = next(first)
    (other,) = next(second)
    assert list(first) == []  # it is done, and has removed its links
    assert not seen.exists()
    assert other.exists()


def test_staging_that_cannot_be_removed_does_not_fail_the_run(
    workspace: Workspace, record: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("injected")

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refuse)
        discard_staging(workspace.context(), record)
    assert staged_files(workspace.context(), record, "scored"), "`clean` finds it later"
