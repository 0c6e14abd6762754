"""Writes the Parquet files of one day, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import SchemaMismatch

ROW_GROUP = 122_880
"""Rows; as many as DuckDB hands to one thread."""
FILE_ROWS = 8 * ROW_GROUP


class DayWriter:
    """Rows in, files out; in memory is one row group, whatever the number of rows.

    `place` gives the path of the n-th file, `sizes` the rows that it takes. `dictionary` names the columns whose
    values repeat; by default each column is tried.
    """

    def __init__(
        self,
        place: Callable[[int], Path],
        schema: pa.Schema,
        sizes: Iterator[int],
        dictionary: list[str] | None = None,
    ) -> None:
        self.files: list[Path] = []
        self.rows = 0
        self._place, self._schema, self._sizes = place, schema, sizes
        self._dictionary = True if dictionary is None else dictionary
        self._open: pq.ParquetWriter | None = None
        self._left = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, batch: pa.RecordBatch) -> None:
        """Raises SchemaMismatch for a column of a kind that Parquet cannot hold."""
        self.rows += batch.num_rows
        while batch.num_rows:
            writer = self._with_room()
            fitting, batch = batch.slice(0, self._left), batch.slice(self._left)
            writer.write_batch(fitting, row_group_size=ROW_GROUP)
            self._left -= fitting.num_rows

    def close(self) -> None:
        """Finishes the last file."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def _with_room(self) -> pq.ParquetWriter:
        if self._open is None or self._left == 0:
            self.close()
            path = self._place(len(self.files))
            try:
                self._open = pq.ParquetWriter(path, self._schema, compression="zstd", use_dictionary=self._dictionary)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
                raise SchemaMismatch("a column cannot be stored as Parquet", got=str(error).splitlines()[0]) from None
            self.files.append(path)
            self._left = next(self._sizes)
        return self._open
