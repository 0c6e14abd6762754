"""Scores tables and files without a lake."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pyarrow as pa

from pipeline.database.connection import column_types, connect, fit
from pipeline.database.resources import batch_rows, resources
from pipeline.errors import SchemaMismatch, UsageError
from pipeline.job.config import Engine
from pipeline.model.matrix import to_matrix
from pipeline.model.outputs import output_schema
from pipeline.model.remote import open_registry
from pipeline.model.schema_check import check_fit
from pipeline.model.user_rows import read_rows
from pipeline.settings import Settings
from pipeline.storage import sync_file, sync_folder, translated_os_errors
from pipeline.storage.parquet import ROW_GROUP
from pipeline.tabular.sources import Files, Kind, find, translated_read_errors

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.model.manifest import Manifest
    from pipeline.model.predictor import Predictor

TARGETS = {".csv": "csv", ".parquet": "parquet"}
TYPES = {
    "number": pa.float64(),
    "category": pa.string(),
    "integer": pa.int64(),
    "hash": pa.string(),
    "timestamp": pa.timestamp("us"),
    "list": pa.list_(pa.float32()),
    "sequence": pa.list_(pa.float64()),
}
"""Arrow type that a DataFrame column is assumed to have until it is converted and its actual type is checked."""
Table = TypeVar("Table", pa.Table, "pd.DataFrame")


class Scorer:
    """A registered model, ready to score tables.

    scorer = Scorer.load("churn", "v3")
    predictions = scorer.score(table)

    `Scorer.of_job("churn")` scores rows as the runs of a job do.
    """

    def __init__(
        self, manifest: Manifest, predictor: Predictor, batch_rows: int = 8192, *, null_features: bool = False
    ) -> None:
        """`null_features` says whether the model is given rows with NULL features, as NaN."""
        self.manifest, self.predictor, self.batch_rows = manifest, predictor, batch_rows
        self.null_features = null_features

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
        """Loads a model from a registry. `trusted` is the digest of a model whose file may contain code.

        Raises ModelNotFound, or ModelMismatch if the files are not the registered ones.
        """
        registry = open_registry(str(models))
        manifest = registry.resolve(name, version)
        return cls(manifest, registry.load(manifest, device, trusted))

    @classmethod
    def of_job(cls, job: str, settings: Settings | None = None) -> Scorer:
        """Loads the model of a job, given by name or folder, to score rows as its runs do.

        The model, its pinned digest, the device, the precision and what happens to NULL features are the job's; rows
        that a run would put into quarantine for their features get NULL predictions. Its suite and its SELECT are not
        applied. `settings` are by default those of the environment. Raises JobError, ModelNotFound or ModelMismatch.
        """
        from pipeline.context import Context
        from pipeline.job.loading import find_job
        from pipeline.model.identity import check_pinned
        from pipeline.scoring.stage import load_model

        machine = settings or Settings.from_environment()
        ctx = Context.open(find_job(job, machine), machine)
        manifest = ctx.manifest()
        check_pinned(manifest, ctx.job.model.digest)
        return cls(manifest, load_model(ctx, manifest), null_features=ctx.job.policy.null_features == "score")

    @property
    def features(self) -> tuple[str, ...]:
        return self.manifest.signature.features

    @property
    def schema(self) -> pa.Schema:
        """The columns that `score` returns."""
        return pa.schema([field.with_nullable(nullable=True) for field in output_schema(self.manifest.signature)])

    def score(self, data: Table) -> Table:
        """Returns one row of predictions per row, in the same order and as the same kind of table.

        The result for a DataFrame keeps its index. A row with a NULL or infinite feature gets NULL predictions, unless
        `null_features` gives it to the model.
        Raises SchemaMismatch if a feature is absent or has the wrong type.
        """
        if isinstance(data, pa.Table):
            data = self._typed(data)
            self._check([(field.name, field.type) for field in data.schema])
            batches = [self.score_batch(batch) for batch in data.select(list(self.features)).to_batches(ROW_GROUP)]
            return pa.Table.from_batches(batches, self.schema)
        kinds = {name: TYPES[how.kind] for name, how in self.manifest.signature.inputs.items()}
        self._check([(str(name), kinds.get(str(name), pa.float64())) for name in data.columns])
        return self.score(self._features_of(data)).to_pandas().set_index(data.index)

    def score_batch(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Returns one row of predictions per row of a batch that contains the feature columns."""
        matrix = to_matrix(batch, self.features, self.manifest.signature.inputs)
        usable = ~np.isinf(matrix) if self.null_features else np.isfinite(matrix)
        valid = usable.all(axis=1)
        complete = bool(valid.all())
        scored = self.predictor.predict_arrow(matrix if complete else matrix[valid], self.batch_rows)
        if not complete:
            scored = scored.take(pa.array(np.cumsum(valid) - 1, mask=~valid))
        return pa.RecordBatch.from_arrays(scored.columns, schema=self.schema)

    def _typed(self, data: pa.Table) -> pa.Table:
        """Gives the features without any value, as of one row with a NULL, the type that the signature declares."""
        for index, field in enumerate(data.schema):
            if pa.types.is_null(field.type) and field.name in self.features:
                how = self.manifest.signature.inputs.get(field.name)
                kind = TYPES[how.kind if how else "number"]
                data = data.set_column(index, field.name, data.column(index).cast(kind))
        return data

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
            raise SchemaMismatch(f"column {twice[0]!r} appears twice", where="the table")
        check_fit(self.manifest, None, {name: _duckdb_name(kind) for name, kind in columns}, "the table")


