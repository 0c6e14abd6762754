"""The scorer without a lake: a table in, predictions out; or a file in, a file out."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pyarrow as pa

from pipeline import database
from pipeline.errors import InputMissing, SchemaMismatch, UsageError
from pipeline.features import to_matrix
from pipeline.model.fit import check_fit
from pipeline.model.outputs import output_schema
from pipeline.model.remote import open_registry
from pipeline.storage import explained, sync_file, sync_folder

if TYPE_CHECKING:
    import pandas as pd
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation

    from pipeline.model.manifest import Manifest
    from pipeline.model.predictor import Predictor

BATCH_ROWS = 122_880
KINDS = {".csv": "csv", ".parquet": "parquet"}
TYPES = {
    "number": pa.float64(),
    "category": pa.string(),
    "timestamp": pa.timestamp("us"),
    "list": pa.list_(pa.float32()),
}
"""What a DataFrame's columns are taken to be until they are converted, and checked as what they are."""
Table = TypeVar("Table", pa.Table, "pd.DataFrame")


class Scorer:
    """A registered model, ready to score tables.

    scorer = Scorer.load("churn", "v3")
    predictions = scorer.score(table)
    """

    def __init__(self, manifest: Manifest, predictor: Predictor, batch_rows: int = 8192) -> None:
        self.manifest, self.predictor, self.batch_rows = manifest, predictor, batch_rows

    @classmethod
    def load(
        cls,
        name: str,
        version: str = "production",
        *,
        models: str | Path = "models",
        device: str = "auto",
        trusted: str | None = None,
    ) -> Scorer:
        """`trusted` is the digest of a model whose file may hold code.

        Raises ModelNotFound, or ModelMismatch if the files are not those that were registered.
        """
        registry = open_registry(str(models))
        manifest = registry.resolve(name, version)
        return cls(manifest, registry.load(manifest, device, trusted))

    @property
    def features(self) -> tuple[str, ...]:
        return self.manifest.signature.features

    @property
    def schema(self) -> pa.Schema:
        """The columns of `score`'s result."""
        return pa.schema([field.with_nullable(nullable=True) for field in output_schema(self.manifest.signature)])

    def score(self, data: Table) -> Table:
        """Returns one row of predictions for each row, in order, as the kind of table that was given.

        A DataFrame's result keeps its index. A row with a NULL or infinite feature has NULL predictions.
        Raises SchemaMismatch if a feature is absent or no number.
        """
        if isinstance(data, pa.Table):
            self._check([(field.name, field.type) for field in data.schema])
            batches = [self.score_batch(batch) for batch in data.select(list(self.features)).to_batches(BATCH_ROWS)]
            return pa.Table.from_batches(batches, self.schema)
        kinds = {name: TYPES[how.kind] for name, how in self.manifest.signature.inputs.items()}
        self._check([(str(name), kinds.get(str(name), pa.float64())) for name in data.columns])
        return self.score(self._features_of(data)).to_pandas().set_index(data.index)

    def score_batch(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Returns the predictions of a batch, row by row. Expects the features' columns."""
        matrix = to_matrix(batch, self.features, self.manifest.signature.inputs)
        valid = np.isfinite(matrix).all(axis=1)
        complete = bool(valid.all())
        scored = self.predictor.predict_arrow(matrix if complete else matrix[valid], self.batch_rows)
        if not complete:
            scored = scored.take(pa.array(np.cumsum(valid) - 1, mask=~valid))
        return pa.RecordBatch.from_arrays(scored.columns, schema=self.schema)

    def _features_of(self, data: pd.DataFrame) -> pa.Table:
        try:
            return pa.Table.from_pandas(data[list(self.features)], preserve_index=False)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:  # a column of objects of several kinds
            raise SchemaMismatch(
                "a feature must be a number or a boolean", where="the table", got=error.args[0]
            ) from None

    def _check(self, columns: Sequence[tuple[str, pa.DataType]]) -> None:
        names = [name for name, _ in columns]
        if twice := [name for name in self.features if names.count(name) > 1]:
            raise SchemaMismatch(f"a column {twice[0]!r} stands there twice", where="the table")
        check_fit(self.manifest, None, {name: _duckdb_name(kind) for name, kind in columns}, "the table")


def score_file(
    scorer: Scorer,
    source: Path,
    target: Path,
    *,
    replace: bool = False,
    memory_limit: str = "400MB",
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> tuple[int, int]:
    """Scores a CSV or Parquet file into another, in a stream: its columns, then the predictions.

    Returns the number of rows, and of those without prediction, since a feature is NULL or infinite. The target
    appears when it is whole. Raises UsageError, InputMissing, SchemaMismatch or UnreadableFile.
    """
    check_files(source, target, replace=replace)
    kind = _kind(source)
    rows = without = 0
    with database.connection(memory_limit) as con, database.explained(source):
        con.execute("SET preserve_insertion_order = true")
        relation = _relation(con, source, kind)
        total = relation.aggregate("count(*)").fetchall()[0][0] if kind == "parquet" else 0
        columns = database.schema(relation)
        check_fit(scorer.manifest, None, columns, source)
        if clash := [name for name in columns if name.casefold() in scorer.schema.names]:
            raise SchemaMismatch(
                f"the file has a column {clash[0]} already", where=source, next_step="rename it, or leave it out"
            )
        with relation.to_arrow_reader(BATCH_ROWS) as reader, _writer(target, reader.schema, scorer.schema) as write:
            for batch in reader:
                predictions = scorer.score_batch(batch)
                write(
                    pa.RecordBatch.from_arrays(
                        [*batch.columns, *predictions.columns], schema=_joined(batch, predictions)
                    )
                )
                rows += batch.num_rows
                without += predictions.column(0).null_count
                progress(rows, total)
    return rows, without


def check_files(source: Path, target: Path, *, replace: bool) -> None:
    """Raises UsageError or InputMissing for what can be told before a model is loaded."""
    for path in (source, target):
        _kind(path)
    if not source.is_file():
        raise InputMissing("there is no such file", where=source)
    if not target.parent.is_dir():
        raise UsageError("the output's folder is not there", where=target.parent, next_step="make it")
    if target.is_dir() or (target.exists() and not replace):
        raise UsageError("the output is there already", where=target, next_step="name another one, or say --replace")


def _duckdb_name(kind: pa.DataType) -> str:
    """Returns a name that `check_fit` knows for what `to_matrix` takes: DuckDB has no name for all kinds of Arrow."""
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_boolean(value) or pa.types.is_integer(value):
        return "BIGINT"
    return "DOUBLE" if pa.types.is_floating(value) or pa.types.is_decimal(value) else str(value)


def _kind(path: Path) -> str:
    try:
        return KINDS[path.suffix.lower()]
    except KeyError:
        raise UsageError("the kind of file is not known", where=path, expected=" or ".join(KINDS)) from None


def _relation(con: Connection, path: Path, kind: str) -> Relation:
    if kind == "csv":
        return con.sql("SELECT * FROM read_csv($path)", params={"path": str(path)})
    return con.sql("SELECT * FROM read_parquet($path, hive_partitioning = false)", params={"path": str(path)})


def _joined(left: pa.RecordBatch | pa.Schema, right: pa.RecordBatch | pa.Schema) -> pa.Schema:
    fields = [getattr(side, "schema", side) for side in (left, right)]
    return pa.schema([*fields[0], *fields[1]])


@contextmanager
def _writer(target: Path, left: pa.Schema, right: pa.Schema) -> Iterator[Callable[[pa.RecordBatch], None]]:
    """Writes to a temporary file beside the target, which takes its name when all went well."""
    from pyarrow import csv, parquet

    schema = _joined(left, right)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    with explained(target):
        try:
            try:
                if _kind(target) == "csv":
                    writer = csv.CSVWriter(temporary, schema)
                else:
                    writer = parquet.ParquetWriter(temporary, schema, compression="zstd")
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                raise SchemaMismatch(
                    f"a column cannot be written as {_kind(target).upper()}", where=target, got=error
                ) from None
            with writer:
                yield writer.write
            sync_file(temporary)
            temporary.replace(target)
            sync_folder(target.parent)
        finally:
            temporary.unlink(missing_ok=True)
