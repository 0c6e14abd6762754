"""The history of validation: each result is a row of a Parquet file under `quality/`, one file a run and suite."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeline.records import CheckResult, RunRecord, now

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.context import Context


def write_run(
    ctx: Context, record: RunRecord, side: str, checks: Sequence[CheckResult], findings: Sequence[Any] = ()
) -> None:
    write(ctx, record.ds, record.run_id, record.model.version, side, checks, findings)


def write(
    ctx: Context,
    ds: str,
    run_id: str,
    version: str | None,
    side: str,
    checks: Sequence[CheckResult],
    findings: Sequence[Any],
) -> None:
    """Keeps the results of one suite, and its page in the Data Docs if Great Expectations took part."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not checks:
        return
    at = now()
    of_run = {"run_id": run_id, "model_version": version, "validated_at": at}
    rows = [{**check.model_dump(mode="json"), **of_run} for check in checks]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema()), buffer, compression="zstd")
    ctx.lake.prepare()
    ctx.lake.storage.write(key(ctx.job.name, ds, run_id, side), buffer.getvalue())
    if findings:
        from pipeline.quality import pages

        pages.write(ctx.lake, ctx.job.name, ds, run_id, side, findings)


def key(job: str, ds: str, run_id: str, side: str) -> str:
    return f"quality/job={job}/ds={ds}/{run_id}-{side}.parquet"


def schema() -> pa.Schema:
    import pyarrow as pa

    text = pa.string()
    return pa.schema(
        [
            ("run_id", text),
            ("model_version", text),
            ("suite", text),
            ("name", text),
            ("expectation", text),
            ("column", text),
            ("severity", text),
            ("success", pa.bool_()),
            ("outcome", text),
            ("observed", text),
            ("unexpected", pa.int64()),
            ("share", pa.float64()),
            ("engine", text),
            ("validated_at", pa.timestamp("us", "UTC")),
        ]
    )
