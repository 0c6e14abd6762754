"""What readers see while days are published, and what a killed process leaves, with real kills and readers."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import StorageError, UsageError
from pipeline.ingest import publishing
from pipeline.ingest.generate import generate_day
from pipeline.ingest.publishing import UNSCORED, Existing, Target, exchange, staging, swap_by_renames
from pipeline.lake.layout import Lake
from tests.ingest.reading import ROOT, day_files, days_of, hidden, rows_of
from tests.s3 import BUCKET, S3Server

DAY = "2026-01-31"
OLD_ROWS, NEW_ROWS, NEW_FILES = 1000, 500_000, 4
GENERATE = """
import os, sys
from pipeline.ingest.generate import generate_day
from pipeline.lake.layout import Lake
def progress(stage, done, total):
    if done > int(sys.argv[4]): os.kill(os.getpid(), 9)
generate_day(
    Lake.open(sys.argv[1]), "2026-01-31", rows=int(sys.argv[2]), files=int(sys.argv[3]), replace=True, progress=progress
)
"""


def rows(count: int, first: int = 0) -> pa.RecordBatch:
    return pa.record_batch({"id": [f"u{number}" for number in range(first, first + count)]})


def publish(lake: Lake, existing: Existing, *days: str, count: int = 10, first: int = 0) -> None:
    batch = rows(count, first)
    with staging(lake, UNSCORED, existing) as work:
        for ds in days:
            with work.writer(ds, batch.schema) as writer:
                writer.write(batch)
        work.publish()


def ids(lake: Lake, ds: str = DAY) -> set[str]:
    return set(rows_of(lake, ds).column("id").to_pylist())


def test_day_in_work_is_not_seen(lake: Lake) -> None:
    with staging(lake, UNSCORED, Existing.refuse) as work:
        with work.writer(DAY, rows(10).schema) as writer:
            writer.write(rows(10))
        assert hidden(lake)
        assert days_of(lake) == []
        assert lake.storage.glob("unscored/ds=*/*.parquet").files == []
        work.publish()
    assert len(ids(lake)) == 10


def test_day_that_fails_in_work_leaves_nothing(lake: Lake) -> None:
    def fail() -> None:
        with staging(lake, UNSCORED, Existing.refuse) as work, work.writer(DAY, rows(10).schema) as writer:
            writer.write(rows(10))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert (days_of(lake), hidden(lake)) == ([], [])


def test_days_of_which_one_has_files_are_all_refused(lake: Lake) -> None:
    publish(lake, Existing.refuse, "2026-01-02")
    with pytest.raises(UsageError, match="2026-01-02 already has files"):
        publish(lake, Existing.refuse, "2026-01-01", "2026-01-02", "2026-01-03", first=100)
    assert days_of(lake) == ["2026-01-02"]
    assert ids(lake, "2026-01-02") == {f"u{number}" for number in range(10)}


def test_appended_rows_are_one_file_however_many(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "FILE_ROWS", 100)
    publish(lake, Existing.refuse, DAY, count=250)
    assert len(day_files(lake, DAY)) == 3
    publish(lake, Existing.append, DAY, "2026-02-01", count=250, first=1000)
    assert len(day_files(lake, DAY)) == 4
    assert len(ids(lake)) == 500
    assert len(day_files(lake, "2026-02-01")) == 1


def test_replaced_day_keeps_nothing_of_the_old(lake: Lake) -> None:
    publish(lake, Existing.refuse, DAY, count=250)
    (day_files(lake, DAY)[0].parent / "_SUCCESS").touch()
    publish(lake, Existing.replace, DAY, "2026-02-01", count=5)
    assert [path.parent.name for path in day_files(lake, "*")] == [f"ds={DAY}", "ds=2026-02-01"]
    assert len(ids(lake)) == 5
    assert hidden(lake) == []


def test_folder_with_other_files_is_not_replaced(lake: Lake) -> None:
    publish(lake, Existing.refuse, DAY)
    foreign = lake.workspace.path(f"unscored/ds={DAY}/notes.txt")
    foreign.write_text("keep me")
    with pytest.raises(UsageError, match="also holds other files"):
        publish(lake, Existing.replace, DAY)
    assert foreign.read_text() == "keep me"


@pytest.fixture
def bucket(s3: S3Server) -> Lake:
    """A lake in an object store."""
    return Lake.open(f"s3://{BUCKET}/{uuid.uuid4().hex}")


def bucket_ids(lake: Lake) -> list[str]:
    """Returns the ids in all files that a job with the pattern of UNSCORED reads."""
    tables = []
    for file in lake.storage.glob(f"unscored/ds={DAY}/*.parquet").files:
        with lake.storage.open(file.path) as content:
            tables.append(pq.read_table(content))
    return [key for each in tables for key in each.column("id").to_pylist()]


@pytest.mark.parametrize("name", ["_SUCCESS", ".marker", "_old.parquet", ".old.parquet", "_work/old.parquet"])
@pytest.mark.parametrize("files", [0, 1, 3])
def test_replaced_day_in_an_object_store_is_seen_beside_hidden_files(bucket: Lake, name: str, files: int) -> None:
    for number in range(files):
        publish(bucket, Existing.append, DAY, first=100 * number)
    hidden_key = f"unscored/ds={DAY}/{name}"
    bucket.storage.write(hidden_key, b"mark")
    publish(bucket, Existing.replace, DAY, count=5, first=1000)
    assert bucket_ids(bucket) == [f"u{number}" for number in range(1000, 1005)]
    assert bucket.storage.read(hidden_key) == b"mark"


@pytest.mark.parametrize("name", ["notes.txt", "sub/data.parquet", "a/_SUCCESS"])
def test_folder_with_other_files_in_an_object_store_is_not_replaced(bucket: Lake, name: str) -> None:
    publish(bucket, Existing.refuse, DAY)
    foreign_key = f"unscored/ds={DAY}/{name}"
    bucket.storage.write(foreign_key, b"keep me")
    with pytest.raises(UsageError, match="also holds other files"):
        publish(bucket, Existing.replace, DAY, first=1000)
    assert bucket_ids(bucket) == [f"u{number}" for number in range(10)]
    assert bucket.storage.read(foreign_key) == b"keep me"


def test_day_filled_by_another_writer_in_between_is_left_alone(lake: Lake) -> None:
    batch = rows(10, first=100)
    with staging(lake, UNSCORED, Existing.refuse) as work:
        for ds in ("2026-01-30", DAY):
            with work.writer(ds, batch.schema) as writer:
                writer.write(batch)
        publish(lake, Existing.refuse, DAY)
        work.check = lambda days: None  # type: ignore[method-assign]  # as if the other writer came right after the check
        with pytest.raises(
            UsageError, match="another process wrote files for this day during the import; 1 of 2 days are published"
        ):
            work.publish()
    assert len(ids(lake, "2026-01-30")) == 10
    assert ids(lake) == {f"u{number}" for number in range(10)}


def test_disk_that_refuses_is_a_storage_error(lake: Lake) -> None:
    lake.workspace.path("unscored").mkdir()
    lake.workspace.path(f"unscored/ds={DAY}").write_text("a file where a folder belongs")
    with pytest.raises(StorageError):
        publish(lake, Existing.refuse, DAY)


@pytest.mark.parametrize("swap", [exchange, swap_by_renames])
def test_swap_exchanges_two_folders(tmp_path: Path, swap: Callable[[Path, Path], None]) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
        (folder / folder.name).touch()
    swap(one, other)
    assert [path.name for path in (*one.iterdir(), *other.iterdir())] == ["other", "one"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "other"]


@pytest.mark.parametrize("swap", [exchange, swap_by_renames])
def test_swap_that_fails_leaves_the_day_in_place(tmp_path: Path, swap: Callable[[Path, Path], None]) -> None:
    (tmp_path / "other").mkdir()
    with pytest.raises(FileNotFoundError):
        swap(tmp_path / "absent", tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


@pytest.mark.parametrize(
    ("pattern", "base", "keys"),
    [
        (("unscored/ds={ds}", "*.parquet"), "unscored", {"ds"}),
        (("in/region=eu/{ds}/users", "*.parquet"), "in/region=eu", {"region"}),
        (("in/day-{ds}", "users-*.parquet"), "in", set()),
        (("{ds}", "*.parquet"), ".", set()),
    ],
)
def test_target_works_beside_the_days(pattern: tuple[str, str], base: str, keys: set[str]) -> None:
    target = Target(*pattern)
    assert (target.base, target.keys) == (base, keys)


def test_leftover_of_a_dead_process_is_removed_and_that_of_a_live_one_stays(lake: Lake) -> None:
    dead, alive = (lake.workspace.path(f"unscored/.ingest-{name}.tmp") for name in ("dead", "alive"))
    for folder in (dead, alive):
        (folder / DAY).mkdir(parents=True)
        (folder / DAY / "part.parquet").touch()
    lock = os.open(alive, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    publish(lake, Existing.refuse, DAY)
    assert (dead.exists(), (alive / DAY / "part.parquet").exists()) == (False, True)
    os.close(lock)
    publish(lake, Existing.refuse, "2026-02-01")
    assert not alive.exists()


@pytest.mark.slow
def test_reader_never_sees_a_part_of_a_day_while_it_is_replaced(lake: Lake) -> None:
    files, seen, done = 5, set(), threading.Event()
    generate_day(lake, DAY, rows=100, files=files)
    folder = lake.workspace.path(f"unscored/ds={DAY}")

    def read() -> None:
        while not done.is_set():
            before = folder.stat().st_ino
            names = [path.name.rpartition("-") for path in folder.iterdir()]
            if folder.stat().st_ino == before:  # otherwise the folder was being removed while it was read
                seen.add((len(names), len({import_id for import_id, _, _ in names})))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for _ in range(20):
            generate_day(lake, DAY, rows=100, files=files, replace=True)
    finally:
        done.set()
        reader.join()
    assert seen == {(files, 1)}


@pytest.mark.slow
@pytest.mark.parametrize("old_rows", [0, OLD_ROWS])
def test_kill_while_writing_leaves_the_day_as_it_was(lake: Lake, old_rows: int) -> None:
    if old_rows:
        generate_day(lake, DAY, rows=old_rows)
    done = subprocess.run(
        [sys.executable, "-c", GENERATE, lake.workspace.root, str(NEW_ROWS), str(NEW_FILES), str(NEW_ROWS // 2)],
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert len(hidden(lake)) == 1, "it was killed before it wrote anything"
    assert days_of(lake) == ([DAY] if old_rows else [])
    generate_day(lake, DAY, rows=10, replace=True)
    assert rows_of(lake, DAY).num_rows == 10
    assert hidden(lake) == []


@pytest.mark.slow
@pytest.mark.parametrize("old_rows", [0, OLD_ROWS])
def test_kill_at_any_time_leaves_the_old_day_or_the_new(lake: Lake, old_rows: int) -> None:
    """Searches for the time at which the outcome changes, which is when the day is published."""
    command = [sys.executable, "-c", GENERATE, str(lake.workspace.root), str(NEW_ROWS), str(NEW_FILES), str(NEW_ROWS)]
    started = time.monotonic()
    subprocess.run(command, cwd=ROOT, check=True)
    at = time.monotonic() - started
    outcomes = []
    for _ in range(12):
        for path in day_files(lake, DAY):
            path.unlink()
        lake.workspace.path(f"unscored/ds={DAY}").rmdir()
        if old_rows:
            generate_day(lake, DAY, rows=old_rows)
        process = subprocess.Popen(command, cwd=ROOT)
        time.sleep(at)
        process.kill()
        process.wait()
        assert days_of(lake) in ([[DAY]] if old_rows else [[], [DAY]])
        found = day_files(lake, DAY)
        rows_seen = rows_of(lake, DAY).num_rows if found else 0
        assert (len(found), rows_seen) in {(int(old_rows > 0), old_rows), (NEW_FILES, NEW_ROWS)}
        outcomes.append(rows_seen)
        at *= random.uniform(0.8, 1.0) if rows_seen == NEW_ROWS else random.uniform(1.0, 1.2)
        lake.workspace.path(f"unscored/ds={DAY}").mkdir(exist_ok=True)
    generate_day(lake, DAY, rows=5, replace=True)
    assert hidden(lake) == []
    assert len(set(outcomes)) == 2, f"no kill came before, or none after, the day was published: {outcomes}"
