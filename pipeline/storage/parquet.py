"""Writes Parquet files atomically and durably, with Lakescore's metadata, and reads that metadata."""

from __future__ import annotations

import io
import secrets
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from pipeline.storage.local import give_name, make_folder, translated_os_errors

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

ROW_GROUP = 122_880
"""Rows per row group and per batch read; the number that DuckDB hands to one thread."""
PREFIX = "lakescore."
"""Prefix of Lakescore's entries in a file's metadata."""


def open_writer(
    path: Path,
    schema: pa.Schema,
    metadata: Mapping[str, str],
    *,
    dictionaries: Sequence[str] | None = None,
    filters: Mapping[str, int] | None = None,
) -> pq.ParquetWriter:
    """Opens a writer with zstd compression and page checksums.

    `dictionaries` names the columns to dictionary-encode, by default all. `filters` maps each column with a Bloom
    filter to the number of distinct values that the filter is sized for.
    """
    import pyarrow.parquet as pq

    writer = pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        use_dictionary=True if dictionaries is None else list(dictionaries),
        store_schema=False,
        write_page_checksum=True,
        bloom_filter_options={name: {"ndv": values, "fpp": 0.01} for name, values in (filters or {}).items()} or None,
    )
    writer.add_key_value_metadata({PREFIX + name: text for name, text in metadata.items()})
    return writer


def write_parquet(
    path: Path,
    schema: pa.Schema,
    batches: Iterable[pa.RecordBatch],
    metadata: Mapping[str, str],
    *,
    even_if_empty: bool = True,
) -> int:
    """Writes one file atomically and returns its number of rows. Writes no empty file unless `even_if_empty`."""
    temporary, rows = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp"), 0
    with translated_os_errors(path):
        make_folder(path.parent)
        try:
            with open_writer(temporary, schema, metadata) as file:
                for batch in batches:
                    file.write_batch(batch.cast(schema))
                    rows += batch.num_rows
            if rows or even_if_empty:
                give_name(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    return rows


def to_bytes(table: pa.Table) -> bytes:
    """Returns the content of a small file: a file of a few rows takes zstd three times as long as Snappy, both ways."""
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="snappy")
    return buffer.getvalue()


KEPT, KEPT_BYTES = 32, 100_000
"""Number of small files whose rows are kept, and their size up to which they are."""


def from_bytes(content: bytes) -> pa.Table:
    """Returns the rows of a small file, without columns from its path. Raises pyarrow's errors.

    For the same content it returns the same table: the stages of a run read some files several times, and those of
    each day of a backfill the model's.
    """
    return _kept(content) if len(content) <= KEPT_BYTES else _rows(content)


def _rows(content: bytes) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(pa.BufferReader(content)) as file:  # takes a fifth of the time of read_table
        return file.read(use_threads=False)


_kept = lru_cache(KEPT)(_rows)


def read_metadata(file: Path | BinaryIO) -> dict[str, str]:
    """Returns Lakescore's entries in a Parquet file's metadata, without their prefix; empty for other files."""
    import pyarrow.parquet as pq

    found = pq.read_metadata(file).metadata or {}
    decoded = {name.decode("utf-8", "replace"): value.decode("utf-8", "replace") for name, value in found.items()}
    return {name.removeprefix(PREFIX): text for name, text in decoded.items() if name.startswith(PREFIX)}


def read_schema(file: Path | BinaryIO) -> pa.Schema:
    """Returns the schema of a Parquet file, without its metadata."""
    import pyarrow.parquet as pq

    return pq.read_schema(file).remove_metadata()
