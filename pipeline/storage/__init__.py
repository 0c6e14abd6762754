"""Where files lie: one contract, for a local disk and for object stores."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import UsageError
from pipeline.storage.contract import Storage
from pipeline.storage.local import (
    LocalStorage,
    explained,
    make_folder,
    sync_file,
    sync_folder,
    translate,
)

__all__ = [
    "LocalStorage",
    "Storage",
    "explained",
    "make_folder",
    "open_storage",
    "sync_file",
    "sync_folder",
    "translate",
]

OBJECT_STORES = ("s3", "gs", "az")


def open_storage(url: str) -> Storage:
    """Opens a folder (`lake`, `file:///srv/lake`) or an object store (`s3://bucket/prefix`, `gs://`, `az://`).

    Credentials, endpoint and encryption come from the environment, as the store's own tools read them. Raises
    UsageError for any other URL, and for one that holds a password.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return LocalStorage(Path(url))
    if scheme == "file":
        return LocalStorage(Path(rest))
    if scheme not in OBJECT_STORES:
        raise UsageError(
            f"no storage is known for {scheme}://", expected="a folder, or file://, s3://, gs:// or az://", got=scheme
        )
    if "@" in rest.partition("/")[0] or "?" in rest:
        raise UsageError(
            "a URL with credentials or parameters is not taken: it would stand in logs",
            expected=f"{scheme}://bucket/prefix, and the credentials in the environment",
        )
    try:
        from pipeline.storage.object_store import ObjectStorage
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{scheme}:// needs the package {error.name}", next_step="pip install 'lakescore[object-store]'"
        ) from None
    return ObjectStorage(url)
