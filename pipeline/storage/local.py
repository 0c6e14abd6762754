"""A folder on a disk as storage. `create` is a hard link: it fails if the name is taken, and is atomic for readers."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import resource
import secrets
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from pipeline.errors import LakescoreError, StorageError, StorageUnavailable
from pipeline.records import FileInfo
from pipeline.storage.patterns import Matches, expand, unread

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

FULL = {errno.ENOSPC, errno.EDQUOT}
DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
WRITING = ".writing"
"""Folder for files that are being written, until a rename publishes them: data folders hold only complete files."""
LOCKS = ".staging/locks"
"""Folder for the files that `update` locks."""
LOCK_FILES = 64
"""Number of these files; folders share them."""


class LocalStorage:
    """A folder on a disk. Keys are relative paths with forward slashes; writes are durable when the call returns."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._root = str(root)

    def __str__(self) -> str:
        return str(self.root)

    def path(self, key: str) -> Path:
        """Returns the path of a key; an absolute path, such as that of a job's own input, is returned unchanged."""
        return self.root / key

    def _at(self, key: str) -> str:
        """Returns the path of a key as text: `Path` takes longer than the call of the system that it is for."""
        return os.path.join(self._root, key)  # noqa: PTH118

    @property
    def workspace(self) -> LocalStorage:
        return self

    def where(self, key: str) -> str:
        if not key or key.endswith("/") or "//" in key or "./" in key:
            return str(self.path(key).absolute())
        at = self._at(key)
        return at if os.path.isabs(at) else f"{os.getcwd()}/{at}"  # noqa: PTH109, PTH117

    def attach(self, con: Connection) -> None:
        """Does nothing: DuckDB reads local files directly."""

    def files(self, prefix: str) -> list[FileInfo]:
        with translated_os_errors(self._at(prefix)):
            return sorted(_walk(self._at(prefix), prefix.rstrip("/")), key=lambda file: file.path)

    def folders(self, prefix: str) -> list[str]:
        with translated_os_errors(self._at(prefix)):
            try:
                return sorted(entry.name for entry in os.scandir(self._at(prefix)) if entry.is_dir())
            except FileNotFoundError:
                return []

    def glob(self, pattern: str) -> Matches:
        files: list[FileInfo] = []
        folders: list[str] = []
        others: dict[str, str] = {}
        with translated_os_errors(self.path(pattern)):
            for key in sorted(set(expand(self.root, pattern))):
                try:
                    found = self.path(key).stat()
                except OSError as error:
                    if error.errno not in (errno.ENOENT, errno.ELOOP):
                        raise
                    if self.path(key).is_symlink():
                        others[key] = "a link that leads nowhere"
                    continue  # otherwise it was removed since its folder was listed
                if stat.S_ISREG(found.st_mode):
                    files.append(_info(key, found).model_copy(update={"changed_ns": found.st_ctime_ns}))
                elif stat.S_ISDIR(found.st_mode):
                    folders.append(key)
                else:
                    others[key] = "neither a file nor a folder"
        others |= dict.fromkeys(unread(folders, [file.path for file in files]), "a folder")
        return Matches(files, others)

    def head(self, key: str) -> FileInfo | None:
        with translated_os_errors(self._at(key)):
            try:
                found = os.stat(self._at(key))  # noqa: PTH116
            except FileNotFoundError:
                return None
            return _info(key, found) if not stat.S_ISDIR(found.st_mode) else None

    def stat(self, key: str) -> tuple[FileInfo, datetime]:
        with translated_os_errors(self.path(key)):
            found = self.path(key).stat()
            return _info(key, found), datetime.fromtimestamp(found.st_mtime, UTC)

    def read(self, key: str) -> bytes | None:
        with translated_os_errors(self._at(key)):
            try:
                with open(self._at(key), "rb") as file:  # noqa: PTH123
                    return file.read()
            except FileNotFoundError:
                return None

    def open(self, key: str) -> BinaryIO:
        with translated_os_errors(self.path(key)):
            return self.path(key).open("rb")

    def write(self, key: str, content: bytes) -> None:
        with self._made(key) as temporary, open(temporary, "xb") as file:  # noqa: PTH123
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def replace(self, key: str, finished: Path) -> FileInfo:
        with self._made(key) as temporary:
            os.link(finished, temporary)
        return _info(key, os.stat(self._at(key)))  # noqa: PTH116

    def update(self, key: str, content: bytes | Path, seen: FileInfo | None) -> bool:
        """Writers to one folder take turns."""
        with self._turn(key):
            if self.head(key) != seen:
                return False
            if isinstance(content, Path):
                self.replace(key, content)
            else:
                self.write(key, content)
            return True

    @contextmanager
    def _turn(self, key: str) -> Iterator[None]:
        """Holds the lock of a key's folder, which the kernel releases if its holder dies.

        The lock is on a file of its own, opened for writing: NFS refuses an exclusive lock on anything else.
        """
        folder = str(self.path(key).parent.absolute())
        path = self.root / LOCKS / f"{zlib.crc32(folder.encode()) % LOCK_FILES:02x}"
        while True:
            with translated_os_errors(path):
                descriptor = _open_for_all(path)
            try:
                with translated_os_errors(path):
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
                if _is_at(descriptor, path):  # otherwise somebody has removed it, and the next one locks another file
                    yield
                    return
            finally:
                os.close(descriptor)

    @contextmanager
    def _made(self, key: str) -> Iterator[str]:
        """Yields a temporary path to write to; the file then replaces the key's file by a rename."""
        target, writing = self._at(key), self._at(WRITING)
        temporary, folder = f"{writing}/{secrets.token_hex(8)}", os.path.dirname(target)  # noqa: PTH120
        with translated_os_errors(target):
            make_folder(folder)
            make_folder(writing)
            try:
                yield temporary
                os.replace(temporary, target)  # noqa: PTH105
            except BaseException:
                with suppress(FileNotFoundError):
                    os.unlink(temporary)  # noqa: PTH108
                raise
            sync_folder(folder)

    def create(self, key: str, finished: Path) -> FileInfo:
        target = self.path(key)
        with translated_os_errors(target):
            make_folder(target.parent)
            os.link(finished, target)
            # Sync every level: a folder may have been made by another process that was killed before its sync.
            for folder in (target.parent, *_between(target.parent, self.root)):
                sync_folder(folder)
            return _info(key, target.stat())

    def copy(self, source: str, key: str) -> FileInfo:
        return self.create(key, self.path(source))

    def delete(self, key: str) -> None:
        with translated_os_errors(self.path(key)):
            try:
                self.path(key).unlink()
            except FileNotFoundError:
                return
            sync_folder(self.path(key).parent)

    def probe(self) -> None:
        name = f".probe-{secrets.token_hex(4)}"
        source, target = self.root / f"{name}.tmp", self.root / name
        with translated_os_errors(self.root):
            make_folder(self.root)
            source.write_bytes(b"")
        try:
            self.create(name, source)
            with suppress(FileExistsError):
                self.create(name, source)
                raise StorageError("this file system allows a file to be created twice", where=self.root)
            probe_updates(self, name)
        finally:
            source.unlink(missing_ok=True)
            target.unlink(missing_ok=True)

    def probe_copy(self) -> None:
        self.probe()  # a copy is a hard link, too


