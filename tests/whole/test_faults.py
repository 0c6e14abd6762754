"""Full disks, read-only disks, Ctrl-C: what is visible is whole, the message says what to do, the next run resumes."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import StorageUnavailable
from pipeline.records import State
from tests.conftest import ROOT, Lakescore
from tests.disks import PAGE, fill, small_disk, without_privileges
from tests.workspace import DAY, Workspace, changed, table

RUN = ("run", "--job", "toy", "--date", DAY)


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "pipeline", *map(str, arguments)]


def check_whole(workspace: Workspace) -> int:
    """Checks that what is visible is whole and nothing half-written lies about; returns the number of rows."""
    folder = workspace.lake / "predictions" / "job=toy"
    names = [path.name for path in folder.rglob("*") if path.is_file()]
    assert all(re.fullmatch(r"part-\d{8}\.parquet|_SUCCESS", name) for name in names), names
    assert not list(workspace.lake.rglob("*.tmp"))
    keys = [pq.read_table(path).select(["id", "revision"]) for path in sorted(folder.rglob("part-*.parquet"))]
    if not keys:
        return 0
    stored = pa.concat_tables(keys)
    assert stored.group_by(["id", "revision"]).aggregate([]).num_rows == stored.num_rows
    return int(stored.num_rows)


def check_complete(workspace: Workspace, rows: int) -> None:
    """Checks that the day is complete: each row once, a ledger that adds up, and nothing left in work."""
    assert check_whole(workspace) == rows
    record = workspace.context().lake.records.last_complete("toy", DAY)
    assert record is not None
    assert record.ledger is not None
    assert record.ledger.balanced
    assert record.ledger.candidates.rows == rows
    assert record.ledger.scored.rows + record.ledger.unchanged.rows == rows
    assert list(workspace.lake.rglob("_SUCCESS"))
    assert not list((workspace.lake / ".staging").glob("job=*/**/*.*"))


def numbered(rows: int) -> pa.Table:
    rng = np.random.default_rng(0)
    return pa.table({"id": np.arange(rows), "a": rng.normal(size=rows), "b": rng.normal(size=rows)})


# A full disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 2_000_000) as folder:
        yield folder


@pytest.fixture
def on_disk(workspace: Workspace, disk: Path) -> Workspace:
    """The lake lies on the small disk, and its input on the large one."""
    job = workspace.job() / "job.toml"
    job.write_text(job.read_text().replace("unscored/", f"{workspace.root}/input/"))
    workspace.settings = dataclasses.replace(workspace.settings, lake=str(disk / "lake"), threads=1)
    return workspace


def give(workspace: Workspace, rows: pa.Table) -> None:
    path = workspace.root / "input" / f"ds={DAY}" / "rows.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows, path)


@pytest.mark.slow
def test_disk_full_while_scoring_is_transient_and_the_next_run_completes(
    lakescore: Lakescore, on_disk: Workspace, disk: Path
) -> None:
    rows = 30_000
    give(on_disk, numbered(rows))
    on_disk.lake.mkdir()
    fill(disk, leave_bytes=50 * PAGE)
    done = lakescore(*RUN, "--lake", on_disk.lake, "--json", expect=StorageUnavailable.exit_code)
    error = json.loads(done.stdout)
    assert (error["error"], error["transient"], error["what"]) == ("StorageUnavailable", True, "the disk is full")
    assert error["where"].startswith(str(on_disk.lake))
    assert "error (a retry may help): the disk is full" in done.stderr
    assert "Traceback" not in done.stderr
    assert check_whole(on_disk) == 0
    (disk / "ballast").unlink()
    lakescore(*RUN, "--lake", on_disk.lake)
    check_complete(on_disk, rows)


def run_until_full(workspace: Workspace) -> int:
    """Runs a day on a disk that may be too full, as a process that ends then; returns the number of visible rows."""
    with suppress(StorageUnavailable):
        workspace.run()
    gone = subprocess.Popen(["true"])
    gone.wait()
    lake = workspace.context().lake
    for record in lake.records.of_day("toy", DAY):
        path = lake.workspace.path(lake.records.key("toy", DAY, record.run_id))
        path.write_text(path.read_text().replace(f'"pid": {record.pid}', f'"pid": {gone.pid}'))
    return check_whole(workspace)


LEVELS = [*range(26), *range(26, 50, 4)]


@pytest.mark.parametrize("pages", [pytest.param(n, marks=[] if n in (0, 4, 14) else pytest.mark.slow) for n in LEVELS])
def test_disk_full_at_any_point_leaves_only_what_is_whole(on_disk: Workspace, disk: Path, pages: int) -> None:
    """From no room at all to room for everything: so each thing that is written is once the one that does not fit."""
    first = numbered(1500)
    second = changed(first, "a", {0: 7.0, 1: 7.0, 2: None, 3: float("inf")})
    for rows, before, after in ((first, 0, 1500), (second, 1500, 1502)):
        give(on_disk, rows)
        ballast = fill(disk, leave_bytes=pages * PAGE)
        assert run_until_full(on_disk) in (before, after)
        ballast.unlink()
        ledger = on_disk.complete().ledger
        assert ledger is not None
        assert ledger.balanced
        assert ledger.quarantined.rows == (2 if rows is second else 0)
        assert check_whole(on_disk) == after
    assert not list((on_disk.lake / ".staging").glob("job=*/**/*.*"))


@pytest.mark.slow
def test_disk_full_where_duckdb_spills_names_that_disk(
    lakescore: Lakescore, workspace: Workspace, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = 3_000_000
    workspace.day(numbered(rows))
    monkeypatch.setenv("TMPDIR", str(disk))
    monkeypatch.setenv("LAKESCORE_MEMORY_LIMIT", "30MB")
    before = workspace.files()
    done = lakescore(*RUN, expect=StorageUnavailable.exit_code)
    assert re.search(r"DuckDB ran out of memory, and of room on the disk that it spills to\n", done.stderr), done.stderr
    assert f"  where     {disk}\n" in done.stderr
    assert "LAKESCORE_MEMORY_LIMIT" in done.stderr
    assert "Traceback" not in done.stderr
    assert workspace.files() == before
    assert not list(disk.iterdir())
    monkeypatch.delenv("TMPDIR")
    monkeypatch.delenv("LAKESCORE_MEMORY_LIMIT")
    lakescore(*RUN)
    check_complete(workspace, rows)


# A read-only disk


def unprivileged(workspace: Workspace, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*without_privileges(), *command(*arguments)],
        cwd=workspace.root,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@contextmanager
def read_only(*folders: Path) -> Iterator[None]:
    for folder in folders:
        folder.chmod(0o555)
    try:
        yield
    finally:
        for folder in folders:
            folder.chmod(0o755)


@pytest.mark.slow
def test_lake_that_is_read_only_is_refused_and_stays_as_it_is(workspace: Workspace) -> None:
    workspace.day(table(100))
    before = workspace.files()
    with read_only(workspace.lake):
        done = unprivileged(workspace, *RUN)
    assert done.returncode == 1
    assert re.search(r"error: no permission to write or read here\n +where +lake(?s:.)*Permission denied", done.stderr)
    assert "check owner, mode and mount" in done.stderr
    assert "Traceback" not in done.stderr
    assert workspace.files() == before


@pytest.mark.slow
def test_lake_that_is_read_only_can_be_asked(workspace: Workspace) -> None:
    """A plan, and a run that finds its day up to date, write nothing, and so need no permission."""
    workspace.day(table(100))
    workspace.run()
    before = workspace.files()
    with read_only(*(path for path in [workspace.lake, *workspace.lake.rglob("*")] if path.is_dir())):
        planned, ran = (unprivileged(workspace, verb, *RUN[1:]) for verb in ("plan", "run"))
    assert (planned.returncode, ran.returncode) == (0, 0), planned.stderr + ran.stderr
    assert "up to date" in planned.stdout
    assert "up to date" in ran.stdout
    assert workspace.files() == before


@pytest.mark.slow
def test_lake_with_an_unreadable_input_names_it(workspace: Workspace) -> None:
    workspace.day(table(100), file="1.parquet")
    path = workspace.day(table(100), file="2.parquet")
    before = workspace.files()
    path.chmod(0)
    done = unprivileged(workspace, *RUN)
    path.chmod(0o644)
    assert done.returncode == 1
    assert re.search(r"error: .*\n +where .*2\.parquet\n(?s:.)*Permission denied", done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert workspace.files() == before


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["predictions", ".staging", "quarantine"])
def test_lake_with_one_read_only_folder_publishes_nothing_half(workspace: Workspace, kind: str) -> None:
    workspace.day(changed(table(100), "a", {0: None}))
    folder = workspace.lake / kind
    folder.mkdir()
    with read_only(folder):
        done = unprivileged(workspace, *RUN)
    assert done.returncode == 1
    assert re.search(rf"error: no permission to write or read here\n +where .*{kind}", done.stderr), done.stderr
    assert check_whole(workspace) in (0, 99)
    assert not list(workspace.lake.rglob("_SUCCESS"))
    workspace.run()
    assert check_whole(workspace) == 99
    assert list(workspace.lake.rglob("_SUCCESS"))


# Ctrl-C, and a scheduler's SIGTERM


class Running:
    """A run in a process of its own, over enough rows that it can be interrupted in the middle."""

    ROWS = 3_000_000

    def __init__(self, workspace: Workspace) -> None:
        workspace.day(numbered(self.ROWS))
        (workspace.root / "spill").mkdir()
        own = {"PYTHONPATH": str(ROOT), "LAKESCORE_THREADS": "1", "TMPDIR": str(workspace.root / "spill")}
        self.workspace = workspace
        self.process = subprocess.Popen(
            command(*RUN), cwd=workspace.root, env={**os.environ, **own}, stderr=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def wait_for(self, folder: str, pattern: str) -> None:
        """Waits until the process has made such a file or folder."""
        while not list((self.workspace.root / folder).rglob(pattern)):
            assert self.process.poll() is None, "the run has ended before it could be interrupted"
            time.sleep(0.005)

    def interrupt(self, number: signal.Signals, times: int = 1) -> str:
        """Sends a signal, and returns what the process says on stderr."""
        for _ in range(times):
            self.process.send_signal(number)
        _, text = self.process.communicate(timeout=60)
        assert self.process.returncode == 128 + number, text
        assert "Traceback" not in text
        return text


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_while_scoring_keeps_what_is_staged_for_the_next_run(
    lakescore: Lakescore, workspace: Workspace, number: signal.Signals
) -> None:
    with Running(workspace) as running:
        running.wait_for("lake/.staging", "scored-00-00000-*.parquet")
        text = running.interrupt(number)
    assert "interrupted; no partial results are visible, and the next run resumes" in text
    assert check_whole(workspace) == 0
    (record,) = workspace.context().lake.records.of_day("toy", DAY)
    assert (record.state, record.error) == (State.failed, number.name)
    done = lakescore(*RUN)
    found = re.search(r"([\d,]+) rows were staged by a run that did not finish: taken up", done.stderr)
    assert found is not None
    adopted = int(found[1].replace(",", ""))
    assert 1_000_000 <= adopted < running.ROWS
    last = workspace.context().lake.records.last_complete("toy", DAY)
    assert last is not None
    assert last.dispositions["adopted"] == adopted
    check_complete(workspace, running.ROWS)


@pytest.mark.slow
def test_interrupt_while_planning_leaves_no_trace(workspace: Workspace) -> None:
    with Running(workspace) as running:
        running.wait_for("spill", "lakescore-*")
        time.sleep(0.3)
        running.interrupt(signal.SIGINT)
    assert check_whole(workspace) == 0
    assert not list((workspace.root / "spill").iterdir())


@pytest.mark.slow
def test_interrupt_twice_ends_at_once_and_the_next_run_completes(lakescore: Lakescore, workspace: Workspace) -> None:
    with Running(workspace) as running:
        running.wait_for("lake/.staging", "scored-00-00000-*.parquet")
        running.interrupt(signal.SIGINT, times=2)
    lakescore(*RUN)
    check_complete(workspace, running.ROWS)
