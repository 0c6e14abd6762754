"""Writes the Parquet files of a run: predictions, rejected rows, quarantine. The metadata of each names the run."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.records import RunRecord
from pipeline.storage import give_name, make_folder, translated_os_errors
from pipeline.storage.parquet import ROW_GROUP, open_writer, write_parquet

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

FILE_ROWS = 1_000_000
"""Number of rows after which a worker begins a new file."""
GROUP_ROWS = ROW_GROUP
"""Number of rows that are combined into one row group."""


class Writer:
    """Writes one worker's rows of one kind, in files of about `FILE_ROWS` rows. Without rows it creates no file."""

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
        """`blooms` are columns with a Bloom filter, one byte per row: it finds a key among 100M rows in a second."""
        self.folder, self.kind, self.worker = folder, kind, worker
        import pyarrow as pa

        self.schema, self.metadata, self.dictionaries = schema, metadata, list(dictionaries)
        self.blooms = [name for name in blooms if schema.field(name).type != pa.bool_()]  # Parquet has none for bool
        self.rows = 0
        self._number = 0
        self._token = secrets.token_hex(4)
        self._file_rows = 0
        self._pending: list[pa.RecordBatch] = []
        self._pending_rows = 0
        self._writer: pq.ParquetWriter | None = None

    def write(self, batch: pa.RecordBatch) -> None:
        """Takes rows; small batches are combined into row groups of `GROUP_ROWS`."""
        if batch.num_rows == 0:
            return
        self._pending.append(batch)
        self._pending_rows += batch.num_rows
        self.rows += batch.num_rows
        if self._pending_rows >= GROUP_ROWS:
            self._flush()

    def close(self) -> None:
        """Writes the pending rows and names the last file."""
        self._flush()
        self._finish()

    def abandon(self) -> None:
        """Drops the unfinished file; finished ones stay."""
        if self._writer is not None:
            with suppress(OSError):  # the disk may be full; the file is removed anyway
                self._writer.close()
            self._writer = None
        self._temporary.unlink(missing_ok=True)  # may exist without a writer: no room for the header

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
        with translated_os_errors(self.folder):
            if self._writer is None:
                self._open(table.num_rows)
            assert self._writer is not None
            self._writer.write_table(table, row_group_size=GROUP_ROWS)
        self._file_rows += table.num_rows
        if self._file_rows >= FILE_ROWS:
            self._finish()

    def _open(self, rows: int) -> None:
        """`rows` is the size of the first table: a file with less than a row group needs no larger filter."""
        make_folder(self.folder)
        filters = dict.fromkeys(self.blooms, min(rows, GROUP_ROWS))
        metadata = {**self.metadata, "staged": self._name}
        self._writer = open_writer(
            self._temporary, self.schema, metadata, dictionaries=self.dictionaries, filters=filters
        )

    def _finish(self) -> None:
        if self._writer is None:
            return
        with translated_os_errors(self.folder):
            self._writer.close()
            give_name(self._temporary, self.folder / self._name)
        self._writer = None
        self._number += 1
        self._file_rows = 0


def file_metadata(record: RunRecord) -> dict[str, str]:
    """Returns the metadata of every file that a run stages and publishes."""
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


def read_batches(path: Path) -> Iterator[pa.RecordBatch]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(GROUP_ROWS)


def write_file(
    path: Path,
    schema: pa.Schema,
    batches: Iterable[pa.RecordBatch],
    record: RunRecord,
    staged_name: str,
    *,
    even_if_empty: bool = False,
) -> Path | None:
    """Writes one complete, synced file of a run. Without rows, unless `even_if_empty`, writes none and returns None."""
    metadata = {**file_metadata(record), "staged": staged_name}
    rows = write_parquet(path, schema, batches, metadata, even_if_empty=even_if_empty)
    return path if rows or even_if_empty else None
