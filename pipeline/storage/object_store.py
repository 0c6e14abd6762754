"""An object store as storage: S3 and compatible stores, Google Cloud Storage and Azure, through obstore.

`create` is a put with `If-None-Match: *`. Staging takes place on a local disk, and each prediction is uploaded once,
when it is published. Credentials, endpoint and encryption are obstore's own settings, from the environment (`AWS_...`,
`GOOGLE_...`, `AZURE_...`); Lakescore stores none of them.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, cast

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import from_url

from pipeline.errors import CommitUnknown, LakescoreError, StorageError, StorageUnavailable
from pipeline.records import FileInfo
from pipeline.storage.contract import SMALL_READ
from pipeline.storage.local import LocalStorage, private_folder, probe_updates
from pipeline.storage.patterns import Matches, fixed_steps, hidden, matches, unread

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection
    from obstore import UpdateVersion
    from obstore.store import ObjectStore

STATUS = re.compile(r"status code: (\d{3}[\w ]*)")
CODE = re.compile(r"<Code>(\w+)</Code>")
PASSING = re.compile(r"40[89]|429|5\d\d")
"""HTTP statuses after which the same call may succeed later; by then, obstore has already retried several times."""


class ObjectStorage:
    """A bucket, or a prefix in a bucket."""

    def __init__(self, url: str, retry_config: Any = None) -> None:
        self.url = url.rstrip("/")
        self._retry = retry_config
        self._stores: dict[str, ObjectStore] = {}

    def __str__(self) -> str:
        return self.url

    @cached_property
    def workspace(self) -> LocalStorage:
        """The folder of this lake below LAKESCORE_SCRATCH, or else below the system's folder for temporary files.

        It is kept between runs, so that the next run on this machine can reuse what a crashed run has staged. Nobody
        else can read or change it. Raises StorageError if another user could.
        """
        named = os.environ.get("LAKESCORE_SCRATCH")
        top = (
            Path(named).absolute() if named else private_folder(Path(tempfile.gettempdir(), f"lakescore-{os.getuid()}"))
        )
        return LocalStorage(private_folder(top / hashlib.sha256(self.url.encode()).hexdigest()[:16]))

    def where(self, key: str) -> str:
        return key if "://" in key or key.startswith("/") else f"{self.url}/{key}"

    def attach(self, con: Connection) -> None:
        from pipeline.storage.reading import attach

        attach(con, self, self.url.partition("://")[0])

    def files(self, prefix: str) -> list[FileInfo]:
        prefix = prefix.strip("/")
        store, path = self._at(prefix)
        own = "://" not in prefix
        before = "" if own else prefix.removesuffix(path)
        with self._translated_errors(prefix):
            found = (_info(before + meta["path"], meta) for chunk in obstore.list(store, path) for meta in chunk)
            return sorted(found, key=lambda file: file.path)

    def folders(self, prefix: str) -> list[str]:
        if prefix.startswith("/"):
            return LocalStorage(Path("/")).folders(prefix)
        prefix = prefix.strip("/")
        store, path = self._at(prefix)
        with self._translated_errors(prefix):
            found = obstore.list_with_delimiter(store, path)
        return sorted(name.rstrip("/").rpartition("/")[2] for name in found["common_prefixes"])

    def glob(self, pattern: str) -> Matches:
        if pattern.startswith("/"):
            return LocalStorage(Path("/")).glob(pattern)
        steps = pattern.split("/")
        fixed = fixed_steps(steps)
        if fixed == len(steps) and (found := self.head(pattern)):
            return Matches([found], {})
        files: list[FileInfo] = []
        folders: set[str] = set()
        for file in self.files("/".join(steps[:fixed])):
            path = file.path.split("/")
            if matches(path, steps) and not hidden(path[fixed:]):
                files.append(file)
            elif steps[-1] != "**":
                above = (path[:depth] for depth in range(max(fixed, 1), len(path)))
                folders |= {"/".join(each) for each in above if matches(each, steps) and not hidden(each[fixed:])}
        return Matches(files, dict.fromkeys(unread(folders, [file.path for file in files]), "a folder"))

    def head(self, key: str) -> FileInfo | None:
        try:
            return self.stat(key)[0]
        except FileNotFoundError:
            return None

    def read(self, key: str) -> bytes | None:
        store, path = self._at(key)
        try:
            with self._translated_errors(key):
                return bytes(obstore.get(store, path).bytes())
        except FileNotFoundError:
            return None

    def open(self, key: str) -> BinaryIO:
        return cast("BinaryIO", io.BufferedReader(_Ranges(self, self.stat(key)[0]), SMALL_READ))

    def stat(self, key: str) -> tuple[FileInfo, datetime]:
        """Returns a file and the time of its last change. Raises FileNotFoundError."""
        store, path = self._at(key)
        with self._translated_errors(key):
            meta = obstore.head(store, path)
            return _info(key, meta), meta["last_modified"]

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """Returns a part of a file, which is given by its key or its URL."""
        store, path = self._at(key)
        with self._translated_errors(key):
            return bytes(obstore.get_range(store, path, start=start, length=length))

    def create(self, key: str, finished: Path) -> FileInfo:
        with self._translated_errors(key, writing=True):
            try:
                put = obstore.put(self._store, key, finished, mode="create")
            except AlreadyExistsError:
                raise FileExistsError(self.where(key)) from None
        return FileInfo(path=key, size=finished.stat().st_size, etag=str(put["e_tag"]))

    def copy(self, source: str, key: str) -> FileInfo:
        """On S3, a multipart upload with one copied part, which `If-None-Match: *` completes only if the name is free.

        S3 has no condition for a plain copy; some servers offer a header for it, and others ignore that silently.
        """
        with self._translated_errors(source):
            obstore.head(self._store, source)
        with self._translated_errors(key, writing=True):
            try:
                obstore.copy(self._store, source, key, overwrite=False)
            except (AlreadyExistsError, PreconditionError):
                raise FileExistsError(self.where(key)) from None
        found = self.head(key)
        if found is None:
            raise CommitUnknown("a file that was just copied cannot be seen", where=self.where(key))
        return found

    def write(self, key: str, content: bytes) -> None:
        with self._translated_errors(key):
            obstore.put(self._store, key, content)

    def replace(self, key: str, finished: Path) -> FileInfo:
        with self._translated_errors(key):
            put = obstore.put(self._store, key, finished)
        return FileInfo(path=key, size=finished.stat().st_size, etag=str(put["e_tag"]))

    def update(self, key: str, content: bytes | Path, seen: FileInfo | None) -> bool:
        if seen is None:
            return self._put(key, content, "create")
        # Ceph (16 at least) compares the header with the ETag without its quotes, and so refuses the quoted one.
        return self._put(key, content, {"e_tag": seen.etag}) or (
            self.head(key) == seen and self._put(key, content, {"e_tag": seen.etag.strip('"')})
        )

    def _put(self, key: str, content: bytes | Path, condition: Literal["create"] | UpdateVersion) -> bool:
        """Puts a file; returns False if the condition does not hold."""
        with self._translated_errors(key, writing=True):
            try:
                obstore.put(self._store, key, content, mode=condition)
            except (AlreadyExistsError, PreconditionError):
                return False
        return True

    def delete(self, key: str) -> None:
        with suppress(FileNotFoundError), self._translated_errors(key):
            obstore.delete(self._store, key)

    def probe(self) -> None:
        key = f".probe-{secrets.token_hex(4)}"
        with tempfile.NamedTemporaryFile() as empty:
            try:
                self.create(key, Path(empty.name))
                with suppress(FileExistsError):
                    self.create(key, Path(empty.name))
                    raise StorageError("this object store allows a file to be created twice", where=self.url)
                probe_updates(self, key)
            finally:
                self.delete(key)

    def probe_copy(self) -> None:
        source, key = (f".probe-{secrets.token_hex(4)}" for _ in range(2))
        try:
            self.write(source, b"1")
            self.copy(source, key)
            if self.read(key) != b"1":
                raise StorageError("this object store does not copy what it is told to", where=self.url)
            self.write(source, b"2")
            with suppress(FileExistsError):
                self.copy(source, key)
                raise StorageError(
                    "this object store lets a copy replace a file",
                    where=self.url,
                    expected="a multipart copy with If-None-Match that fails if the name is taken",
                )
        finally:
            self.delete(source)
            self.delete(key)

    @property
    def _store(self) -> ObjectStore:
        return self._at("")[0]

    def _at(self, key: str) -> tuple[ObjectStore, str]:
        """Returns the store of a key and the path in it; a URL as key may name another bucket."""
        root, path = self.url, key
        if "://" in key and key != self.url and not key.startswith(self.url + "/"):
            scheme, _, rest = key.partition("://")
            bucket, _, path = rest.partition("/")
            root = f"{scheme}://{bucket}"
        elif "://" in key:
            path = key.removeprefix(self.url).lstrip("/")
        if root not in self._stores:
            insecure = any(os.environ.get(name, "").startswith("http://") for name in ENDPOINTS)
            with self._translated_errors(root):
                self._stores[root] = from_url(
                    root,
                    config=cast("Any", {"copy_if_not_exists": "multipart"}) if root.startswith("s3://") else None,
                    client_options={"allow_http": True} if insecure else None,
                    retry_config=self._retry,
                )
        return self._stores[root], path

    @contextmanager
    def _translated_errors(self, key: str, *, writing: bool = False) -> Iterator[None]:
        """Translates the store's errors. Their own text is not shown, because it may contain an access key ID."""
        try:
            yield
        except (LakescoreError, FileExistsError):
            raise
        except FileNotFoundError as error:
            if writing or "NoSuchBucket" in str(error):
                raise _translate(error, self.where(key), writing=writing) from None
            raise
        except (BaseError, OSError, ValueError) as error:
            raise _translate(error, self.where(key), writing=writing) from None


ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT", "AZURE_ENDPOINT", "GOOGLE_BASE_URL")


