"""File storage: one contract for local disks and object stores."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import UsageError
from pipeline.storage.contract import Storage
from pipeline.storage.local import (
    LocalStorage,
    digest_of,
    give_name,
    make_folder,
    sync_file,
    sync_folder,
    translate_error,
    translated_os_errors,
)

__all__ = [
    "LocalStorage",
    "Storage",
    "digest_of",
    "give_name",
    "make_folder",
    "open_storage",
    "sync_file",
    "sync_folder",
    "translate_error",
    "translated_os_errors",
]

OBJECT_STORES = ("s3", "gs", "az")


def open_storage(url: str) -> Storage:
    """Opens a folder (`lake`, `file:///srv/lake`) or an object store (`s3://bucket/prefix`, `gs://`, `az://`).

    Credentials, endpoint and encryption come from the same environment variables that the store's own tools read.
    Raises UsageError for any other URL, and for one that contains a password.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return LocalStorage(Path(url))
    if scheme == "file":
        return LocalStorage(Path(rest))
    if scheme not in OBJECT_STORES:
        raise UsageError(
            f"{scheme}:// is not supported", expected="a folder, or file://, s3://, gs:// or az://", got=scheme
        )
    if "@" in rest.partition("/")[0] or "?" in rest:
        raise UsageError(
            "a URL with credentials or parameters is not accepted: it would appear in logs",
            expected=f"{scheme}://bucket/prefix, and the credentials in the environment",
        )
    try:
        from pipeline.storage.object_store import ObjectStorage
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{scheme}:// needs the package {error.name}", next_step="pip install 'lakescore[object-store]'"
        ) from None
    return ObjectStorage(url)
