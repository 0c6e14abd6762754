"""The storage contract: `StorageContract`, whose helpers bypass the storage under test."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pipeline.database.connection import connect, read_parquet
from pipeline.errors import LakescoreError, StorageError, StorageUnavailable
from pipeline.storage import LocalStorage, Storage, make_folder, translate_error, translated_os_errors
from pipeline.storage.local import LOCKS
from tests.privileges import open_to_all, without_privileges

MEGABYTE = 1_000_000
RACER = """
import sys, time
from pathlib import Path
from pipeline.storage import LocalStorage

folder, racer = Path(sys.argv[1]), sys.argv[2]
storage, own = LocalStorage(folder / "lake"), folder / f"{racer}.tmp"
own.write_text(racer)
(folder / f"{racer}.ready").touch()
while not (folder / "go").exists():
    time.sleep(0.001)
for number in range(int(sys.argv[3])):
    try:
        storage.create(f"race/part-{number:08d}", own)
    except FileExistsError:
        continue
    print(number)
"""


class StorageContract(ABC):
    """Tests for every storage. A subclass makes the storage, and inspects stored files without using it."""

    racers: ClassVar[int] = 8
    racer: ClassVar[str]
    """Source of a program for another process: creates `race/part-<number>` and prints the numbers that it won."""

    @pytest.fixture
    def storage(self, tmp_path: Path) -> Storage:
        return self.make(tmp_path)

    @abstractmethod
    def make(self, folder: Path) -> Storage: ...

    @abstractmethod
    def put(self, storage: Storage, key: str, content: bytes) -> None: ...

    @abstractmethod
    def stored(self, storage: Storage) -> dict[str, bytes]: ...

    @pytest.fixture
    def finished(self, tmp_path: Path) -> Path:
        path = tmp_path / "finished"
        path.write_bytes(b"rows")
        return path

    def test_absent_key_is_none_or_empty_everywhere(self, storage: Storage) -> None:
        assert storage.head("a/b") is None
        assert storage.read("a/b") is None
        assert storage.files("a") == []
        assert storage.folders("a") == []
        assert storage.glob("a/*/*.parquet") == ([], {})
        storage.delete("a/b")
        assert self.stored(storage) == {}

    def test_folder_is_no_file(self, storage: Storage) -> None:
        self.put(storage, "a/b/c", b"1")
        assert storage.head("a/b") is None
        assert storage.glob("a/*") == ([], {"a/b": "a folder"})

    def test_write_then_read_returns_the_content(self, storage: Storage) -> None:
        storage.write("a/b.json", b"one")
        storage.write("a/b.json", b"two")
        assert storage.read("a/b.json") == b"two"
        assert self.stored(storage) == {"a/b.json": b"two"}

    def test_write_shows_a_reader_old_or_new_and_nothing_between(self, storage: Storage) -> None:
        contents = [bytes([number]) * MEGABYTE for number in range(20)]
        storage.write("record", contents[0])
        seen, over = [], threading.Event()

        def poll() -> None:
            while not over.is_set():
                seen.append(storage.read("record"))

        with ThreadPoolExecutor(2) as pool:
            readers = [pool.submit(poll) for _ in range(2)]
            for content in contents[1:]:
                storage.write("record", content)
            over.set()
            for reader in readers:
                reader.result()
        assert all(content in contents for content in seen)
        assert self.stored(storage) == {"record": contents[-1]}

    def test_head_tells_size_and_another_etag_for_other_content(self, storage: Storage) -> None:
        self.put(storage, "x", b"one")
        first = storage.head("x")
        assert first is not None
        assert (first.path, first.size) == ("x", 3)
        assert storage.head("x") == first
        storage.write("x", b"two")
        second = storage.head("x")
        assert second is not None
        assert second.etag != first.etag

    def test_stat_tells_when_a_file_was_changed(self, storage: Storage) -> None:
        before = datetime.now(UTC) - timedelta(seconds=2)  # object stores count in seconds
        self.put(storage, "x", b"one")
        info, changed = storage.stat("x")
        assert info == storage.head("x")
        assert before <= changed <= datetime.now(UTC) + timedelta(seconds=2)
        with pytest.raises(FileNotFoundError):
            storage.stat("y")

    def test_files_lists_all_below_a_folder_in_order(self, storage: Storage) -> None:
        for key in ("a/2", "a/b/1", "a/10", "a/.hidden", "ab/1", "c"):
            self.put(storage, key, b"x")
        assert [file.path for file in storage.files("a")] == ["a/.hidden", "a/10", "a/2", "a/b/1"]
        assert storage.files("a/") == storage.files("a")
        assert storage.files("a")[2] == storage.head("a/2")

    def test_folders_names_those_directly_below(self, storage: Storage) -> None:
        for key in ("a/y/1/2", "a/x/1", "a/file"):
            self.put(storage, key, b"x")
        assert storage.folders("a") == ["x", "y"]

    def test_glob_takes_data_alone_in_order(self, storage: Storage) -> None:
        data = ["in/ds=1/a.parquet", "in/ds=1/b.parquet", "in/ds=2/sub/c.parquet"]
        hidden = ["in/ds=1/_x.parquet", "in/ds=1/.x.parquet", "in/ds=2/_temporary/0/x.parquet", "in/.tmp/sub/x.parquet"]
        for key in (*data, *hidden, "in/ds=1/_SUCCESS", "in/ds=1/notes.txt"):
            self.put(storage, key, b"x")
        assert [file.path for file in storage.glob("in/ds=1/*.parquet").files] == data[:2]
        assert [file.path for file in storage.glob("in/*/*.parquet").files] == data[:2]
        assert [file.path for file in storage.glob("in/**/*.parquet").files] == data
        assert [file.path for file in storage.glob("in/ds=2/**").files] == data[2:]
        files, others = storage.glob("in/ds=1/a.parquet")  # a listing may say more about when a file was changed
        assert [file.model_copy(update={"changed_ns": None}) for file in files] == [storage.head("in/ds=1/a.parquet")]
        assert others == {}
        for pattern in ("in/ds=1/*.parquet", "in/*/*.parquet", "in/**/*.parquet", "in/ds=2/**"):
            assert storage.glob(pattern).others == {}

    def test_glob_tells_of_a_folder_that_matches_unless_a_matching_file_lies_in_it(self, storage: Storage) -> None:
        for key in ("in/a.parquet", "in/spark.parquet/part-0.parquet", "in/work.parquet/_temporary/0/part-0.parquet"):
            self.put(storage, key, b"x")
        work, spark = {"in/work.parquet": "a folder"}, {"in/spark.parquet": "a folder"}
        assert [file.path for file in storage.glob("in/*.parquet").files] == ["in/a.parquet"]
        assert storage.glob("in/*.parquet").others == {**work, **spark}
        assert storage.glob("in/spark.parquet") == ([], spark)
        assert [file.path for file in storage.glob("in/**/*.parquet").files] == [
            "in/a.parquet",
            "in/spark.parquet/part-0.parquet",
        ]
        assert storage.glob("in/**/*.parquet").others == work
        assert storage.glob("in/**").others == {}

    def test_create_free_name_publishes_and_keeps_the_source(self, storage: Storage, finished: Path) -> None:
        info = storage.create("a/b/part-0", finished)
        assert info == storage.head("a/b/part-0")
        assert self.stored(storage) == {"a/b/part-0": b"rows"}
        assert finished.read_bytes() == b"rows"

    def test_create_taken_name_is_refused_and_changes_nothing(self, storage: Storage, finished: Path) -> None:
        self.put(storage, "a/part-0", b"of another run")
        before = storage.head("a/part-0")
        with pytest.raises(FileExistsError):
            storage.create("a/part-0", finished)
        assert storage.head("a/part-0") == before
        assert self.stored(storage) == {"a/part-0": b"of another run"}

    @pytest.mark.slow
    def test_create_by_racing_processes_one_wins_each_name(self, tmp_path: Path) -> None:
        racers, names = self.racers, 50
        self.make(tmp_path)
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", self.racer, tmp_path, f"racer-{racer}", str(names)],
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent.parent)},
            )
            for racer in range(racers)
        ]
        while len(list(tmp_path.glob("*.ready"))) < racers:
            time.sleep(0.01)
        (tmp_path / "go").touch()
        won = [[int(line) for line in process.communicate(timeout=60)[0].split()] for process in processes]
        assert [process.returncode for process in processes] == [0] * racers
        assert sorted(number for numbers in won for number in numbers) == list(range(names))
        stored = self.stored(self.make(tmp_path))
        for racer, numbers in enumerate(won):
            assert {stored[f"race/part-{number:08d}"] for number in numbers} <= {f"racer-{racer}".encode()}

    def test_create_by_racing_threads_one_wins_each_name(self, storage: Storage, tmp_path: Path) -> None:
        together = threading.Barrier(8)

        def race(racer: int) -> int:
            own = tmp_path / f"{racer}.tmp"
            own.write_text(str(racer))
            won = 0
            for number in range(20):
                together.wait()
                try:
                    storage.create(f"race/{number}", own)
                    won += 1
                except FileExistsError:
                    continue
            return won

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(race, range(8))) == 20

    def test_replace_shows_the_new_file_under_the_same_name(self, storage: Storage, finished: Path) -> None:
        self.put(storage, "a/part-0", b"before")
        info = storage.replace("a/part-0", finished)
        assert info == storage.head("a/part-0")
        assert self.stored(storage) == {"a/part-0": b"rows"}
        assert finished.read_bytes() == b"rows"

    def test_update_takes_only_the_file_that_was_seen(self, storage: Storage) -> None:
        assert storage.update("a", b"1", None)
        assert not storage.update("a", b"2", None)
        seen = storage.head("a")
        assert storage.update("a", b"3", seen)
        assert not storage.update("a", b"4", seen)
        assert self.stored(storage) == {"a": b"3"}

    def test_update_with_a_finished_file_keeps_the_condition_and_the_source(
        self, storage: Storage, finished: Path
    ) -> None:
        self.put(storage, "a", b"before")
        seen = storage.head("a")
        assert not storage.update("a", finished, None)
        assert storage.update("a", finished, seen)
        assert not storage.update("a", b"late", seen)
        assert self.stored(storage) == {"a": b"rows"}
        assert finished.read_bytes() == b"rows"

    def test_open_reads_any_range(self, storage: Storage) -> None:
        content = bytes(range(256)) * 1000
        self.put(storage, "a", content)
        with storage.open("a") as file:
            file.seek(-10, 2)
            assert file.read() == content[-10:]
            file.seek(100_000)
            assert file.read(70_000) == content[100_000:170_000]
        with pytest.raises(FileNotFoundError):
            storage.open("b")

    def test_duckdb_reads_an_attached_storage(self, storage: Storage, tmp_path: Path) -> None:
        for ds in ("2026-01-01", "2026-01-02"):
            path = tmp_path / f"{ds}.parquet"
            pq.write_table(pa.table({"id": [1, 2, 3], "name": ["a", "b", "c"]}), path)
            storage.create(f"in/ds={ds}/x.parquet", path)
        with connect() as con:
            storage.attach(con)
            files = [storage.where(file.path) for file in storage.glob("in/*/*.parquet").files]
            rows = read_parquet(con, files, folders=["ds"]).filter("ds = '2026-01-02' AND id > 1")
            assert rows.aggregate("sum(id), any_value(ds)").fetchall() == [(5, "2026-01-02")]

    def test_delete_removes_one_key_and_can_be_repeated(self, storage: Storage) -> None:
        self.put(storage, "a/1", b"x")
        self.put(storage, "a/2", b"x")
        storage.delete("a/1")
        storage.delete("a/1")
        assert self.stored(storage) == {"a/2": b"x"}

    def test_probe_honest_storage_passes_and_leaves_nothing(self, storage: Storage) -> None:
        storage.probe()
        assert self.stored(storage) == {}

    def test_copy_takes_a_free_name_alone_and_leaves_the_source(self, storage: Storage) -> None:
        self.put(storage, "attempt/a b", b"rows")
        self.put(storage, "attempt/other", b"other")
        created = storage.copy("attempt/a b", "data/part-0")
        assert created == storage.head("data/part-0")
        assert created.size == 4
        with pytest.raises(FileExistsError):
            storage.copy("attempt/other", "data/part-0")
        with pytest.raises(FileNotFoundError):
            storage.copy("attempt/absent", "data/part-1")
        assert self.stored(storage) == {"attempt/a b": b"rows", "attempt/other": b"other", "data/part-0": b"rows"}

    def test_probe_of_copies_finds_those_that_overwrite_and_leaves_nothing(self, tmp_path: Path) -> None:
        honest = self.make(tmp_path)
        honest.probe_copy()

        class Overwriting(type(honest)):  # type: ignore[misc]
            def create(self, key: str, finished: Path) -> object:
                self.delete(key)
                return super().create(key, finished)

            def copy(self, source: str, key: str) -> object:
                self.delete(key)
                return super().copy(source, key)

        with pytest.raises(StorageError, match=r"created twice|lets a copy replace"):
            Overwriting(honest.root if isinstance(honest, LocalStorage) else str(honest)).probe_copy()
        assert self.stored(honest) == {}

    def test_probe_storage_that_overwrites_is_refused(self, tmp_path: Path) -> None:
        honest = self.make(tmp_path)

        class Overwriting(type(honest)):  # type: ignore[misc]
            def create(self, key: str, finished: Path) -> object:
                self.delete(key)
                return super().create(key, finished)

        storage = Overwriting(honest.root if isinstance(honest, LocalStorage) else str(honest))
        with pytest.raises(StorageError, match="created twice"):
            storage.probe()
        assert self.stored(storage) == {}

    def test_probe_storage_that_ignores_the_condition_of_an_update_is_refused(self, tmp_path: Path) -> None:
        honest = self.make(tmp_path)

        class Overwriting(type(honest)):  # type: ignore[misc]
            def update(self, key: str, content: bytes, _: object) -> bool:
                self.write(key, content)
                return True

        class Refusing(type(honest)):  # type: ignore[misc]
            def update(self, *_: object) -> bool:
                return False

        root = honest.root if isinstance(honest, LocalStorage) else str(honest)
        with pytest.raises(StorageError, match="replaces a file that has changed"):
            Overwriting(root).probe()
        with pytest.raises(StorageError, match="refuses to replace"):
            Refusing(root).probe()
        assert self.stored(honest) == {}

    @pytest.mark.parametrize("key", ["a b/c'd", "ключ/1", "a=b/c%20d", "[x]/*?", "-/~"])
    def test_key_of_odd_characters_is_kept(self, storage: Storage, finished: Path, key: str) -> None:
        storage.create(key, finished)
        assert storage.read(key) == b"rows"
        assert [file.path for file in storage.files("")] == [key]
        assert self.stored(storage) == {key: b"rows"}

    def test_any_sequence_of_calls_agrees_with_a_dictionary(self, tmp_path: Path) -> None:
        keys = st.sampled_from(["a/1", "a/2", "a/b/1", "b/1"])
        folders, contract = iter(range(10_000)), self

        class Calls(RuleBasedStateMachine):
            @initialize()
            def begin(self) -> None:
                folder = tmp_path / str(next(folders))
                folder.mkdir()
                self.storage, self.model = contract.make(folder), dict[str, bytes]()
                self.source = folder / "source"

            @rule(key=keys, content=st.binary(max_size=8))
            def write(self, key: str, content: bytes) -> None:
                self.storage.write(key, content)
                self.model[key] = content

            @rule(key=keys, content=st.binary(max_size=8))
            def create(self, key: str, content: bytes) -> None:
                self.source.unlink(missing_ok=True)
                self.source.write_bytes(content)
                try:
                    self.storage.create(key, self.source)
                    created = True
                except FileExistsError:
                    created = False
                assert created is (key not in self.model)
                self.model.setdefault(key, content)

            @rule(key=keys)
            def delete(self, key: str) -> None:
                self.storage.delete(key)
                self.model.pop(key, None)

            @rule(key=keys)
            def read(self, key: str) -> None:
                found = self.storage.head(key)
                assert self.storage.read(key) == self.model.get(key)
                assert (found and found.size) == (len(self.model[key]) if key in self.model else None)

            @invariant()
            def list_everything(self) -> None:
                for prefix in ("a", "a/b", "b", "c"):
                    expected = sorted(key for key in self.model if key.startswith(f"{prefix}/"))
                    assert [file.path for file in self.storage.files(prefix)] == expected

        run_state_machine_as_test = Calls.TestCase
        run_state_machine_as_test.settings = settings(max_examples=10, stateful_step_count=20, deadline=None)
        run_state_machine_as_test("runTest").runTest()


class TestLocalStorage(StorageContract):
    racer = RACER

    def make(self, folder: Path) -> LocalStorage:
        return LocalStorage(folder / "lake")

    def put(self, storage: Storage, key: str, content: bytes) -> None:
        path = storage.workspace.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def stored(self, storage: Storage) -> dict[str, bytes]:
        root = storage.workspace.root
        paths = (path for path in root.rglob("*") if path.is_file() and not path.is_relative_to(root / LOCKS))
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}

    def test_glob_root_with_wildcards_in_its_name_is_taken_as_it_is(self, tmp_path: Path) -> None:
        storage = LocalStorage(tmp_path / "lake[1]*")
        self.put(storage, "in/a.parquet", b"x")
        assert [file.path for file in storage.glob("in/*.parquet").files] == ["in/a.parquet"]

    def test_glob_tells_of_what_is_no_file(self, storage: LocalStorage, tmp_path: Path) -> None:
        self.put(storage, "in/a.parquet", b"x")
        folder = storage.path("in")
        (folder / "gone.parquet").symlink_to(tmp_path / "nowhere")
        (folder / "ring.parquet").symlink_to(folder / "ring.parquet")
        (folder / "lost").symlink_to(tmp_path / "nowhere")
        os.mkfifo(folder / "pipe.parquet")
        (folder / "empty.parquet").mkdir()
        (folder / "_gone.parquet").symlink_to(tmp_path / "nowhere")
        (folder / "whole.parquet").symlink_to(folder / "a.parquet")
        (folder / "back").symlink_to(folder)
        others = {
            "in/empty.parquet": "a folder",
            "in/gone.parquet": "a link that leads nowhere",
            "in/pipe.parquet": "neither a file nor a folder",
            "in/ring.parquet": "a link that leads nowhere",
        }
        for pattern, more in (("in/*.parquet", {}), ("in/**/*.parquet", {"in/lost": "a link that leads nowhere"})):
            files, found = storage.glob(pattern)
            assert [file.path for file in files] == ["in/a.parquet", "in/whole.parquet"]
            assert found == others | more
        (folder / "back").unlink()
        links = ("in/gone.parquet", "in/lost", "in/ring.parquet")
        assert storage.glob("in/*/*.parquet").others == dict.fromkeys(links, "a link that leads nowhere")

    def test_glob_folder_that_may_not_be_listed_is_an_error(self) -> None:
        with open_to_all() as folder:
            storage = LocalStorage(folder)
            for name in ("closed", "open"):
                self.put(storage, f"in/{name}/a.parquet", b"x")
            storage.path("in/closed").chmod(0)
            with without_privileges(), pytest.raises(StorageError, match="no permission") as caught:
                storage.glob("in/*/*.parquet")
            assert caught.value.where == storage.where("in/closed")

    def test_glob_link_to_a_file_that_may_not_be_looked_at_is_an_error(self) -> None:
        with open_to_all() as folder:
            storage = LocalStorage(folder)
            self.put(storage, "closed/a.parquet", b"x")
            storage.path("in").mkdir()
            storage.path("in/a.parquet").symlink_to(storage.path("closed/a.parquet"))
            storage.path("closed").chmod(0)
            with without_privileges(), pytest.raises(StorageError, match="no permission"):
                storage.glob("in/*.parquet")

    def test_glob_absolute_pattern_gives_absolute_keys(self, storage: LocalStorage, tmp_path: Path) -> None:
        (tmp_path / ".hidden").mkdir()
        (tmp_path / ".hidden" / "a.parquet").write_bytes(b"x")
        (found,), _ = storage.glob(f"{tmp_path}/.hidden/*.parquet")
        assert found.path == f"{tmp_path}/.hidden/a.parquet"
        assert storage.read(found.path) == b"x"

    def test_etag_is_that_of_the_file_and_not_of_its_name(self, storage: LocalStorage) -> None:
        self.put(storage, "x", b"one")
        first = storage.head("x")
        other = storage.root / "other"
        other.write_bytes(b"two")
        stat = (storage.root / "x").stat()
        os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as `cp -p` or `rsync -t` make it
        other.replace(storage.root / "x")
        second = storage.head("x")
        assert first is not None
        assert second is not None
        assert (first.size, first.etag) != (second.size, second.etag)

    def test_update_locks_a_file_that_it_may_write(
        self, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """NFS refuses an exclusive lock on a file or folder that is open for reading only."""
        modes = []
        real = fcntl.flock

        def locked(descriptor: int, how: int) -> None:
            modes.append(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE)
            real(descriptor, how)

        monkeypatch.setattr(fcntl, "flock", locked)
        assert storage.update("runs/a", b"1", None)
        assert modes == [os.O_RDWR]

    def test_update_whose_lock_file_is_removed_while_it_waits_takes_the_new_one(
        self, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real, locked = fcntl.flock, list[int]()

        def locked_after_a_removal(descriptor: int, how: int) -> None:
            if not locked:
                shutil.rmtree(storage.root / ".staging")
            locked.append(os.fstat(descriptor).st_nlink)
            real(descriptor, how)

        monkeypatch.setattr(fcntl, "flock", locked_after_a_removal)
        assert storage.update("runs/a", b"1", None)
        assert locked == [0, 1]

    @pytest.mark.parametrize("mode", [0o700, 0o770, 0o777])
    def test_update_lock_may_be_taken_by_all_who_may_write_in_the_lake(self, storage: LocalStorage, mode: int) -> None:
        make_folder(storage.root / LOCKS)
        (storage.root / LOCKS).chmod(mode)
        assert storage.update("a", b"1", None)
        (lock,) = (storage.root / LOCKS).iterdir()
        assert stat.S_IMODE(lock.stat().st_mode) == mode & 0o666

    def test_create_from_another_disk_is_a_storage_error(self, storage: LocalStorage) -> None:
        memory = Path("/dev/shm")
        if memory.stat().st_dev == storage.root.parent.stat().st_dev:
            pytest.skip("there is one disk only")
        source = memory / f"lakescore-{os.getpid()}"
        source.write_bytes(b"x")
        try:
            with pytest.raises(StorageError, match="the file system refused"):
                storage.create("a", source)
        finally:
            source.unlink()

    def test_file_where_a_folder_should_be_is_a_storage_error(self, storage: LocalStorage, tmp_path: Path) -> None:
        self.put(storage, "a", b"x")
        source = tmp_path / "source"
        source.write_bytes(b"y")
        calls = (
            lambda: storage.write("a/b", b"y"),
            lambda: storage.create("a/b", source),
            lambda: storage.head("a/b"),
            lambda: storage.read("a/b"),
        )
        for call in calls:
            with pytest.raises(LakescoreError, match="the file system refused"):
                call()

    def test_make_folder_by_many_at_once_succeeds(self, tmp_path: Path) -> None:
        for number in range(20):
            folder = tmp_path / str(number) / "a" / "b"
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(make_folder, [folder] * 8))
            assert folder.is_dir()


@pytest.mark.parametrize(
    ("number", "kind", "message"),
    [
        (errno.ENOSPC, StorageUnavailable, "the disk is full"),
        (errno.EDQUOT, StorageUnavailable, "the disk is full"),
        (errno.EACCES, StorageError, "no permission"),
        (errno.EPERM, StorageError, "no permission"),
        (errno.EROFS, StorageError, "no permission"),
        (errno.EIO, StorageError, "the file system refused"),
        (errno.EXDEV, StorageError, "the file system refused"),
    ],
)
def test_translated_os_errors_refusal_of_the_system_says_what_and_where(
    number: int, kind: type[LakescoreError], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught, translated_os_errors("the lake"):
        raise OSError(number, os.strerror(number), "some/file")
    assert caught.value.where == "some/file"
    assert caught.value.transient is (kind is StorageUnavailable)
    with pytest.raises(kind) as caught, translated_os_errors("the lake"):
        raise OSError(number, os.strerror(number))
    assert caught.value.where == "the lake"


def test_translated_os_errors_other_errors_pass_unchanged() -> None:
    with pytest.raises(FileExistsError), translated_os_errors("the lake"):
        raise FileExistsError(errno.EEXIST, "exists")
    assert translate_error(ValueError("x"), "the lake") is None


@pytest.mark.parametrize("text", ["Error writing bytes to file. Detail: [errno 28] No space left on device"])
def test_translate_text_of_another_library_is_recognised(text: str) -> None:
    assert isinstance(translate_error(OSError(text), "the lake"), StorageUnavailable)
