"""The validation history: Parquet files under `quality/`, one file per run and suite, one row per result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeline.records import CheckResult, RunRecord, now
from pipeline.storage.parquet import to_bytes

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
    """Writes the results of one suite; examples of bad values only if Great Expectations was asked for them."""
    import pyarrow as pa

    if not checks:
        return
    at = now()
    of_run = {"run_id": run_id, "model_version": version, "validated_at": at}
    examples = {finding.rule.name: list(finding.examples) for finding in findings if finding.examples}
    rows = [{**check.model_dump(mode="json"), **of_run, "examples": examples.get(check.name)} for check in checks]
    ctx.lake.prepare()
    ctx.lake.storage.write(key(ctx.job.name, ds, run_id, side), to_bytes(pa.Table.from_pylist(rows, schema())))


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
            ("expected", text),
            ("description", text),
            ("examples", pa.list_(text)),
        ]
    )
