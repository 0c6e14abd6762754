"""The stage that profiles a partition as it will be once its run has committed.

Features are counted for one row per key that breaks no rule of the suite. This includes rows that a policy rejects for
a NULL or infinite feature, so that missing values show. Scores and classes are those of each key's newest revision.

The scoring stream has seen all features and, in a new partition, all predictions: its counts lie beside the files that
it staged. What it has not seen (after a crash, in a revised partition, on a small first day) is read here.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.context import Context, timed
from pipeline.database import wide
from pipeline.database.connection import connect_shared, read_parquet, translated_errors
from pipeline.histograms.counting import Counting
from pipeline.histograms.table import from_table, to_table
from pipeline.lake.layout import Partition
from pipeline.model.baseline import numbers
from pipeline.model.matrix import to_matrix
from pipeline.profiles import bin_edges, store
from pipeline.quality.outputs import after_commit
from pipeline.records import Addition, FileInfo, RunRecord, now, same_files
from pipeline.selecting.triage import WITHDRAWN
from pipeline.selecting.views import select
from pipeline.staging.folders import staged_files, staging_folder
from pipeline.storage.parquet import from_bytes, to_bytes

if TYPE_CHECKING:
    from duckdb import DuckDBPyRelation as Relation

    from pipeline.histograms.counting import Spec
    from pipeline.histograms.table import Profile
    from pipeline.model.manifest import Manifest
    from pipeline.selecting.views import Selection

log = logging.getLogger(__name__)

STAGED = "profile.parquet"


def profile(ctx: Context, record: RunRecord) -> Addition:
    """Stage: writes the profile of the partition as it will be after the commit."""
    with timed("profile") as clock:
        clock.rows = make_profile(ctx, record, staged_files(ctx, record, "scored"), record.plan.base)
    return Addition(stages=(clock.report,))


def make_profile(ctx: Context, record: RunRecord, staged: Sequence[Path], base: Sequence[FileInfo]) -> int:
    """Writes the profile of the staged rows over a base of stored files; returns the number of rows."""
    counting = _of_the_stream(ctx, record) or Counting((), ctx.job.drift.slices)
    if not {"feature", "score"} <= counting.kinds:
        _read(ctx, record, counting, staged, base)
    table = to_table(counting, record.run_id, now(), ctx.job.drift.max_slices)
    store.write(ctx, "profiles", record, table)
    return max(table.column("rows").to_pylist(), default=0)


def _of_the_stream(ctx: Context, record: RunRecord) -> Counting | None:
    """Returns the counts of the run's stream; None if there are none, or another run has stored other edges meanwhile.

    Edges that the stream has found itself, of a large first day, are stored here: only now the day has been validated.
    """
    counting = counted_by_the_stream(ctx, staging_folder(record))
    if counting is None:
        return None
    manifest = _manifest(ctx, record)
    specs = bin_edges.load(ctx, manifest)
    if specs is None and "score" in counting.kinds:
        specs = bin_edges.keep(ctx, manifest, counting.specs)
    return counting if set(counting.specs) <= set(specs or ()) else None


def _read(
    ctx: Context, record: RunRecord, counting: Counting, staged: Sequence[Path], base: Sequence[FileInfo]
) -> None:
    """Adds the columns that the stream has not counted."""
    partition = Partition.of(record)
    with select(ctx, record.plan, partition) as selected, translated_errors(record.ds, selected.reads):
        features, predictions = selected.rows, _predictions(ctx, record, selected, staged, base)
        specs = bin_edges.load(ctx, _manifest(ctx, record))
        if specs is None:
            if predictions is None:
                return  # each row is in quarantine: such a day says nothing about the edges of later ones
            specs = _first(ctx, record, selected, features, predictions)
        if "feature" not in counting.kinds:
            counting.join(_features(ctx, record, features, specs))
        if "score" not in counting.kinds:
            counting.join(_scores(ctx, predictions, specs))


def remake_profile(ctx: Context, record: RunRecord) -> bool:
    """Makes the profile of a complete run that lacks it. Returns False if the input has changed since that run."""
    if not same_files(record.plan.input, ctx.lake.input_files(ctx.job.patterns, record.ds)):
        return False
    make_profile(ctx, record, (), record.parts)
    return True


def count_outputs(ctx: Context, record: RunRecord, specs: Sequence[Spec]) -> Profile:
    """Returns the scores and classes of a complete run's partition, counted by `specs`; reads its predictions."""
    paths = [ctx.lake.storage.where(file.path) for file in record.parts]
    with connect_shared(ctx.resources(len(specs))) as con, translated_errors(record.ds, paths):
        ctx.lake.storage.attach(con)
        rows = after_commit(con, record.plan.key, read_parquet(con, paths).limit(0), paths, ()) if paths else None
        return _scores(ctx, rows, specs).counts


