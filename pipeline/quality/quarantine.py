"""The rows in quarantine: counts them by reason, lists them, and releases some despite the rules that they break.

A release is a Parquet file under `releases/` with keys and the reasons that are waived. Only rules of the suite can be
waived: a row without a key, or with a NULL that the model does not accept, cannot be scored. A release removes
`_SUCCESS`, so that the next run of the day checks the input again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from duckdb import ColumnExpression, ConstantExpression, FunctionExpression

from pipeline.columns import HIVE, OF_REJECTED
from pipeline.database import sql_files
from pipeline.database.aligning import with_key_text
from pipeline.database.connection import connect, read_parquet, translated_errors
from pipeline.errors import UsageError, nearest
from pipeline.lake.layout import Partition
from pipeline.records import new_run_id, now
from pipeline.suite import suite

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation

    from pipeline.context import Context


def days(ctx: Context) -> list[tuple[str, str, int]]:
    """Returns (day, reason, rows) for the current quarantine; a row with two reasons counts for both."""
    found = []
    with connect() as con:
        for folder in ctx.lake.storage.folders(f"quarantine/job={ctx.job.name}"):
            ds = folder.removeprefix("ds=")
            if (rows := _current(con, ctx, ds)) is not None:
                rows.create_view("rejected", replace=True)
                counted = con.sql(sql_files.load("quality/reasons")).fetchall()
                found += [(ds, reason, count) for reason, count in counted]
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
    files = [file for file in ctx.lake.quarantine_files(ctx.job.name, ds) if file.path.endswith(".parquet")]
    if not files:
        return None
    ctx.lake.storage.attach(con)
    path = ctx.lake.storage.where(files[-1].path)
    with translated_errors(path):
        return with_key_text(read_parquet(con, [path]), ctx.job.input.key, {*OF_REJECTED, *HIVE})
