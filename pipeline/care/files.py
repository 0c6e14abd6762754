"""Parquet files of ours, replaced under the same name by others with fewer rows."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.lake import Lake
from pipeline.storage import explained, make_folder, sync_file

if TYPE_CHECKING:
    import pyarrow as pa


@contextmanager
def scratch(lake: Lake) -> Iterator[Path]:
    """Gives an empty folder on the lake's workspace, and removes it."""
    folder = lake.workspace.path(f".staging/care-{secrets.token_hex(8)}")
    make_folder(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def metadata_of(lake: Lake, key: str) -> dict[bytes, bytes]:
    """Returns what a Parquet file says of itself, by the footer alone."""
    import pyarrow.parquet as pq

    with lake.storage.open(key) as file:
        return dict(pq.read_metadata(file).metadata or {})


def rewrite(
    lake: Lake, key: str, folder: Path, batches: Iterable[pa.RecordBatch] = (), extra: dict[bytes, bytes] | None = None
) -> int:
    """Replaces a file by one with these rows, the same columns and the same metadata, and `extra`; returns the rows."""
    import pyarrow.parquet as pq

    with lake.storage.open(key) as file:
        schema = pq.read_schema(file).remove_metadata()
    kept = {name: value for name, value in metadata_of(lake, key).items() if name.startswith(b"lakescore.")}
    made, rows = folder / f"{secrets.token_hex(8)}.parquet", 0
    with explained(made):
        with pq.ParquetWriter(made, schema, compression="zstd", store_schema=False, write_page_checksum=True) as writer:
            writer.add_key_value_metadata({**kept, **(extra or {})})
            for batch in batches:
                writer.write_batch(batch.cast(schema))
                rows += batch.num_rows
        sync_file(made)
    lake.storage.replace(key, made)
    return rows


def keep_copy(lake: Lake, key: str, target: str, folder: Path) -> None:
    """Copies a file to another key, unless a copy lies there from an attempt before."""
    from contextlib import suppress

    path = folder / secrets.token_hex(8)
    if lake.is_local:
        path = lake.workspace.path(key)
    else:
        with lake.storage.open(key) as source, path.open("wb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)
        sync_file(path)
    with suppress(FileExistsError):
        lake.storage.create(target, path)
