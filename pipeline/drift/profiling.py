"""The stage that profiles a partition, as it will be once its run has committed.

Features: of every row that is one a key and breaks no rule of the suite, also of those that a policy rejects for a NULL
or infinite feature, so that missing values show. Scores and classes: of the newest revision of each key.

The stream that scores has seen all features, and of a new partition all predictions: what it counted lies with what it
staged. What it has not seen (after a crash, for a revised partition, on the first day of all) is read here.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from duckdb import StarExpression

from pipeline import database, queries, selection, staging
from pipeline.context import Context, timed
from pipeline.drift import edges, store
from pipeline.drift.counting import Counting
from pipeline.drift.tables import from_bytes, from_table, to_bytes, to_table
from pipeline.features import to_matrix
from pipeline.keys import key_expression
from pipeline.lake import Partition
from pipeline.model.baseline import numbers
from pipeline.records import FileInfo, RunRecord, now

if TYPE_CHECKING:
    from duckdb import DuckDBPyRelation as Relation

    from pipeline.drift.counting import Spec
    from pipeline.model.manifest import Manifest
    from pipeline.selection import Selection

log = logging.getLogger(__name__)

STAGED = "profile.parquet"
BATCH_ROWS = 122_880


def profile(ctx: Context, record: RunRecord) -> RunRecord:
    """The stage: writes the profile of the partition as it will be. Never fails a run: what goes wrong is a warning."""
    if not ctx.job.drift.enabled:
        return record
    warnings: tuple[str, ...] = ()
    with timed("profile") as clock:
        try:
            clock.rows = make(ctx, record, staging.files(ctx, record, "scored"), record.plan.base)
        except Exception as error:  # noqa: BLE001 - whatever it is, the predictions are worth more than their profile
            log.warning("%s has no profile: %s", record.ds, error)
            warnings = (f"no profile: {error}",)
    return record.with_(stages=(*record.stages, clock.report), warnings=(*record.warnings, *warnings))


def make(ctx: Context, record: RunRecord, staged: Sequence[Path], base: Sequence[FileInfo]) -> int:
    """Writes the profile of what is staged over a base of stored files; returns the number of rows."""
    counting = _counted_by_the_stream(ctx, record) or Counting((), ctx.job.drift.slices)
    if not {"feature", "score"} <= counting.kinds:
        _read(ctx, record, counting, staged, base)
    table = to_table(counting, record.run_id, now(), ctx.job.drift.max_slices)
    store.write(ctx, "profiles", record, table)
    return max(table.column("rows").to_pylist(), default=0)


def _read(
    ctx: Context, record: RunRecord, counting: Counting, staged: Sequence[Path], base: Sequence[FileInfo]
) -> None:
    """Adds what the stream has not counted."""
    partition = Partition(record.job, record.ds, record.model.version)
    with selection.select(ctx, record.plan, partition) as selected, database.explained(record.ds, selected.reads):
        features, predictions = selected.con.view("selected"), _predictions(ctx, selected, staged, base)
        specs = edges.load(ctx, _manifest(ctx, record)) or _first(ctx, record, selected, features, predictions)
        if "feature" not in counting.kinds:
            counting.join(_features(ctx, record, features, specs))
        if "score" not in counting.kinds:
            counting.join(_scores(ctx, predictions, specs))


def remake(ctx: Context, record: RunRecord) -> bool:
    """Makes the profile of a complete run that has none. Returns False if its input is no longer what it read."""
    if ctx.lake.input_files(ctx.job.input.patterns, record.ds) != record.plan.input:
        return False
    make(ctx, record, (), record.parts)
    return True


def keep_for_stage(ctx: Context, record: RunRecord, counting: Counting) -> None:
    """Puts what the stream has counted beside what it staged."""
    table = to_table(counting, record.run_id, now(), 10**6)
    ctx.lake.workspace.write(f"{staging.folder_of(record)}/{STAGED}", to_bytes(table))


def forget_staged(ctx: Context, record: RunRecord) -> None:
    ctx.lake.workspace.path(f"{staging.folder_of(record)}/{STAGED}").unlink(missing_ok=True)


def _counted_by_the_stream(ctx: Context, record: RunRecord) -> Counting | None:
    path = ctx.lake.workspace.path(f"{staging.folder_of(record)}/{STAGED}")
    if not path.is_file():
        return None
    return Counting.of(from_table(from_bytes(path.read_bytes())), ctx.job.drift.slices)


def _manifest(ctx: Context, record: RunRecord) -> Manifest:
    return ctx.registry.resolve(record.model.name, record.model.version)


def _first(
    ctx: Context, record: RunRecord, selected: Selection, features: Relation, predictions: Relation
) -> tuple[Spec, ...]:
    manifest = _manifest(ctx, record)
    found = edges.from_days(selected.con, features, predictions, manifest.signature)
    edges.keep(ctx, manifest, found)
    loaded = edges.load(ctx, manifest)
    assert loaded is not None
    return loaded


def _predictions(ctx: Context, selected: Selection, staged: Sequence[Path], base: Sequence[FileInfo]) -> Relation:
    """Returns the current predictions of the partition: what is staged, and what stands there otherwise."""
    con, key = selected.con, selected.plan.key
    paths = [ctx.lake.storage.where(file.path) for file in base]
    rows = database.parquet(con, staged) if staged else database.parquet(con, paths).limit(0)
    if not base:
        return rows
    stored = database.parquet(con, paths)
    hive = [name for name in ("job", "ds", "model_version") if name in rows.columns]
    keyed = key_expression(key, database.schema(stored)).alias("__key")
    rows.select(keyed, StarExpression(exclude=hive)).create_view("predicted", replace=True)
    stored.select(keyed, StarExpression(exclude=["job", "ds", "model_version"])).create_view("stored", replace=True)
    return con.sql(queries.load("quality/partition"))


def _features(ctx: Context, record: RunRecord, rows: Relation, specs: Sequence[Spec]) -> Counting:
    counting = Counting((spec for spec in specs if spec.kind == "feature"), ctx.job.drift.slices)
    if not counting.specs:
        return counting
    names = numbers(_manifest(ctx, record).signature)
    columns = _columns(rows, [*(spec.name for spec in counting.specs), *ctx.job.drift.slices])
    with columns.to_arrow_reader(BATCH_ROWS) as batches:
        for batch in batches:
            counting.add_features(batch, to_matrix(batch, names), names)
    return counting


def _scores(ctx: Context, rows: Relation, specs: Sequence[Spec]) -> Counting:
    counting = Counting((spec for spec in specs if spec.kind != "feature"), ctx.job.drift.slices)
    names = [spec.name for spec in counting.specs]
    with _columns(rows, [*names, *ctx.job.drift.slices]).to_arrow_reader(BATCH_ROWS) as batches:
        for batch in batches:
            counting.add_predictions(batch, batch)
    return counting


def _columns(rows: Relation, names: Sequence[str]) -> Relation:
    from duckdb import ColumnExpression

    return rows.select(*(ColumnExpression(name) for name in dict.fromkeys(names)))