def probe_updates(storage: Any, key: str) -> None:
    """Checks that a storage replaces a file under a condition, and only if it holds. Raises StorageError if not."""
    first = storage.head(key)
    if not storage.update(key, b"1", first):
        raise StorageError("this storage refuses to replace a file that is unchanged", where=storage.where(key))
    if storage.update(key, b"2", first) or storage.read(key) != b"1":
        raise StorageError("this storage replaces a file that has changed meanwhile", where=storage.where(key))


@contextmanager
def translated_os_errors(where: object) -> Iterator[None]:
    """Translates errors of the operating system into errors that say what to do; other errors pass unchanged."""
    try:
        yield
    except OSError as error:
        if (translated := translate_error(error, where)) is None:
            raise
        raise translated from error


def translate_error(error: BaseException, where: object) -> LakescoreError | None:  # noqa: PLR0911 - one per cause
    """Translates an OSError, or another library's error that quotes one, into our error; None if unknown."""
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
    if number == errno.EFBIG or "File too large" in text:
        return _too_large(text, where)
    if "the object store does not answer" in text:  # quoted by DuckDB, which reads through `reading.py`
        return StorageUnavailable("the object store does not answer as it should", where=where)
    if "the object store refused" in text:
        return StorageError("the object store refused", where=where)
    if number in (errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EOPNOTSUPP, errno.EIO, errno.EXDEV):
        return StorageError("the file system refused", where=where, got=text)
    return None


