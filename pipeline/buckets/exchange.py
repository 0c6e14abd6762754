"""Where the tasks of a run leave files for each other, and for the process that runs the day.

On a disk that all machines share, files are written where they stay. For a cluster whose lake is in an object store,
they lie in the bucket, under the keys that they have on a disk: a task works in a folder of its own machine, uploads
what it has written there, and removes the folder. Nothing is ever written twice under the same key.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import StorageUnavailable
from pipeline.storage import give_name, make_folder, sync_folder, translated_os_errors

if TYPE_CHECKING:
    from pipeline.context import Context
    from pipeline.storage import LocalStorage, Storage

AT_ONCE = 8
"""Number of files that are uploaded or downloaded at the same time."""
CHUNK = 1 << 22
FETCHED = "fetched-"
"""Prefix of the folders in `.staging/` with what a task has downloaded."""


class Exchange:
    """Files are named by their keys, which are the same in the workspace of the lake and in a bucket."""

    def __init__(self, ctx: Context) -> None:
        self.disk: LocalStorage = ctx.lake.workspace
        self.in_bucket = is_in_bucket(ctx)
        self.storage: Storage = ctx.lake.storage if self.in_bucket else self.disk

    @contextmanager
    def shared(self, folder: str) -> Iterator[None]:
        """Shares the files that the block writes into a local folder, as soon as it ends without an error."""
        path = self.disk.path(folder)
        if not self.in_bucket:
            yield
            return
        try:
            yield
            self._all(self._upload, [file.path for file in self.disk.files(folder)])
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def share(self, key: str) -> None:
        """Shares one local file."""
        if self.in_bucket:
            self._upload(key)
            self.disk.delete(key)

    @contextmanager
    def fetched(self, keys: Sequence[str], others: Sequence[str]) -> Iterator[dict[str, str]]:
        """Yields the keys, in the workspace of this machine, of shared files while they are read.

        Those of `others` that have been removed are left out. Raises StorageUnavailable if one of `keys` is not seen.
        """
        if not self.in_bucket:
            for key in keys:
                if self.disk.head(key) is None:
                    raise _unseen(self.disk.where(key))
            yield {key: key for key in (*keys, *others)}  # who reads the others links them first
            return
        make_folder(self.disk.path(".staging"))
        with translated_os_errors(self.disk.root):
            folder = Path(tempfile.mkdtemp(prefix=FETCHED, dir=self.disk.path(".staging")))
        names = {key: f".staging/{folder.name}/{number:05d}.parquet" for number, key in enumerate((*keys, *others))}
        try:
            self._all(lambda key: self._download(key, self.disk.path(names[key])), keys)
            for key in others:
                try:
                    self._download(key, self.disk.path(names[key]))
                except StorageUnavailable:  # its run has ended, and removed it
                    del names[key]
            yield names
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def take(self, keys: Sequence[str], folder: Path) -> None:
        """Puts shared files into a local folder, under the last part of their keys: links on a disk, copies else."""
        make_folder(folder)
        if self.in_bucket:
            self._all(lambda key: self._download(key, folder / key.rpartition("/")[2]), keys)
        else:
            for key in keys:
                (folder / key.rpartition("/")[2]).hardlink_to(self.disk.path(key))
        sync_folder(folder)

    def remove(self, folder: str) -> None:
        """Removes the shared files below a folder; what cannot be removed now is left to `clean`."""
        shutil.rmtree(self.disk.path(folder), ignore_errors=True)
        if self.in_bucket:
            self._all(self.storage.delete, [file.path for file in self.storage.files(folder)])

    def _upload(self, key: str) -> None:
        self.storage.replace(key, self.disk.path(key))  # a key of this attempt alone

    def _download(self, key: str, path: Path) -> None:
        temporary = path.with_name(f"{path.name}.tmp")
        try:
            with self.storage.open(key) as source, translated_os_errors(path), temporary.open("wb") as copy:
                shutil.copyfileobj(source, copy, CHUNK)
        except FileNotFoundError:
            raise _unseen(self.storage.where(key)) from None
        with translated_os_errors(path):
            give_name(temporary, path)

    @staticmethod
    def _all(work: Callable[[str], None], keys: Sequence[str]) -> None:
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="exchange") as pool:
            list(pool.map(work, keys))


def is_in_bucket(ctx: Context) -> bool:
    """Tells whether the tasks of a job leave their files in the bucket of the lake."""
    return ctx.job.engine.name == "spark" and not ctx.lake.is_local


def _unseen(where: str) -> StorageUnavailable:
    return StorageUnavailable(
        "a file of the run is missing on the machine that scores a bucket",
        where=where,
        next_step="the lake must lie in an object store, or on a disk that all machines share at the same path; see "
        "docs/cluster.md",
    )
