"""Publishes finished files as the rows of a day: atomically for each day, or not at all.

Files are written and synced in a hidden folder beside the days, on the same disk. Then, for each day:

- new day: its folder is renamed into place. The rename fails if the target is not empty, so concurrent writers never
  replace anything by accident;
- `append`: the rows are one file, whatever their number, which is linked under a unique name;
- `replace`: the two folders are swapped (`renameat2` where the kernel has it; elsewhere the day is absent for a moment
  between two renames).

Guarantees on a local disk: a listing of a day shows all of an import or nothing of it, and what it shows survives a
power cut once the call has returned. All days are checked before the first is published; they are then published
within milliseconds of each other, and a crash in between leaves the earlier days, each complete. File names are never
reused: a reader with an old listing finds its files or gets an error, but never finds other rows under the same name.
Replaced files are removed once the disk has confirmed the swap. Only a reader that pauses between opening a folder and
reading it can see part of a day during that removal (a run therefore checks its input again before it commits).

Leftovers of a killed process are removed by the next process that writes to the same place.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from fnmatch import fnmatchcase
from itertools import repeat
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pipeline.errors import LakescoreError, StorageError, UsageError
from pipeline.ingest.writing import FILE_ROWS, DayWriter
from pipeline.lake.layout import Lake
from pipeline.records import FileInfo, new_run_id
from pipeline.storage import make_folder, sync_file, sync_folder, translated_os_errors

if TYPE_CHECKING:
    import pyarrow as pa

PREFIX, IN_WORK = ".ingest-", ".tmp"
ENDLESS = 1 << 62
CURRENT_FOLDER, EXCHANGE = -100, 2
"""AT_FDCWD and RENAME_EXCHANGE, arguments of renameat2(2)."""


class Existing(Enum):
    """What to do with a day that already has files."""

    refuse = "refuse"
    append = "append"
    replace = "replace"


@dataclass(frozen=True)
class Target:
    """Location of a day's files. `folder` is relative to the lake and contains `{ds}`; `name` contains one `*`."""

    folder: str
    name: str
    row_key: tuple[str, ...] = field(default=(), compare=False)
    """Key columns by which `explain` looks up a single row; they get Bloom filters."""

    def day(self, ds: str) -> str:
        return self.folder.replace("{ds}", ds)

    def file(self, ds: str, stem: str) -> str:
        return self.name.replace("{ds}", ds).replace("*", stem)

    @property
    def base(self) -> str:
        """The folder that contains all days."""
        return PurePosixPath(self.folder.partition("{ds}")[0] + "x").parent.as_posix()

    @property
    def keys(self) -> set[str]:
        """Columns that readers take from the path, such as `ds`, in lower case."""
        return {part.partition("=")[0].lower() for part in PurePosixPath(self.folder).parts if "=" in part}


UNSCORED = Target("unscored/ds={ds}", "*.parquet", ("id",))


@dataclass(frozen=True)
class PublishedDay:
    ds: str
    rows: int
    files: tuple[FileInfo, ...]
    types: Mapping[str, str] = field(default_factory=dict, compare=False)
    """The DuckDB type of each column, if the day comes from files whose types were inferred."""

    @property
    def bytes(self) -> int:
        return sum(file.size for file in self.files)

    def as_dict(self) -> dict[str, object]:
        return {"ds": self.ds, "rows": self.rows, "bytes": self.bytes, "files": [file.path for file in self.files]}