def _translate(error: BaseException, where: str, *, writing: bool) -> LakescoreError:
    text = str(error)
    status = match.group(1).strip() if (match := STATUS.search(text)) else ""
    code = f" ({match.group(1)})" if (match := CODE.search(text)) else ""
    if status and not PASSING.match(status):
        return StorageError(
            "the object store refused",
            where=where,
            got=status + code,
            next_step="check the bucket, its permissions, and the credentials in the environment",
        )
    if not status and isinstance(error, (ValueError, FileNotFoundError)):
        return StorageError("the object store cannot be opened", where=where, got=type(error).__name__)
    got = status + code if status else f"no answer ({type(error).__name__})"
    if writing:
        return CommitUnknown("unknown whether the object store stored the file", where=where, got=got)
    return StorageUnavailable("the object store does not answer as it should", where=where, got=got)


class _Ranges(io.RawIOBase):
    """A file in an object store; each read is one range request."""

    def __init__(self, storage: ObjectStorage, file: FileInfo) -> None:
        self._storage, self._file, self._at = storage, file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = (0, self._at, self._file.size)[whence] + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), self._file.size - self._at)
        if length <= 0:
            return 0
        content = self._storage.read_range(self._file.path, self._at, length)
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)


def _info(path: str, meta: Any) -> FileInfo:
    return FileInfo(path=path, size=meta["size"], etag=str(meta["e_tag"]))