def _too_large(text: str, where: object) -> StorageError:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return StorageError(
        "a file would be larger than this process may write",
        where=where,
        expected=None if limit == resource.RLIM_INFINITY else f"at most {limit:,} bytes (ulimit -f)",
        got=text,
        next_step="raise ulimit -f, or use a file system that holds larger files",
    )


def make_folder(folder: Path | str) -> None:
    """Makes a folder and its parents, and syncs each new entry to disk."""
    while not os.path.isdir(folder):  # noqa: PTH112
        folder = Path(folder)
        make_folder(folder.parent)
        try:
            folder.mkdir(exist_ok=True)
            sync_folder(folder.parent)
        except FileExistsError:  # it is a file; from `create`, FileExistsError would mean that the name is taken
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from None
        except FileNotFoundError:
            continue  # another process has removed the empty parent again


def _open_for_all(path: Path) -> int:
    """Opens a file for writing, and makes it if it is missing: writable for everyone who may write in the lake."""
    while True:
        make_folder(path.parent)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except FileNotFoundError:
            continue  # another process has removed the folder
        found = os.fstat(descriptor)
        mode = stat.S_IMODE(path.parent.stat().st_mode) & 0o666 | 0o600
        if found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) != mode:
            os.fchmod(descriptor, mode)
        return descriptor


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def private_folder(folder: Path) -> Path:
    """Returns a folder for data that no other user may see or change; makes it, with mode 0700, if it is missing.

    Raises StorageError if another user owns it or could replace it, or if it is a link.
    """
    with translated_os_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found, above = folder.lstat(), folder.parent.stat()
        if not stat.S_ISDIR(found.st_mode):
            problem = "it is a link or a file"
        elif found.st_uid != os.geteuid():
            problem = f"it belongs to the user with the id {found.st_uid}"
        elif above.st_mode & stat.S_IWOTH and not above.st_mode & stat.S_ISVTX:
            problem = f"everyone may write in {folder.parent}, and so replace it"
        else:
            if stat.S_IMODE(found.st_mode) & 0o077:
                folder.chmod(0o700)
            return folder
    raise StorageError(
        "the folder for unfinished work is not safe from other users",
        where=folder,
        expected=f"a folder of the user with the id {os.geteuid()} that nobody else may write to",
        got=problem,
        next_step="remove it, or let LAKESCORE_SCRATCH name a folder of your own",
    )


def _between(folder: Path, root: Path) -> list[Path]:
    """Returns the folders above a folder, up to the root; none if the folder is not below the root."""
    return [each for each in folder.parents if each.is_relative_to(root)] if folder.is_relative_to(root) else []


def sync_folder(folder: Path | str) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def give_name(temporary: Path, target: Path) -> None:
    """Syncs a finished file, then renames it to its target, replacing any existing file."""
    sync_file(temporary)
    temporary.replace(target)
    sync_folder(target.parent)


def digest_of(path: Path) -> str:
    """Returns the SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _walk(folder: str, prefix: str) -> Iterator[FileInfo]:
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        key = f"{prefix}/{entry.name}" if prefix else entry.name
        try:
            if entry.is_dir():
                yield from _walk(entry.path, key)
            else:
                yield _info(key, entry.stat())
        except FileNotFoundError:
            continue  # removed since the folder was listed


def _info(key: str, found: os.stat_result) -> FileInfo:
    return FileInfo(path=key, size=found.st_size, etag=f"{found.st_ino:x}-{found.st_mtime_ns:x}")
