"""Finds the input row that a prediction was made from: its file, its row group, and whether it is unchanged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import duckdb
from duckdb import ColumnExpression

from pipeline.context import Context
from pipeline.database.connection import column_types, fit, translated_errors
from pipeline.database.keys import feature_type
from pipeline.errors import InputChanged, InputError, ModelError, SchemaMismatch
from pipeline.explain import key_lookup
from pipeline.explain.found import InputRow
from pipeline.records import FileInfo, RunRecord
from pipeline.selecting.imported import Copies, reading_only, to_read
from pipeline.selecting.input import NUMBER, Files, input_rows, rows_by_path
from pipeline.selecting.source import FILE

if TYPE_CHECKING:
    import pyarrow as pa
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation

    from pipeline.model.inputs import Input
    from pipeline.model.manifest import Signature


def find(ctx: Context, con: Connection, text: str, record: RunRecord, fingerprint: int) -> InputRow:
    """Looks up a key in the input files of a run, as they are now. The result's `note` says what cannot be read.

    Raises OutOfMemory or StorageUnavailable, which say nothing about the input.
    """
    files = tuple(file.path for found in record.plan.input.values() for file in found)
    now = {
        name: [found for file in given if (found := ctx.lake.storage.head(file.path))] for name, given in _of(record)
    }
    there = {file.path: file for found in now.values() for file in found}
    known = [file for _, given in _of(record) for file in given]
    changed = tuple(file.path for file in known if file.path not in there or not file.is_same(there[file.path]))
    copies = _copies(ctx, record)
    if not there and not copies:
        return InputRow(files, changed, note="no input file exists any more")
    if set(now) != set(ctx.job.patterns):
        return InputRow(files, changed, note="the job now reads its input from other sources")
    fit(con, ctx.resources(len(record.plan.features)))
    try:
        with reading_only(ctx) as reading, translated_errors(", ".join(files)):
            rows = _rows(ctx, con, text, record, {**_read(reading, record, now, copies), **copies})
    except (duckdb.Error, InputError, InputChanged) as error:
        return InputRow(files, changed, note=f"the input cannot be read: {str(error).splitlines()[0]}")
    if not rows:
        return InputRow(files, changed, note="the input no longer has this row")
    return _chosen(ctx, files, changed, record, rows, fingerprint)


def _copies(ctx: Context, record: RunRecord) -> dict[str, tuple[FileInfo]]:
    """Returns the copies of text that the run has read and that are still there."""
    copies = Copies(ctx.lake, ctx.job)
    stored = {name: copies.stored(name, record.ds) for name in record.plan.imported}
    return {
        name: (file,)
        for name, (file, says) in stored.items()
        if file is not None and says["digest"] == record.plan.imported[name]
    }


def _read(
    ctx: Context, record: RunRecord, now: Mapping[str, Sequence[FileInfo]], copies: Mapping[str, Sequence[FileInfo]]
) -> Files:
    """Returns the files to read, except those of copies; text is read as it is now."""
    text = {name: found for name, found in ctx.job.patterns.items() if name in ctx.job.input.text - set(copies)}
    listed = {**now, **ctx.lake.input_files(text, record.ds)}
    left = {name: files for name, files in listed.items() if name not in copies}
    return to_read(ctx, left, record.ds, _signature(ctx, record)).read


def _of(record: RunRecord) -> list[tuple[str, tuple[FileInfo, ...]]]:
    return list(record.plan.input.items())


def _rows(
    ctx: Context, con: Connection, text: str, record: RunRecord, files: Mapping[str, Sequence[FileInfo]]
) -> list[dict[str, Any]]:
    """Returns the key's rows, with their features, and file and row number if they are read directly from files."""
    source, place = _source(ctx, con, record.ds, files)
    types = column_types(source)
    if missing := [name for name in (*record.plan.key, *record.plan.features) if name not in types]:
        raise SchemaMismatch(f"it no longer has the column {', '.join(missing)}")
    columns = [ColumnExpression(name).cast(feature_type(types[name])).alias(name) for name in record.plan.features]
    found = key_lookup.rows_of(source, key_lookup.parse(con, text, record.plan.key, types))
    table = found.select(*columns, *(ColumnExpression(name) for name in place)).to_arrow_table()
    return [{"batch": batch, "row": row} for batch in table.to_batches() for row in range(batch.num_rows)]


def _source(
    ctx: Context, con: Connection, ds: str, files: Mapping[str, Sequence[FileInfo]]
) -> tuple[Relation, tuple[str, ...]]:
    located = None if ctx.job.input.text else rows_by_path(con, ctx, files, ds, row_number=True)
    return (input_rows(con, ctx, files, ds), ()) if located is None else (located, (FILE, NUMBER))


def _chosen(
    ctx: Context,
    files: tuple[str, ...],
    changed: tuple[str, ...],
    record: RunRecord,
    rows: list[dict[str, Any]],
    fingerprint: int,
) -> InputRow:
    """Returns the row that has the prediction's fingerprint, or else the first."""
    from pipeline.model.matrix import row_fingerprints, to_matrix

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
    note = None
    if file is None:
        note = "the job's SELECT makes the rows, so they come from no single file"
        note = f"a row of {', '.join(files)}" if not ctx.job.input.select else note
    return InputRow(files, changed, file, group, number, len(rows), values, same, note, batch)


def _signature(ctx: Context, record: RunRecord) -> Signature | None:
    """Returns the model's signature, or None if the model is gone; features are then taken to be numbers."""
    try:
        return ctx.manifest_of(record).signature
    except ModelError:
        return None


def _value(batch: pa.RecordBatch, name: str, inputs: Mapping[str, Input]) -> Any:
    if name in inputs and inputs[name].kind != "number":
        return batch.column(name)[0].as_py()
    from pipeline.model.matrix import to_matrix

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
