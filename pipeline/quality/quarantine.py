"""The rows in quarantine: counts them by reason, lists them, and releases some despite the rules that they break.

A release is a Parquet file under `releases/` with keys and the reasons that are waived. Only rules of the suite can be
waived: a row without a key, or with a NULL that the model does not accept, cannot be scored. A release removes
`_SUCCESS`, so that the next run of the day checks the input again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from duckdb import ColumnExpression, ConstantExpression, FunctionExpression

from pipeline.columns import HIVE, OF_REJECTED
from pipeline.database.aligning import with_key_text
from pipeline.database.connection import connect, read_parquet, translated_errors
from pipeline.errors import UsageError, nearest
from pipeline.lake.layout import Partition
from pipeline.quality import rejections
from pipeline.records import State, new_run_id, now
from pipeline.suite import suite

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation

    from pipeline.context import Context


@dataclass(frozen=True)
class InQuarantine:
    """The rows of a day that are in quarantine for one reason, or would be if its last run had not been stopped."""

    ds: str
    reason: str
    rows: int
    keys: tuple[str, ...]
    """A few of their keys."""
    stopped: bool
    """Whether they are those of a run that was stopped: nothing of it is published, and an earlier run's rows stay."""


def days(ctx: Context) -> list[InQuarantine]:
    """Returns the current quarantine by day and reason; a row with two reasons counts for both."""
    found = []
    key = ctx.job.input.key
    stored = {folder.removeprefix("ds=") for folder in ctx.lake.storage.folders(f"quarantine/job={ctx.job.name}")}
    for ds in sorted(stored.union(ctx.lake.records.days(ctx.job.name))):
        files = _files(ctx, ds)[-1:]
        now = rejections.of_files(ctx.lake, files, key)
        found += [InQuarantine(ds, each.reason, each.rows, each.keys, stopped=False) for each in now]
        last = next(ctx.lake.records.iter_day(ctx.job.name, ds), None)
        if last is not None and last.state is State.stopped:
            of_run = rejections.of_run(ctx.lake, last)
            found += [InQuarantine(ds, each.reason, each.rows, each.keys, stopped=True) for each in of_run]
    return found


def stopped_otherwise(ctx: Context, ds: str | None = None) -> list[str]:
    """Returns the days, or this day if it is one, whose last run was stopped and left no rows in quarantine."""
    found = []
    for each in ctx.lake.records.days(ctx.job.name) if ds is None else [ds]:
        last = next(ctx.lake.records.iter_day(ctx.job.name, each), None)
        if last is not None and last.state is State.stopped and not rejections.of_run(ctx.lake, last):
            found.append(each)
    return found


def rows(
    ctx: Context, ds: str, *, reason: str | None = None, limit: int = 100
) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Returns the column names and up to `limit` rows of a day's quarantine."""
    with connect() as con:
        found = _current(con, ctx, ds)
        if found is None:
            return [], []
        if reason is not None:
            found = found.filter(
                FunctionExpression("list_contains", ColumnExpression("reasons"), ConstantExpression(reason))
            )
        names = [name for name in found.columns if name not in ("job", "ds", "key_text")]
        return names, found.select(*map(ColumnExpression, names)).limit(limit).fetchall()


def release(ctx: Context, ds: str, keys: Sequence[str]) -> int:
    """Lets the next run of the day score rows despite the suite rules that they break now; returns their number.

    `keys` are written as in `key_text`. Raises UsageError for a key that is not in quarantine, or is there for a reason
    that is not a suite rule.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rules = {rule.name for rule in suite.load(ctx.job, "input")}
    with connect() as con:
        found = _current(con, ctx, ds)
        known = [] if found is None else [text for (text,) in found.select("key_text").fetchall() if text is not None]
        for key in keys:
            if key not in known:
                raise UsageError(
                    f"no row with the key {key!r} is in quarantine{nearest(key, known)}",
                    where=f"{ctx.job.name} {ds}",
                    next_step=f"lakescore quarantine show --job {ctx.job.name} --date {ds}",
                )
        assert found is not None
        chosen = found.filter(ColumnExpression("key_text").isin(*map(ConstantExpression, keys)))
        table = chosen.select(*map(ColumnExpression, (*ctx.job.input.key, "reasons"))).to_arrow_table()
    for row in table.to_pylist():
        if others := [reason for reason in row["reasons"] if reason not in rules]:
            raise UsageError(
                f"a row cannot be released from {', '.join(others)}",
                where=f"{ctx.job.name} {ds}, key {row[ctx.job.input.key[0]]}",
                expected=f"only rules of input.json: {', '.join(sorted(rules)) or 'it has none'}",
                next_step="correct the row in the input; the next run then scores it",
            )
    buffer = pa.BufferOutputStream()
    table = table.append_column("released_at", pa.array([now()] * table.num_rows, pa.timestamp("us", "UTC")))
    pq.write_table(table, buffer)
    ctx.lake.storage.write(
        f"releases/job={ctx.job.name}/ds={ds}/{new_run_id()}.parquet", buffer.getvalue().to_pybytes()
    )
    for version in ctx.lake.versions(ctx.job.name, ds):
        ctx.lake.storage.delete(Partition(ctx.job.name, ds, version).success)
    return int(table.num_rows)


def _current(con: Connection, ctx: Context, ds: str) -> Relation | None:
    """Returns the rows of a day's newest quarantine file, with `key_text`, or None if there is none."""
    files = _files(ctx, ds)
    if not files:
        return None
    ctx.lake.storage.attach(con)
    path = files[-1]
    with translated_errors(path):
        return with_key_text(read_parquet(con, [path]), ctx.job.input.key, {*OF_REJECTED, *HIVE})


def _files(ctx: Context, ds: str) -> list[str]:
    """Returns the paths of a day's quarantine files, oldest first."""
    files = ctx.lake.quarantine_files(ctx.job.name, ds)
    return [ctx.lake.storage.where(file.path) for file in files if file.path.endswith(".parquet")]