class Staging:
    """The unpublished days of one import. Made by `staging`."""

    def __init__(self, lake: Lake, target: Target, existing: Existing, folder: Path) -> None:
        self.lake, self.target, self.existing, self.folder = lake, target, existing, folder
        self.import_id = folder.name.removeprefix(PREFIX).removesuffix(IN_WORK)
        self._written: dict[str, DayWriter] = {}
        self._names: dict[str, str] = {}
        """Published name by staged name, for files whose name changes when they are published."""

    @contextmanager
    def writer(
        self,
        ds: str,
        schema: pa.Schema,
        sizes: Iterator[int] | None = None,
        dictionary: list[str] | None = None,
    ) -> Iterator[DayWriter]:
        """Opens a day for writing; `sizes` are the rows per file. Raises UsageError if existing files prevent it."""
        self.check([ds])
        folder = self._staged(ds)
        if self.existing is Existing.append or (sizes is None and not self.lake.is_local):
            sizes = repeat(ENDLESS)

        def place(number: int) -> Path:
            return folder / self.target.file(ds, f"part-{self.import_id}-{number:05d}")

        with translated_os_errors(folder):
            folder.mkdir()
            with DayWriter(place, schema, sizes or repeat(FILE_ROWS), dictionary, self.target.row_key) as writer:
                yield writer
        self._written[ds] = writer

    def publish(self) -> tuple[PublishedDay, ...]:
        """Makes the days visible.

        Raises UsageError if existing files prevent it, StorageError if the disk refuses. Nothing is published then,
        unless the message says otherwise: another writer or the disk may interfere after the first day.
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
        """Raises UsageError if existing files prevent the publication of these days."""
        if self.existing is Existing.refuse:
            if taken := [ds for ds in days if self._entries(ds)]:
                raise _taken(taken, self._where(taken[0]))
        elif self.existing is Existing.replace:
            for ds in days:
                if foreign := [name for name in self._entries(ds) if not self._ours(ds, name)]:
                    raise UsageError(
                        f"{ds} cannot be replaced: its folder also holds other files, which would be deleted",
                        where=f"{self._where(ds)}/{foreign[0]}",
                        expected=self.target.name,
                        next_step="remove the old files by hand, then import with --append",
                    )

    def _sync(self) -> None:
        """Syncs all files at the end, when most data is already on disk: a sync after each file would be slower."""
        with translated_os_errors(self.folder):
            for writer in self._written.values():
                for path in writer.files:
                    sync_file(path)
            for ds in self._written:
                sync_folder(self._staged(ds))

    def _ours(self, ds: str, name: str) -> bool:
        return _hidden(name) or self._is_data(ds, name)

    def _is_data(self, ds: str, name: str) -> bool:
        """Tells whether an entry of a day's folder is a file that a reader of the target's pattern sees."""
        return not _hidden(name) and "/" not in name and fnmatchcase(name, self.target.file(ds, "*"))

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
    """Staging for a lake in an object store, which has no rename: a day is one object, uploaded by one put.

    `replace` first deletes all but one of the day's data objects and then overwrites that one: rows may be absent for a
    moment, but are never duplicated. With several files (`generate --files`), they appear one after another. Hidden
    objects, such as `_SUCCESS`, stay: rows under such a name would not be read.
    """

    def _publish(self, ds: str) -> None:
        folder, storage = self.target.day(ds), self.lake.storage
        entries = self._entries(ds) if self.existing is Existing.replace else []
        old = [name for name in entries if self._is_data(ds, name)]
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
        """Returns the names relative to the day's folder: an object in a subfolder has a `/` in its name."""
        prefix = self.target.day(ds)
        return [file.path.removeprefix(f"{prefix}/") for file in self.lake.storage.files(prefix)]

    def _sync_published(self) -> None:
        """Does nothing: a put is durable when it returns."""


@contextmanager
def staging(lake: Lake, target: Target, existing: Existing) -> Iterator[Staging]:
    """Creates the hidden staging folder and finally removes it, with everything that was not published."""
    lake.prepare()
    base = lake.workspace.path(target.base)
    kind = Staging if lake.is_local else Upload
    with translated_os_errors(base):
        make_folder(base)
        _sweep(base)
        folder = base / f"{PREFIX}{new_run_id()}"
        folder.mkdir()
        with _locked(folder):
            try:
                # Renamed only once locked: other processes treat unlocked folders of this name as leftovers.
                folder = folder.rename(folder.with_name(folder.name + IN_WORK))
                yield kind(lake, target, existing, folder)
            finally:
                shutil.rmtree(folder)


def _hidden(name: str) -> bool:
    return name.startswith((".", "_"))


def _sweep(base: Path) -> None:
    """Removes the folders of dead processes, whose locks the kernel has released."""
    for left in base.glob(f"{PREFIX}*{IN_WORK}"):
        # still in use; removed since it was listed; owned by another user
        with suppress(BlockingIOError, FileNotFoundError, PermissionError), _locked(left):
            shutil.rmtree(left)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Locks a folder; the kernel releases the lock if the process dies. Raises BlockingIOError if already locked."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(lock)


def exchange(one: Path, other: Path) -> None:
    """Swaps two folders atomically, or by renames where the kernel or file system does not support that."""
    swap = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if swap is not None:
        if swap(CURRENT_FOLDER, os.fsencode(one), CURRENT_FOLDER, os.fsencode(other), EXCHANGE) == 0:
            return
        if (number := ctypes.get_errno()) not in (errno.ENOSYS, errno.EINVAL):
            raise OSError(number, os.strerror(number), str(other))
    swap_by_renames(one, other)


def swap_by_renames(one: Path, other: Path) -> None:
    """Swaps two folders by renames. `other` is absent for a moment, and restored if the second rename fails."""
    aside = one.with_name(f"{one.name}.old")
    other.rename(aside)
    try:
        one.rename(other)
    except OSError:
        aside.rename(other)
        raise
    aside.rename(one)


def _taken(days: list[str], where: str) -> UsageError:
    what = f"{days[0]} already has files" if len(days) == 1 else f"{len(days)} of the days already have files"
    return UsageError(
        what,
        where=where,
        got=None if len(days) == 1 else ", ".join(days[:3]) + (", ..." if len(days) > 3 else ""),
        next_step="--replace replaces their rows; --append adds to them (do not import the same file twice)",
    )


def _stopped(error: OSError | LakescoreError, where: str, published: int, total: int) -> LakescoreError:
    done = f"{published} of {total} days are published, the others are not" if published else "nothing is published"
    if isinstance(error, OSError) and error.errno in (errno.ENOTEMPTY, errno.EEXIST):
        return UsageError(
            f"another process wrote files for this day during the import; {done}",
            where=where,
            next_step="look at these files, then choose between --append and --replace",
        )
    return StorageError(
        f"the files cannot be published; {done}",
        where=where,
        got=str(error).splitlines()[0],
        next_step="fix the disk, then import again with --replace",
    )
