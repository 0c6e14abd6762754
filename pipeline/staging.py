"""Staged rows: written by a run before its commit, seen by nobody, and kept if it crashes.

    .staging/job=<job>/ds=<ds>/model_version=<version>/<model digest>-<job digest>/<run_id>/
        scored-<worker>-<number>-<token>.parquet     predictions, up to about 1M rows a file
        rejected-<worker>-<number>-<token>.parquet   rows for the quarantine

A file under such a name is whole and synced; one that is being written has another name. The digests stand in the path
so that a run finds what an earlier run of the same model and job left behind, and nothing else. The token is the
process's own: two that run the same stage of the same run never write to the same file.

All this lies on the lake's `workspace`: of a lake on a disk, that disk; of one in an object store, a local folder.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from pipeline.context import Context
from pipeline.lake import Partition
from pipeline.records import RunRecord, State
from pipeline.storage import explained, make_folder, sync_file, sync_folder

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

log = logging.getLogger(__name__)

FILE_ROWS = 1_000_000
GROUP_ROWS = 122_880
METADATA = "lakescore."
LEFT = "left-"
"""Before the name of another run's staged file, while we look what of it can be adopted."""
REST = "rest-"
"""Before the name of a staged file from which rows were dropped, since another run has published them."""


def folder_of_kind(record: RunRecord) -> str:
    """Returns the folder in which all runs of this partition, model and job stage."""
    partition = Partition(record.job, record.ds, record.model.version)
    folder = partition.folder.replace("predictions/", ".staging/", 1)
    return f"{folder}/{record.model.digest[:16]}-{record.job_digest[:16]}"


def folder_of(record: RunRecord) -> str:
    return f"{folder_of_kind(record)}/{record.run_id}"


def files(ctx: Context, record: RunRecord, kind: str) -> list[Path]:
    """Returns the whole files of a kind (`scored`, `rejected`) that a run has staged, in order."""
    found = ctx.lake.workspace.files(folder_of(record))
    names = (file.path for file in found if file.path.rpartition("/")[2].startswith(f"{kind}-"))
    return [ctx.lake.workspace.path(name) for name in names if name.endswith(".parquet")]


def left_behind(ctx: Context, record: RunRecord) -> Iterator[list[Path]]:
    """Yields the scored files of each other run of the same partition, model and job, newest run first.

    They are links of our own: the other run may end, and remove its files, while we read.
    """
    own = ctx.lake.workspace.path(folder_of(record))
    runs = [run for run in ctx.lake.workspace.folders(folder_of_kind(record)) if run != record.run_id]
    for run in reversed(runs):
        links = []
        for path in files(ctx, record.with_(run_id=run), "scored"):
            make_folder(own)
            link = own / f"{LEFT}{run}-{path.name}"
            with suppress(FileNotFoundError, FileExistsError):  # removed since it was listed; linked before
                os.link(path, link)
            if link.exists():
                links.append(link)
        if links:
            yield links
        for link in links:
            link.unlink(missing_ok=True)


def metadata(record: RunRecord) -> dict[str, str]:
    """Returns what each staged, and so each published, file says of itself."""
    return {
        "format": str(record.format),
        "run_id": record.run_id,
        "job": record.job,
        "ds": record.ds,
        "model": record.model.name,
        "model_version": record.model.version,
        "model_digest": record.model.digest,
        "job_digest": record.job_digest,
    }


def read_metadata(path: Path | BinaryIO) -> dict[str, str]:
    """Returns what a Parquet file of ours says of itself; of another file, nothing."""
    import pyarrow.parquet as pq

    found = pq.read_metadata(path).metadata or {}
    decoded = {name.decode(): value.decode("utf-8", "replace") for name, value in found.items()}
    return {name.removeprefix(METADATA): text for name, text in decoded.items() if name.startswith(METADATA)}


