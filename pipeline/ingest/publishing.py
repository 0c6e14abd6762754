"""How finished files become the rows of a day: in one step for each day, or not at all.

Files are written and synced in a hidden folder beside the days, on their disk. Then, for each day:

- a day that is not there: its folder is renamed into place. The rename fails if something is there, so nothing is
  replaced by accident, whoever else writes;
- `append`: its rows are one file, however many they are, and that file is linked under a name of its own;
- `replace`: the two folders change places (`renameat2`, where the kernel has it; elsewhere there is a moment, between
  two renames, in which the day is absent).

What a plain disk lets us promise: a listing of a day shows all of an import or nothing of it, and what it shows
survives a power cut once the call has returned. Several days are checked before the first is published, and then follow
each other within milliseconds; a crash in between leaves the earlier days, each whole. File names are never used twice:
a reader with an old listing finds its files or an error, never other rows under the name that it knows. What was
replaced is removed once the disk has confirmed the swap; only a reader that sleeps through that, between opening a
folder and reading it, sees a part (a run of ours therefore looks again before it commits).

What a killed process left behind is removed by the next one that writes beside it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from fnmatch import fnmatchcase
from itertools import repeat
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pipeline.errors import LakescoreError, StorageError, UsageError
from pipeline.ingest.writing import FILE_ROWS, DayWriter
from pipeline.lake import Lake
from pipeline.records import FileInfo, new_run_id
from pipeline.storage import explained, make_folder, sync_file, sync_folder

if TYPE_CHECKING:
    import pyarrow as pa

PREFIX, IN_WORK = ".ingest-", ".tmp"
ENDLESS = 1 << 62
CURRENT_FOLDER, EXCHANGE = -100, 2
"""AT_FDCWD and RENAME_EXCHANGE of renameat2(2)."""


class Existing(Enum):
    """What to do about a day that has files."""

    refuse = "refuse"
    append = "append"
    replace = "replace"


@dataclass(frozen=True)
class Target:
    """Where the files of a day lie. `folder` is relative to the lake and holds `{ds}`; `name` holds one `*`."""

    folder: str
    name: str
    row_key: tuple[str, ...] = field(default=(), compare=False)
    """Columns by which one row is looked for (`explain`)."""

    def day(self, ds: str) -> str:
        return self.folder.replace("{ds}", ds)

    def file(self, ds: str, stem: str) -> str:
        return self.name.replace("{ds}", ds).replace("*", stem)

    @property
    def base(self) -> str:
        """The folder that all days have in common."""
        return PurePosixPath(self.folder.partition("{ds}")[0] + "x").parent.as_posix()

    @property
    def keys(self) -> set[str]:
        """Columns that readers take from the path, such as `ds`, in small letters."""
        return {part.partition("=")[0].lower() for part in PurePosixPath(self.folder).parts if "=" in part}


UNSCORED = Target("unscored/ds={ds}", "*.parquet", ("id",))


@dataclass(frozen=True)
class PublishedDay:
    ds: str
    rows: int
    files: tuple[FileInfo, ...]

    @property
    def bytes(self) -> int:
        return sum(file.size for file in self.files)

    def as_dict(self) -> dict[str, object]:
        return {"ds": self.ds, "rows": self.rows, "bytes": self.bytes, "files": [file.path for file in self.files]}


class Staging:
    """The days of one import while they are in work. Made by `staging`."""

    def __init__(self, lake: Lake, target: Target, existing: Existing, folder: Path) -> None:
        self.lake, self.target, self.existing, self.folder = lake, target, existing, folder
        self.import_id = folder.name.removeprefix(PREFIX).removesuffix(IN_WORK)
        self._written: dict[str, DayWriter] = {}
        self._names: dict[str, str] = {}
        """The published name of a file, where it is another one."""

    @contextmanager
    def writer(
        self,
        ds: str,
        schema: pa.Schema,
        sizes: Iterator[int] | None = None,
        dictionary: list[str] | None = None,
    ) -> Iterator[DayWriter]:
        """Opens a day for writing; `sizes` are the rows of its files. Raises UsageError if the day is in the way."""
        self.check([ds])
        folder = self._staged(ds)
        if self.existing is Existing.append or (sizes is None and not self.lake.is_local):
            sizes = repeat(ENDLESS)

        def place(number: int) -> Path:
            return folder / self.target.file(ds, f"part-{self.import_id}-{number:05d}")

        with explained(folder):
            folder.mkdir()
            with DayWriter(place, schema, sizes or repeat(FILE_ROWS), dictionary, self.target.row_key) as writer:
                yield writer
        self._written[ds] = writer

    def publish(self) -> tuple[PublishedDay, ...]:
        """Makes the days visible. Raises UsageError if a day's files are in the way, StorageError if the disk refuses.

        Nothing was published then, except where the message says so: another writer, or the disk, came in between.
        """
        self.check(list(self._written))
        self._sync()
        published: list[PublishedDay] = []
        for ds, writer in self._written.items():
            try:
                self._publish(ds)
            except (OSError, LakescoreError) as error:
                raise _stopped(error, self._where(ds), len(published), len(self._written)) from error
            names = [self._names.get(path.name, path.name) for path in writer.files]
            files = [self.lake.storage.head(f"{self.target.day(ds)}/{name}") for name in names]
            published.append(PublishedDay(ds, writer.rows, tuple(file for file in files if file)))
        self._sync_published()
        return tuple(published)

    def check(self, days: list[str]) -> None:
        """Raises UsageError if files of these days are in the way."""
        if self.existing is Existing.refuse:
            if taken := [ds for ds in days if self._entries(ds)]:
                raise _taken(taken, self._where(taken[0]))
        elif self.existing is Existing.replace:
            for ds in days:
                if foreign := [name for name in self._entries(ds) if not self._ours(ds, name)]:
                    raise UsageError(
                        f"{ds} cannot be replaced: its folder holds files of other kinds, which would go as well",
                        where=f"{self._where(ds)}/{foreign[0]}",
                        expected=self.target.name,
                        next_step="remove the old files by hand, then import with --append",
                    )

    def _sync(self) -> None:
        """All at the end, when most of it is on the disk: a sync after each file would wait for each."""
        with explained(self.folder):
            for writer in self._written.values():
                for path in writer.files:
                    sync_file(path)
            for ds in self._written:
                sync_folder(self._staged(ds))

    def _ours(self, ds: str, name: str) -> bool:
        return name.startswith((".", "_")) or fnmatchcase(name, self.target.file(ds, "*"))

    def _publish(self, ds: str) -> None:
        staged, final = self._staged(ds), self._final(ds)
        if self.existing is Existing.append:
            for path in staged.iterdir():
                self.lake.storage.create(f"{self.target.day(ds)}/{path.name}", path)
            return
        make_folder(final.parent)
        if self.existing is Existing.replace and self._entries(ds):
            exchange(staged, final)
        else:
            staged.rename(final)

    def _staged(self, ds: str) -> Path:
        return self.folder / ds

    def _final(self, ds: str) -> Path:
        return self.lake.workspace.path(self.target.day(ds))

    def _where(self, ds: str) -> str:
        return self.lake.storage.where(self.target.day(ds))

    def _entries(self, ds: str) -> list[str]:
        try:
            return sorted(entry.name for entry in self._final(ds).iterdir())
        except FileNotFoundError:
            return []

    def _sync_published(self) -> None:
        for parent in {self._final(ds).parent for ds in self._written}:
            sync_folder(parent)


class Upload(Staging):
    """The same for a lake in an object store, where nothing can be renamed: a day is one object, put in one step.

    `replace` overwrites the first object of the day, after it has removed the others: for a moment rows may be absent,
    but never twice there. Several files (`generate --files`) appear one after the other.
    """

    def _publish(self, ds: str) -> None:
        folder, storage = self.target.day(ds), self.lake.storage
        old = self._entries(ds) if self.existing is Existing.replace else []
        for name in old[1:]:
            storage.delete(f"{folder}/{name}")
        for path in self._written[ds].files:
            if old:
                storage.replace(f"{folder}/{old[0]}", path)
                self._names[path.name] = old[0]
                old = []
            else:
                storage.create(f"{folder}/{path.name}", path)

    def _entries(self, ds: str) -> list[str]:
        prefix = self.target.day(ds)
        return [file.path.removeprefix(f"{prefix}/") for file in self.lake.storage.files(prefix)]

    def _sync_published(self) -> None:
        """A put has returned once it is durable."""


@contextmanager
def staging(lake: Lake, target: Target, existing: Existing) -> Iterator[Staging]:
    """Makes the hidden folder, and removes it at the end with whatever was not published."""
    lake.prepare()
    base = lake.workspace.path(target.base)
    kind = Staging if lake.is_local else Upload
    with explained(base):
        make_folder(base)
        _sweep(base)
        folder = base / f"{PREFIX}{new_run_id()}"
        folder.mkdir()
        with _locked(folder):
            try:
                # Only a folder that is locked gets the name by which others look for what a dead process left.
                folder = folder.rename(folder.with_name(folder.name + IN_WORK))
                yield kind(lake, target, existing, folder)
            finally:
                shutil.rmtree(folder)


def _sweep(base: Path) -> None:
    """Removes the folders of processes that have died: the kernel has taken their locks back."""
    for left in base.glob(f"{PREFIX}*{IN_WORK}"):
        # in work; finished since it was listed; another user's
        with suppress(BlockingIOError, FileNotFoundError, PermissionError), _locked(left):
            shutil.rmtree(left)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds a lock while the process lives. Raises BlockingIOError if another process holds it."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(lock)


def exchange(one: Path, other: Path) -> None:
    """Swaps two folders in one step, or in two where the kernel or the file system cannot."""
    swap = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if swap is not None:
        if swap(CURRENT_FOLDER, os.fsencode(one), CURRENT_FOLDER, os.fsencode(other), EXCHANGE) == 0:
            return
        if (number := ctypes.get_errno()) not in (errno.ENOSYS, errno.EINVAL):
            raise OSError(number, os.strerror(number), str(other))
    swap_by_renames(one, other)


def swap_by_renames(one: Path, other: Path) -> None:
    """`other` is absent for a moment, and back if the second rename fails."""
    aside = one.with_name(f"{one.name}.old")
    other.rename(aside)
    try:
        one.rename(other)
    except OSError:
        aside.rename(other)
        raise
    aside.rename(one)


def _taken(days: list[str], where: str) -> UsageError:
    what = f"{days[0]} has files already" if len(days) == 1 else f"{len(days)} of the days have files already"
    return UsageError(
        what,
        where=where,
        got=None if len(days) == 1 else ", ".join(days[:3]) + (", ..." if len(days) > 3 else ""),
        next_step="--replace puts the new rows in their place; --append adds them (do not import the same file twice)",
    )


def _stopped(error: OSError | LakescoreError, where: str, published: int, total: int) -> LakescoreError:
    done = f"{published} of {total} days are published, the others are not" if published else "nothing is published"
    if isinstance(error, OSError) and error.errno in (errno.ENOTEMPTY, errno.EEXIST):
        return UsageError(
            f"another writer filled the day in the meantime; {done}",
            where=where,
            next_step="look at what is there, then decide between --append and --replace",
        )
    return StorageError(
        f"the files cannot be put in place; {done}",
        where=where,
        got=str(error).splitlines()[0],
        next_step="once the disk is in order, import again with --replace",
    )
