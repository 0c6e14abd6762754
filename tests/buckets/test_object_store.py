"""Days of lakes in an object store: split on the local disk, or, by a cluster, with all that tasks leave in the bucket.

Here the tasks run in a thread of this process: they use the storage as those of a cluster do.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.buckets import stage
from pipeline.buckets.bucket import score_bucket
from pipeline.care.verify import verify
from pipeline.engines.threads import Threads
from pipeline.records import RunRecord
from pipeline.storage import Storage
from pipeline.storage.object_store import ObjectStorage
from tests.buckets.days import check_equal
from tests.s3 import BUCKET, S3Server
from tests.workspace import DAY, Workspace, changed, table, write_table

pytestmark = pytest.mark.slow
ENGINE = '\n[engine]\nname = "{name}"\nmin_rows = 1\nbuckets = 5\n'


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "open_engine", lambda _ctx: Threads(1))


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAKESCORE_SCRATCH", str(tmp_path / "scratch"))
    return tmp_path / "scratch"


def in_store(workspace: Workspace, name: str) -> Storage:
    """Moves the lake of a workspace into an object store; the job uses an engine. Returns its storage."""
    path = workspace.settings.jobs / "toy" / "job.toml"
    text = path.read_text()
    path.unlink()
    path.write_text(text + ENGINE.format(name=name))
    workspace.settings = dataclasses.replace(workspace.settings, lake=f"s3://{BUCKET}/{uuid.uuid4().hex}/lake")
    return workspace.context().lake.storage


def put_day(storage: Storage, rows: pa.Table, folder: Path) -> None:
    write_table(rows, folder / "data.parquet")
    storage.replace(f"unscored/ds={DAY}/data.parquet", folder / "data.parquet")


def copied(storage: Storage, folder: Path) -> Path:
    """Copies the predictions of a lake to a disk."""
    for file in storage.files("predictions"):
        (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
        (folder / file.path).write_bytes(storage.read(file.path) or b"")
    return folder


def score_report(record: RunRecord) -> Any:
    return next(report for report in record.stages if report.stage == "score")


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The verb and the key of each part that is published in an object store."""
    seen: list[tuple[str, str]] = []

    def noting(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def called(self: ObjectStorage, *arguments: Any) -> Any:
            key = arguments[-1] if name == "copy" else arguments[0]
            if "/part-" in key:
                seen.append((name, key))
            return real(self, *arguments)

        return called

    for name in ("create", "copy"):
        monkeypatch.setattr(ObjectStorage, name, noting(name, getattr(ObjectStorage, name)))
    return seen


@pytest.mark.parametrize("name", ["processes", "spark"])
def test_lake_in_an_object_store_is_scored_in_buckets(
    workspace: Workspace,
    s3: S3Server,
    tmp_path: Path,
    scratch: Path,
    watched: list[tuple[str, str]],
    name: str,
) -> None:
    days = (table(300), changed(table(300), "a", dict.fromkeys(range(20), 0.5)))
    whole = workspace.copy_to(tmp_path / "whole")
    storage = in_store(workspace, name)
    for rows in days:
        whole.day(rows)
        put_day(storage, rows, tmp_path)
        one, other = whole.complete(), workspace.complete()
        assert score_report(other).buckets == 5
        assert one.ledger == other.ledger
        assert {verb for verb, _ in watched} == {"copy" if name == "spark" else "create"}
    assert check_equal(copied(storage, tmp_path / "copy"), whole.lake) == 320
    assert not list(verify(workspace.context().lake))
    assert storage.files(".staging") == []
    assert [path for path in scratch.rglob("*.parquet") if ".staging" in str(path)] == []


def test_buckets_that_another_machine_has_finished_are_taken_up(
    workspace: Workspace, s3: S3Server, tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = in_store(workspace, "spark")
    put_day(storage, table(1000), tmp_path)
    left = iter(range(3))

    def until_killed(text: str) -> str:
        if next(left, None) is None:
            raise SystemExit
        return score_bucket(text)

    monkeypatch.setattr(stage, "score_bucket", until_killed)
    monkeypatch.setattr(stage, "open_engine", lambda _ctx: Threads(1))
    with pytest.raises(SystemExit):
        workspace.run()
    assert len([file for file in storage.files(".staging") if file.path.endswith("/result.json")]) == 3
    monkeypatch.setenv("LAKESCORE_SCRATCH", str(tmp_path / "of another machine"))
    monkeypatch.setattr(stage, "score_bucket", score_bucket)
    record = workspace.complete()
    assert record.dispositions["adopted"] > 400
    assert record.dispositions["scored"] == 1000
    rows = copied(storage, tmp_path / "copy")
    assert sum(path.stat().st_size > 0 for path in rows.rglob("*.parquet")) == 5
    assert not list(verify(workspace.context().lake))


def test_store_whose_copies_overwrite_gets_its_files_uploaded(
    workspace: Workspace,
    s3: S3Server,
    tmp_path: Path,
    scratch: Path,
    watched: list[tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    storage = in_store(workspace, "spark")
    put_day(storage, table(100), tmp_path)
    copy = ObjectStorage.copy

    def overwriting(self: ObjectStorage, source: str, key: str) -> Any:
        self.delete(key)
        return copy(self, source, key)

    monkeypatch.setattr(ObjectStorage, "copy", overwriting)
    assert workspace.complete().dispositions["scored"] == 100
    assert [verb for verb, _ in watched] == ["create"] * 5
    assert not [file for file in storage.files("") if ".probe" in file.path]