def is_trustworthy(path: Path, record: RunRecord, schema: pa.Schema) -> bool:
    """Tells whether a file left behind is whole, of this model, job and day, and has our columns. Reads every page."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    own = metadata(record)
    try:
        found = read_metadata(path)
        if any(found.get(name) != own[name] for name in own if name != "run_id"):
            return False
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            if not file.schema_arrow.equals(schema):
                return False
            for _ in file.iter_batches():
                pass
    except (pa.ArrowException, OSError) as error:
        log.warning("not adopted, cannot be read: %s (%s)", path, error)
        return False
    return True


def schema_of(path: Path) -> pa.Schema:
    import pyarrow.parquet as pq

    return pq.read_schema(path).remove_metadata()


def batches_of(path: Path) -> Iterator[pa.RecordBatch]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(GROUP_ROWS)


def write_one(
    path: Path,
    schema: pa.Schema,
    batches: Iterable[pa.RecordBatch],
    record: RunRecord,
    staged_name: str,
    *,
    even_if_empty: bool = False,
) -> Path | None:
    """Writes one whole, synced file; returns None, and writes nothing, if there are no rows."""
    import pyarrow.parquet as pq

    temporary = path.with_name(f"{path.name}.tmp")
    rows = 0
    with explained(path):
        make_folder(path.parent)
        try:
            with pq.ParquetWriter(
                temporary, schema, compression="zstd", store_schema=False, write_page_checksum=True
            ) as file:
                file.add_key_value_metadata(_prefixed({**metadata(record), "staged": staged_name}))
                for batch in batches:
                    file.write_batch(batch.cast(schema))
                    rows += batch.num_rows
            if rows == 0 and not even_if_empty:
                return None
            sync_file(temporary)
            temporary.rename(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
    return path


def _prefixed(values: dict[str, str]) -> dict[str, str]:
    return {METADATA + name: value for name, value in values.items()}


def discard(ctx: Context, record: RunRecord) -> None:
    """Removes what a finished run staged, and what runs left behind that can no longer be at work."""
    disk = ctx.lake.workspace
    for run in disk.folders(folder_of_kind(record)):
        if run == record.run_id or _is_over(ctx, record, run):
            shutil.rmtree(disk.path(f"{folder_of_kind(record)}/{run}"), ignore_errors=True)  # `clean` sees what stays
    remove_empty(disk.path(folder_of_kind(record)), disk.path(".staging"))


def remove_empty(folder: Path, top: Path) -> None:
    """Removes a folder and those above it, up to `top`, as long as they are empty."""
    while folder != top.parent:
        try:
            folder.rmdir()
        except FileNotFoundError:
            pass  # another run was faster
        except OSError:
            return  # not empty, or another run has just begun there
        folder = folder.parent


def _is_over(ctx: Context, record: RunRecord, run_id: str) -> bool:
    """Tells whether a run has ended, or had a process on this host that is gone. Of other hosts nobody knows.

    What a run staged that was stopped because of its data stays, for a person to look at.
    """
    if ctx.lake.storage.head(ctx.lake.record_key(record.job, record.ds, run_id)) is None:
        return False
    other = ctx.lake.read_record(record.job, record.ds, run_id)
    if other.state not in (State.planned, State.scored):
        return other.state is not State.stopped
    if other.host != socket.gethostname():
        return False
    try:
        os.kill(other.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


class Writer:
    """Writes one worker's rows of one kind, a new file after each `FILE_ROWS` rows. Made lazily: no row, no file."""

    def __init__(
        self,
        folder: Path,
        kind: str,
        worker: int,
        schema: pa.Schema,
        metadata: dict[str, str],
        dictionaries: Sequence[str],
        blooms: Sequence[str] = (),
    ) -> None:
        """`blooms` are columns with a Bloom filter, a byte a row: one key among 100M rows is found in a second."""
        self.folder, self.kind, self.worker = folder, kind, worker
        import pyarrow as pa

        self.schema, self.metadata, self.dictionaries = schema, metadata, list(dictionaries)
        self.blooms = [name for name in blooms if schema.field(name).type != pa.bool_()]  # which Parquet has not
        self.rows = 0
        self._number = 0
        self._token = secrets.token_hex(4)
        self._file_rows = 0
        self._pending: list[pa.RecordBatch] = []
        self._pending_rows = 0
        self._writer: pq.ParquetWriter | None = None

    def write(self, batch: pa.RecordBatch) -> None:
        """Takes rows; small batches are put together to row groups of `GROUP_ROWS`."""
        if batch.num_rows == 0:
            return
        self._pending.append(batch)
        self._pending_rows += batch.num_rows
        self.rows += batch.num_rows
        if self._pending_rows >= GROUP_ROWS:
            self._flush()

    def close(self) -> None:
        """Writes what is pending and gives the last file its name."""
        self._flush()
        self._finish()

    def abandon(self) -> None:
        """Drops the file that is being written; the finished ones stay."""
        if self._writer is not None:
            with suppress(OSError):  # the disk may be full, and this is what must go
                self._writer.close()
            self._writer = None
        self._temporary.unlink(missing_ok=True)  # it may be there without a writer, who found no room for a header

    @property
    def _name(self) -> str:
        return f"{self.kind}-{self.worker:02d}-{self._number:05d}-{self._token}.parquet"

    @property
    def _temporary(self) -> Path:
        return self.folder / f"{self._name}.tmp"

    def _flush(self) -> None:
        import pyarrow as pa

        if not self._pending:
            return
        table = pa.Table.from_batches(self._pending, self.schema)
        self._pending, self._pending_rows = [], 0
        with explained(self.folder):
            if self._writer is None:
                self._open(table.num_rows)
            assert self._writer is not None
            self._writer.write_table(table, row_group_size=GROUP_ROWS)
        self._file_rows += table.num_rows
        if self._file_rows >= FILE_ROWS:
            self._finish()

    def _open(self, rows: int) -> None:
        """`rows` are those of the first table: a file of fewer rows than a row group gets no larger filter."""
        import pyarrow.parquet as pq

        make_folder(self.folder)
        filters = {name: {"ndv": min(rows, GROUP_ROWS), "fpp": 0.01} for name in self.blooms}
        self._writer = pq.ParquetWriter(
            self._temporary,
            self.schema,
            compression="zstd",
            use_dictionary=self.dictionaries,
            store_schema=False,
            write_page_checksum=True,
            bloom_filter_options=filters,
        )
        self._writer.add_key_value_metadata(_prefixed({**self.metadata, "staged": self._name}))

    def _finish(self) -> None:
        if self._writer is None:
            return
        with explained(self.folder):
            self._writer.close()
            sync_file(self._temporary)
            self._temporary.rename(self.folder / self._name)
            sync_folder(self.folder)
        self._writer = None
        self._number += 1
        self._file_rows = 0
