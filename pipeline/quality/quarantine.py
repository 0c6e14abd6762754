"""The rows in quarantine: how many and why, which, and letting some pass in spite of the rules that they break.

A release is a Parquet file under `releases/`: keys, and the reasons that are waived. Only rules of the suite can be:
what has no key, or a NULL where the model takes none, cannot be scored. The mark of completeness is removed, so the
next run of the day looks again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from duckdb import ColumnExpression, ConstantExpression, FunctionExpression

from pipeline import database, queries
from pipeline.errors import UsageError, nearest
from pipeline.lake import Partition
from pipeline.quality import suite
from pipeline.records import new_run_id, now
from pipeline.relations import with_key_text

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation

    from pipeline.context import Context

OURS = ("reasons", "run_id", "quarantined_at", "job", "ds")


def days(ctx: Context) -> list[tuple[str, str, int]]:
    """Returns day, reason and rows, of what is rejected now; a row with two reasons counts for both."""
    found = []
    with database.connection() as con:
        for folder in ctx.lake.storage.folders(f"quarantine/job={ctx.job.name}"):
            ds = folder.removeprefix("ds=")
            if (rows := _current(con, ctx, ds)) is not None:
                rows.create_view("rejected", replace=True)
                counted = con.sql(queries.load("quality/reasons")).fetchall()
                found += [(ds, reason, count) for reason, count in counted]
    return found


def rows(
    ctx: Context, ds: str, *, reason: str | None = None, limit: int = 100
) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Returns columns and rows of a day's quarantine."""
    with database.connection() as con:
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
    """Lets rows be scored by the next run of the day, whatever rules of the suite they break now; returns how many.

    `keys` are written as in `key_text`. Raises UsageError for a key that is not in quarantine, or not for a rule.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rules = {rule.name for rule in suite.load(ctx.job, "input")}
    with database.connection() as con:
        found = _current(con, ctx, ds)
        known = [] if found is None else [text for (text,) in found.select("key_text").fetchall() if text is not None]
        for key in keys:
            if key not in known:
                raise UsageError(
                    f"no row with the key {key!r} is in quarantine{nearest(key, known)}",
                    where=f"{ctx.job.name} {ds}",
                    next_step=f"lakescore quarantine show --date {ds}",
                )
        assert found is not None
        chosen = found.filter(ColumnExpression("key_text").isin(*map(ConstantExpression, keys)))
        table = chosen.select(*map(ColumnExpression, (*ctx.job.input.key, "reasons"))).to_arrow_table()
    for row in table.to_pylist():
        if others := [reason for reason in row["reasons"] if reason not in rules]:
            raise UsageError(
                f"a row cannot be released from {', '.join(others)}",
                where=f"{ctx.job.name} {ds}, key {row[ctx.job.input.key[0]]}",
                expected=f"one of the rules of input.json: {', '.join(sorted(rules)) or 'there are none'}",
                next_step="repair the row in the input: the next run then scores it",
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
    """Returns the rows of the newest quarantine file of a day, with `key_text`."""
    files = [file for file in ctx.lake.quarantine_files(ctx.job.name, ds) if file.path.endswith(".parquet")]
    if not files:
        return None
    ctx.lake.storage.attach(con)
    path = ctx.lake.storage.where(files[-1].path)
    with database.explained(path):
        return with_key_text(database.parquet(con, [path]), ctx.job.input.key, OURS)
