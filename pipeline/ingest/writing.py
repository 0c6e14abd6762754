"""Writes the Parquet files of one day, one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import SchemaMismatch
from pipeline.storage.parquet import PREFIX, ROW_GROUP

FILE_ROWS = 8 * ROW_GROUP


class DayWriter:
    """Splits rows into files; holds one row group in memory, whatever the number of rows.

    `place` returns the path of the n-th file, `sizes` yields the rows per file. `dictionary` names the columns to
    dictionary-encode; by default, all are tried. `key` names columns to give a Bloom filter, if the schema has them:
    `explain` then finds one key without reading the others. `metadata` goes into each file.
    """

    def __init__(
        self,
        place: Callable[[int], Path],
        schema: pa.Schema,
        sizes: Iterator[int],
        dictionary: list[str] | None = None,
        key: Sequence[str] = (),
        metadata: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.files: list[Path] = []
        self.rows = 0
        self._metadata = {PREFIX + name: text for name, text in metadata.items()}
        self._place, self._schema, self._sizes = place, schema, sizes
        self._dictionary = True if dictionary is None else dictionary
        self._key = [name for name in key if name in schema.names and _may_have_filter(schema.field(name).type)]
        self._open: pq.ParquetWriter | None = None
        self._left = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, batch: pa.RecordBatch) -> None:
        """Raises SchemaMismatch for a column type that Parquet cannot store."""
        self.rows += batch.num_rows
        while batch.num_rows:
            writer = self._with_room(batch.num_rows)
            fitting, batch = batch.slice(0, self._left), batch.slice(self._left)
            writer.write_batch(fitting, row_group_size=ROW_GROUP)
            self._left -= fitting.num_rows

    def touch(self) -> None:
        """Makes sure that there is a file, even without rows."""
        if not self.files:
            self._with_room(1)

    def close(self) -> None:
        """Finishes the last file."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def _with_room(self, rows: int) -> pq.ParquetWriter:
        """Returns a writer with room left. `rows` wait to be written; a small file gets a small Bloom filter."""
        if self._open is None or self._left == 0:
            self.close()
            path = self._place(len(self.files))
            filters = {name: {"ndv": min(rows, ROW_GROUP), "fpp": 0.01} for name in self._key}
            try:
                self._open = pq.ParquetWriter(
                    path,
                    self._schema,
                    compression="zstd",
                    use_dictionary=self._dictionary,
                    bloom_filter_options=filters or None,
                )
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
                raise SchemaMismatch("a column cannot be stored as Parquet", got=str(error).splitlines()[0]) from None
            if self._metadata:
                self._open.add_key_value_metadata(self._metadata)
            self.files.append(path)
            self._left = next(self._sizes)
        return self._open


def _may_have_filter(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind))