def take_over_profile(ctx: Context, record: RunRecord, earlier: RunRecord) -> None:
    """Gives a run the profile of an earlier run of the same predictions, if that has one."""
    import pyarrow as pa

    table = store.of_run(ctx.lake, "profiles", earlier)
    if table is not None:
        index = table.schema.get_field_index("run_id")
        own = pa.array([record.run_id] * table.num_rows, table.schema.field(index).type)
        store.write(ctx, "profiles", record, table.set_column(index, table.schema.field(index), own))


def keep_stream_counts(ctx: Context, place: str, run_id: str, counting: Counting) -> None:
    """Writes the counts of the stream beside the files that it staged; `place` is the key of their folder."""
    ctx.lake.workspace.write(f"{place}/{STAGED}", to_bytes(to_table(counting, run_id, now(), 10**6)))


def forget_stream_counts(ctx: Context, place: str) -> None:
    ctx.lake.workspace.path(f"{place}/{STAGED}").unlink(missing_ok=True)


def counted_by_the_stream(ctx: Context, place: str) -> Counting | None:
    """Returns the counts of the stream that staged the files in a folder, or None if it counted nothing."""
    content = ctx.lake.workspace.read(f"{place}/{STAGED}")
    return None if content is None else stream_counts(ctx, content)


def stream_counts(ctx: Context, content: bytes) -> Counting:
    """Returns the counts in a file that `keep_stream_counts` wrote."""
    return Counting.of(from_table(from_bytes(content)), ctx.job.drift.slices)


def _manifest(ctx: Context, record: RunRecord) -> Manifest:
    return ctx.manifest_of(record)


def _first(
    ctx: Context, record: RunRecord, selected: Selection, features: Relation, predictions: Relation
) -> tuple[Spec, ...]:
    manifest = _manifest(ctx, record)
    found = bin_edges.from_days(selected.con, features, predictions, manifest.signature)
    return bin_edges.keep(ctx, manifest, found)


def _predictions(
    ctx: Context, record: RunRecord, selected: Selection, staged: Sequence[Path], base: Sequence[FileInfo]
) -> Relation | None:
    """Returns the partition's current predictions, staged rows and stored rows for all other keys; None without any."""
    if not staged and not base:
        return None
    paths = [ctx.lake.storage.where(file.path) for file in base]
    rows = read_parquet(selected.con, staged) if staged else read_parquet(selected.con, paths).limit(0)
    if not base:
        return rows
    withdrawing = staged_files(ctx, record, WITHDRAWN)
    return after_commit(selected.con, selected.plan.key, rows, paths, withdrawing)


def _features(ctx: Context, record: RunRecord, rows: Relation, specs: Sequence[Spec]) -> Counting:
    counting = Counting((spec for spec in specs if spec.kind == "feature"), ctx.job.drift.slices)
    if not counting.specs:
        return counting
    names = numbers(_manifest(ctx, record).signature)
    columns = _columns(rows, [*(spec.name for spec in counting.specs), *ctx.job.drift.slices])
    with columns.to_arrow_reader(ctx.batch_rows(len(columns.columns))) as batches:
        for batch in batches:
            counting.add_features(batch, to_matrix(batch, names), names)
    return counting


def _scores(ctx: Context, rows: Relation | None, specs: Sequence[Spec]) -> Counting:
    counting = Counting((spec for spec in specs if spec.kind != "feature"), ctx.job.drift.slices)
    if rows is None:
        return counting
    names = [spec.name for spec in counting.specs]
    columns = _columns(rows, [*names, *ctx.job.drift.slices])
    with columns.to_arrow_reader(ctx.batch_rows(len(columns.columns))) as batches:
        for batch in batches:
            counting.add_predictions(batch, batch)
    return counting


def _columns(rows: Relation, names: Sequence[str]) -> Relation:
    from duckdb import ColumnExpression

    return wide.select(rows, {name: ColumnExpression(name) for name in names})