def score_file(
    scorer: Scorer,
    source: Path | Files,
    target: Path,
    *,
    replace: bool = False,
    memory_limit: str | None = None,
    threads: int | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> tuple[int, int]:
    """Streams a file through the model and writes its columns and the predictions to a CSV or Parquet file.

    `source` is read as an import reads it; `Files` bring their types along. Returns the number of rows, and the number
    of rows without a prediction because a feature is NULL or infinite. The target appears only when complete. Raises
    UsageError, InputMissing, SchemaMismatch, UnreadableFile or OutOfMemory.

    `memory_limit` is DuckDB's, `threads` are DuckDB's and torch's; by default they follow the columns and the machine.
    """
    files = check_files(source, target, replace=replace)
    rows = without = 0
    engine = Engine(memory_limit=memory_limit, threads=threads)
    limits = resources(engine)
    with (
        connect(limits.memory_limit, limits.threads) as con,
        translated_read_errors(files),
        _torch_threads(threads),
    ):
        con.execute("SET preserve_insertion_order = true")
        relation = read_rows(con, files, scorer.manifest.signature)
        total = relation.aggregate("count(*)").fetchall()[0][0] if files.kind is Kind.parquet else 0
        columns = column_types(relation)
        fit(con, resources(engine, len(columns)))
        check_fit(scorer.manifest, None, columns, files)
        if clash := [name for name in columns if name.casefold() in scorer.schema.names]:
            raise SchemaMismatch(
                f"the file already has a column {clash[0]}", where=files, next_step="rename it, or leave it out"
            )
        reader = relation.to_arrow_reader(batch_rows(len(columns)))
        with reader, _writer(target, reader.schema, scorer.schema) as write:
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


@contextmanager
def _torch_threads(threads: int | None) -> Iterator[None]:
    """Lets torch use so many threads; None: as many as it does anyway."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_files(
    source: Path | Files,
    target: Path,
    types: Sequence[str] = (),
    decimal: str = ".",
    delimiter: str | None = None,
    *,
    replace: bool,
) -> Files:
    """Checks both paths before a model is loaded, and returns what to read. Raises the errors of `find`."""
    _kind(target)
    files = source if isinstance(source, Files) else find([source], types, decimal, delimiter)
    if not target.parent.is_dir():
        raise UsageError("the output folder does not exist", where=target.parent, next_step="create it")
    if target.is_dir() or (target.exists() and not replace):
        raise UsageError("the output already exists", where=target, next_step="choose another name, or pass --replace")
    return files


def _duckdb_name(kind: pa.DataType) -> str:
    """Returns a type name that `check_fit` knows: DuckDB has no names for some Arrow types that `to_matrix` accepts."""
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_boolean(value) or pa.types.is_integer(value):
        return "BIGINT"
    return "DOUBLE" if pa.types.is_floating(value) or pa.types.is_decimal(value) else str(value)


def _kind(path: Path) -> str:
    try:
        return TARGETS[path.suffix.lower()]
    except KeyError:
        raise UsageError("unknown file extension", where=path, expected=" or ".join(TARGETS)) from None


def _joined(left: pa.RecordBatch | pa.Schema, right: pa.RecordBatch | pa.Schema) -> pa.Schema:
    fields = [getattr(side, "schema", side) for side in (left, right)]
    return pa.schema([*fields[0], *fields[1]])


@contextmanager
def _writer(target: Path, left: pa.Schema, right: pa.Schema) -> Iterator[Callable[[pa.RecordBatch], None]]:
    """Writes to a temporary file beside the target and renames it to the target on success."""
    from pyarrow import csv, parquet

    schema = _joined(left, right)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    with translated_os_errors(target):
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
