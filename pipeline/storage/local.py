"""A folder on a disk as storage. `create` is a hard link: it fails if the name is taken, and shows a file whole."""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO

from pipeline.errors import LakescoreError, StorageError, StorageUnavailable
from pipeline.records import FileInfo

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

FULL = {errno.ENOSPC, errno.EDQUOT}
DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
WRITING = ".writing"
"""Where files are made that then get their name by a rename: a folder of data never holds anything else."""


class LocalStorage:
    """A folder on a disk. Keys are relative paths with forward slashes; writes are durable when the call returns."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __str__(self) -> str:
        return str(self.root)

    def path(self, key: str) -> Path:
        """Returns where a key lies; an absolute path, such as that of a job's own input, stays as it is."""
        return self.root / key

    @property
    def workspace(self) -> LocalStorage:
        return self

    def where(self, key: str) -> str:
        return str(self.path(key).absolute())

    def attach(self, con: Connection) -> None:
        """DuckDB reads a disk by itself."""

    def files(self, prefix: str) -> list[FileInfo]:
        with explained(self.path(prefix)):
            return sorted(_walk(self.path(prefix), prefix.rstrip("/")), key=lambda file: file.path)

    def folders(self, prefix: str) -> list[str]:
        with explained(self.path(prefix)):
            try:
                return sorted(entry.name for entry in os.scandir(self.path(prefix)) if entry.is_dir())
            except FileNotFoundError:
                return []

    def glob(self, pattern: str) -> list[FileInfo]:
        parts = PurePosixPath(pattern).parts
        fixed = sum(1 for _ in takewhile(lambda part: not glob.has_magic(part), parts))
        found = []
        with explained(self.path(pattern)):
            for match in glob.glob(pattern, root_dir=self.root, recursive=True):
                path = PurePosixPath(match)
                hidden = any(part.startswith((".", "_")) for part in path.parts[fixed:])
                if not hidden and (info := self.head(str(path))):
                    found.append(info)
        return sorted(found, key=lambda file: file.path)

    def head(self, key: str) -> FileInfo | None:
        with explained(self.path(key)):
            try:
                stat = self.path(key).stat()
            except FileNotFoundError:
                return None
            return _info(key, stat) if not self.path(key).is_dir() else None

    def read(self, key: str) -> bytes | None:
        with explained(self.path(key)):
            try:
                return self.path(key).read_bytes()
            except FileNotFoundError:
                return None

    def open(self, key: str) -> BinaryIO:
        with explained(self.path(key)):
            return self.path(key).open("rb")

    def write(self, key: str, content: bytes) -> None:
        with self._made(key) as temporary, temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def replace(self, key: str, finished: Path) -> FileInfo:
        with self._made(key) as temporary:
            os.link(finished, temporary)
        return _info(key, self.path(key).stat())

    def update(self, key: str, content: bytes, seen: FileInfo | None) -> bool:
        """Writers of one folder take turns; the kernel takes the lock of a dead one back."""
        folder = self.path(key).parent
        with explained(folder):
            make_folder(folder)
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if self.head(key) != seen:
                    return False
                self.write(key, content)
                return True
            finally:
                os.close(descriptor)

    @contextmanager
    def _made(self, key: str) -> Iterator[Path]:
        """Gives a path to make a file at, which then takes the place of what the key names."""
        target = self.path(key)
        temporary = self.root / WRITING / secrets.token_hex(8)
        with explained(target):
            make_folder(target.parent)
            make_folder(temporary.parent)
            try:
                yield temporary
                temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)
            sync_folder(target.parent)

    def create(self, key: str, finished: Path) -> FileInfo:
        target = self.path(key)
        with explained(target):
            make_folder(target.parent)
            os.link(finished, target)
            # All of them: a folder may be another process's, which was killed before it could sync.
            for folder in (target.parent, *_between(target.parent, self.root)):
                sync_folder(folder)
            return _info(key, target.stat())

    def delete(self, key: str) -> None:
        with explained(self.path(key)):
            try:
                self.path(key).unlink()
            except FileNotFoundError:
                return
            sync_folder(self.path(key).parent)

    def probe(self) -> None:
        name = f".probe-{secrets.token_hex(4)}"
        source, target = self.root / f"{name}.tmp", self.root / name
        with explained(self.root):
            make_folder(self.root)
            source.write_bytes(b"")
        try:
            self.create(name, source)
            try:
                self.create(name, source)
            except FileExistsError:
                return
            raise StorageError("this file system lets a file be created twice", where=self.root)
        finally:
            source.unlink(missing_ok=True)
            target.unlink(missing_ok=True)


@contextmanager
def explained(where: object) -> Iterator[None]:
    """Turns the operating system's refusals into errors that say what to do; other errors pass unchanged."""
    try:
        yield
    except OSError as error:
        if (translated := translate(error, where)) is None:
            raise
        raise translated from error


def translate(error: BaseException, where: object) -> LakescoreError | None:
    """Returns the error of ours that an OSError, or another library's text of one, stands for."""
    number = getattr(error, "errno", None)
    text = str(error)
    where = getattr(error, "filename", None) or where
    if number in FULL or "No space left on device" in text:
        return StorageUnavailable(
            "the disk is full", where=where, next_step="free some space, then run again: it resumes"
        )
    if number in DENIED or "Permission denied" in text or "Read-only file system" in text:
        return StorageError(
            "no permission to write or read here", where=where, got=text, next_step="check owner, mode and mount"
        )
    if "the object store does not answer" in text:  # told by DuckDB, which reads through `reading.py`
        return StorageUnavailable("the object store does not answer as it should", where=where)
    if "the object store refused" in text:
        return StorageError("the object store refused", where=where)
    if number in (errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EOPNOTSUPP, errno.EIO, errno.EXDEV):
        return StorageError("the file system refused", where=where, got=text)
    return None


def make_folder(folder: Path) -> None:
    """Makes a folder and its parents, each entered durably in its own parent."""
    while not folder.is_dir():
        make_folder(folder.parent)
        try:
            folder.mkdir(exist_ok=True)
            sync_folder(folder.parent)
        except FileExistsError:  # a file; of `create`, this error would say that the name is taken
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from None
        except FileNotFoundError:
            continue  # another process has removed the empty parent again


def _between(folder: Path, root: Path) -> list[Path]:
    """Returns the folders above a folder, up to the root; of a folder elsewhere, none."""
    return [each for each in folder.parents if each.is_relative_to(root)] if folder.is_relative_to(root) else []


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _walk(folder: Path, prefix: str) -> Iterator[FileInfo]:
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        key = f"{prefix}/{entry.name}" if prefix else entry.name
        try:
            if entry.is_dir():
                yield from _walk(folder / entry.name, key)
            else:
                yield _info(key, entry.stat())
        except FileNotFoundError:
            continue  # removed since the folder was read


def _info(key: str, stat: os.stat_result) -> FileInfo:
    return FileInfo(path=key, size=stat.st_size, etag=f"{stat.st_ino:x}-{stat.st_mtime_ns:x}")
