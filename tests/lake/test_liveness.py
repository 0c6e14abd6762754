"""Whether a run is at work: by its heartbeat, from this system and from others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from pipeline.lake import liveness
from pipeline.lake.layout import Lake
from pipeline.lake.liveness import PREFIX, SILENT_S, beating, forget, is_at_work
from pipeline.records import RunRecord, State
from pipeline.selecting.plan import plan
from pipeline.staging.folders import staging_folder
from tests.lakes import put_record
from tests.s3 import BUCKET, S3Server
from tests.workspace import DAY, Workspace

ROOT = Path(__file__).parent.parent.parent
BEAT = """
import sys, time
from pipeline.lake.layout import Lake
from pipeline.lake.liveness import beating

lake = Lake.open(sys.argv[1])
with beating(lake, lake.records.read("toy", sys.argv[2], sys.argv[3])):
    print("beats", flush=True)
    time.sleep(120)
"""


@pytest.fixture
def record(workspace: Workspace) -> RunRecord:
    """The record of a run that another host has begun."""
    workspace.day(100)
    made = plan(workspace.context(), DAY).with_(host="elsewhere", pid=1)
    put_record(workspace.context().lake, made)
    return made


@pytest.fixture
def lake(workspace: Workspace) -> Lake:
    return workspace.context().lake


def beat_of(lake: Lake, record: RunRecord, **other: Any) -> None:
    """Writes the heartbeat of a run: by default, as this process would."""
    with beating(lake, record):
        content = json.loads(lake.storage.read(f".staging/{PREFIX}{record.run_id}") or b"")
    lake.storage.write(f".staging/{PREFIX}{record.run_id}", json.dumps({**content, **other}).encode())


def aged(lake: Lake, record: RunRecord, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(lake.workspace.path(f".staging/{PREFIX}{record.run_id}"), (then, then))


def test_run_is_at_work_while_its_heart_beats(lake: Lake, record: RunRecord) -> None:
    assert is_at_work(lake, record) is None
    with beating(lake, record):
        assert is_at_work(lake, record) is True
        assert is_at_work(lake, record.with_(state=State.complete)) is False
    assert is_at_work(lake, record) is None
    assert not list(lake.workspace.path(".staging").glob(f"{PREFIX}*"))


def test_heart_beats_again_and_again(lake: Lake, record: RunRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "BEAT_S", 0.01)
    path = lake.workspace.path(f".staging/{PREFIX}{record.run_id}")
    with beating(lake, record):
        aged(lake, record, 1000)
        began = time.monotonic()
        while time.time() - path.stat().st_mtime > 500:
            assert time.monotonic() - began < 60
            time.sleep(0.01)


def test_beat_that_fails_does_not_end_the_run(lake: Lake, record: RunRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(liveness, "_put", full)
    with beating(lake, record):
        assert is_at_work(lake, record) is None


@pytest.mark.slow
def test_process_of_this_system_that_was_killed_is_known_to_be_dead_at_once(lake: Lake, record: RunRecord) -> None:
    command = [sys.executable, "-c", BEAT, str(lake.storage), DAY, record.run_id]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"beats\n"
        assert is_at_work(lake, record) is True
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert is_at_work(lake, record) is False


def test_process_id_that_another_process_has_now_is_no_life(lake: Lake, record: RunRecord) -> None:
    beat_of(lake, record)
    assert is_at_work(lake, record) is True
    beat_of(lake, record, started="1")
    assert is_at_work(lake, record) is False


def test_run_of_another_system_is_dead_once_its_heart_has_been_silent(lake: Lake, record: RunRecord) -> None:
    beat_of(lake, record, system="another boot pid:[1]", pid=os.getpid())
    assert is_at_work(lake, record) is True
    aged(lake, record, SILENT_S - 60)
    assert is_at_work(lake, record) is True
    aged(lake, record, SILENT_S + 1)
    assert is_at_work(lake, record) is False
    lake.storage.write(f".staging/{PREFIX}{record.run_id}", b"")  # just being written
    assert is_at_work(lake, record) is True
    assert [path.name for path in lake.workspace.path(".staging").glob(f"{PREFIX}*")] == [f"{PREFIX}{record.run_id}"]


@pytest.mark.parametrize("dead", [True, False])
def test_staging_of_another_machine_is_removed_once_its_run_is_dead(
    workspace: Workspace, lake: Lake, record: RunRecord, dead: bool
) -> None:
    folder = lake.workspace.path(staging_folder(record))
    folder.mkdir(parents=True)
    (folder / "rest.tmp").touch()
    beat_of(lake, record, system="another boot pid:[1]")
    if dead:
        aged(lake, record, SILENT_S + 1)
    assert workspace.complete().state is State.complete
    assert folder.exists() is not dead
    assert (is_at_work(lake, record) is True) is not dead
    forget(lake, record.run_id)


@pytest.mark.slow
def test_heart_beats_in_an_object_store(record: RunRecord, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = Lake.open(f"s3://{BUCKET}/{uuid.uuid4().hex}/lake")
    with beating(lake, record):
        assert is_at_work(lake, record) is True
    beat_of(lake, record, system="another boot pid:[1]")
    assert is_at_work(lake, record) is True
    monkeypatch.setattr(liveness, "SILENT_S", -5.0)
    assert is_at_work(lake, record) is False
    forget(lake, record.run_id)
    assert lake.storage.files("") == []
