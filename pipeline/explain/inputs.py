"""The row of the input that a prediction was made from: which file, which row group, and whether it is still there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import duckdb
from duckdb import ColumnExpression, StarExpression

from pipeline import database, unscored
from pipeline.context import Context
from pipeline.errors import InputError, ModelError, SchemaMismatch
from pipeline.explain import lookup
from pipeline.keys import feature_type
from pipeline.records import FileInfo, RunRecord

if TYPE_CHECKING:
    import pyarrow as pa
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation

    from pipeline.model.inputs import Input
    from pipeline.model.manifest import Signature

FILE, NUMBER = "__file", "file_row_number"


@dataclass(frozen=True)
class InputRow:
    files: tuple[str, ...]
    """Those that the run has read."""
    changed: tuple[str, ...]
    """Of them those that have changed since, or are gone."""
    file: str | None = None
    """The one with the row; None if the job's SELECT makes the rows, or the row is no longer there."""
    row_group: int | None = None
    row: int | None = None
    """Its number in the file, from 0."""
    rows: int = 0
    """Of the key in that day's input as it is now."""
    features: dict[str, Any] | None = None
    """Numbers as the model sees them, float32, and of other inputs the value itself; None if there is no row."""
    same: bool | None = None
    """Whether they have the fingerprint of the prediction: then this is what was scored."""
    note: str | None = None
    batch: pa.RecordBatch | None = field(default=None, repr=False, compare=False)
    """The row, for the model."""


def find(ctx: Context, con: Connection, text: str, record: RunRecord, fingerprint: int) -> InputRow:
    """Looks up a key in the files that a run has read, as they are now. What cannot be read is noted."""
    files = tuple(file.path for found in record.plan.input.values() for file in found)
    now = {
        name: [found for file in given if (found := ctx.lake.storage.head(file.path))] for name, given in _of(record)
    }
    there = {file for found in now.values() for file in found}
    changed = tuple(file.path for _, given in _of(record) for file in given if file not in there)
    if not there:
        return InputRow(files, changed, note="no file of the input is there any more")
    if set(now) != set(ctx.job.input.patterns):
        return InputRow(files, changed, note="the job reads its input from elsewhere now")
    try:
        rows = _rows(ctx, con, text, record, now)
    except (duckdb.Error, InputError) as error:
        return InputRow(files, changed, note=f"the input cannot be read: {str(error).splitlines()[0]}")
    if not rows:
        return InputRow(files, changed, note="the input has no such row any more")
    return _chosen(ctx, files, changed, record, rows, fingerprint)


def _of(record: RunRecord) -> list[tuple[str, tuple[FileInfo, ...]]]:
    return list(record.plan.input.items())


def _rows(
    ctx: Context, con: Connection, text: str, record: RunRecord, files: Mapping[str, Sequence[FileInfo]]
) -> list[dict[str, Any]]:
    """Returns the key's rows: the features, and if they are read from files, which file and place."""
    source, place = _source(ctx, con, record.ds, files)
    types = database.schema(source)
    if missing := [name for name in (*record.plan.key, *record.plan.features) if name not in types]:
        raise SchemaMismatch(f"it has no column {', '.join(missing)} any more")
    columns = [ColumnExpression(name).cast(feature_type(types[name])).alias(name) for name in record.plan.features]
    found = lookup.rows_of(source, lookup.parse(con, text, record.plan.key, types))
    table = found.select(*columns, *(ColumnExpression(name) for name in place)).to_arrow_table()
    return [{"batch": batch, "row": row} for batch in table.to_batches() for row in range(batch.num_rows)]


def _source(
    ctx: Context, con: Connection, ds: str, files: Mapping[str, Sequence[FileInfo]]
) -> tuple[Relation, tuple[str, ...]]:
    if ctx.job.input.select:
        return unscored.rows(con, ctx, files, ds), ()
    paths = [ctx.lake.storage.where(file.path) for found in files.values() for file in found]
    query = """
        SELECT * FROM read_parquet(
            $paths, hive_partitioning = true, hive_types_autocast = false, union_by_name = true,
            filename = '__file', file_row_number = true)
    """
    return con.sql(query, params={"paths": paths}).select(StarExpression()), (FILE, NUMBER)


def _chosen(
    ctx: Context,
    files: tuple[str, ...],
    changed: tuple[str, ...],
    record: RunRecord,
    rows: list[dict[str, Any]],
    fingerprint: int,
) -> InputRow:
    """Returns the row that has the prediction's fingerprint, or else the first."""
    from pipeline.features import row_fingerprints, to_matrix

    signature = _signature(ctx, record)
    names, inputs = record.plan.features, {} if signature is None else signature.inputs
    best = None
    for each in rows:
        batch = each["batch"].slice(each["row"], 1)
        matrix = to_matrix(batch, names, inputs)
        same = int(row_fingerprints(batch, matrix, names, inputs)[0]) == fingerprint
        if best is None or same:
            best = (batch, same)
        if same:
            break
    assert best is not None
    batch, same = best
    values = {name: _value(batch, name, inputs) for name in names}
    file = group = number = None
    if FILE in batch.schema.names:
        place, number = batch.column(FILE)[0].as_py(), batch.column(NUMBER)[0].as_py()
        file = next(path for path in files if ctx.lake.storage.where(path) == place)
        group = _row_group(ctx, file, number)
    note = None if file else "the job's SELECT makes the rows: they stand in no one file"
    return InputRow(files, changed, file, group, number, len(rows), values, same, note, batch)


def _signature(ctx: Context, record: RunRecord) -> Signature | None:
    """Returns that of the model; None if it is gone, and then features are taken to be numbers."""
    try:
        return ctx.registry.resolve(record.model.name, record.model.version).signature
    except ModelError:
        return None


def _value(batch: pa.RecordBatch, name: str, inputs: Mapping[str, Input]) -> Any:
    if name in inputs and inputs[name].kind != "number":
        return batch.column(name)[0].as_py()
    from pipeline.features import to_matrix

    value = float(to_matrix(batch, [name])[0, 0])
    return None if value != value else value  # noqa: PLR0124 - NaN


def _row_group(ctx: Context, path: str, row: int) -> int:
    import pyarrow.parquet as pq

    with ctx.lake.storage.open(path) as file:
        metadata = pq.read_metadata(file)
    group = 0
    while row >= (rows := metadata.row_group(group).num_rows):
        row -= rows
        group += 1
    return group
