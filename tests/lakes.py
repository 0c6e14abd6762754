"""Writes lakes with pyarrow and the classes of run records alone: readers are tested independently of the writer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.lake.layout import Lake, Partition
from pipeline.lake.patterns import Pattern
from pipeline.records import FileInfo, Ledger, ModelRef, Plan, RunRecord, StageReport, State, Statistics, Term

PATTERN = "unscored/ds={ds}/*.parquet"
FEATURES = ("age", "income")


def open_lake(root: Path) -> Lake:
    lake = Lake.open(str(root))
    lake.prepare()
    return lake


def run_id(ds: str, number: int = 0) -> str:
    """Returns the id of the `number`th run over a day; ids sort by number."""
    return f"{ds.replace('-', '')}T02{number:02d}00000Z-0000000{number % 10}"


def clock(ds: str, number: int = 0) -> datetime:
    """Returns 02:00 UTC of the day after `ds`, plus `number` minutes."""
    return datetime.fromisoformat(ds).replace(tzinfo=UTC) + timedelta(days=1, hours=2, minutes=number)


def write_parquet(path: Path, table: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="zstd")


def input_rows(ids: Sequence[Any], key: str = "id") -> pa.Table:
    count = len(ids)
    columns = {key: pa.array(ids), "age": pa.array(range(20, 20 + count), pa.int64())}
    return pa.table(columns | {"income": pa.array(np.linspace(1e4, 9e4, count))})


def prediction_rows(
    key: Mapping[str, Any],
    *,
    run: str,
    ds: str,
    labels: Sequence[Any] | None = None,
    probabilities: Sequence[float] | None = None,
    classes: int = 2,
    reason: str = "new",
    revision: int = 0,
    carry: Mapping[str, Any] | None = None,
) -> pa.Table:
    """Returns rows as a commit writes them; `key` and `carry` map names to values, `labels` are classes or names."""
    columns = {name: pa.array(values) for name, values in {**key, **(carry or {})}.items()}
    count = len(next(iter(columns.values())))
    labels = [row % classes for row in range(count)] if labels is None else labels
    proba = np.asarray([0.75] * count if probabilities is None else probabilities, np.float32)
    columns |= {"prediction": pa.array(labels), "prediction_proba": pa.array(proba)}
    for index in range(classes):
        columns[f"prob_class_{index}"] = pa.array(np.full(count, 1 / classes, np.float32))
    columns["scored_at"] = pa.array([clock(ds)] * count, pa.timestamp("us", "UTC"))
    columns["run_id"] = pa.array([run] * count, pa.string())
    columns["reason"] = pa.array([reason] * count, pa.string())
    columns["fingerprint"] = pa.array(range(count), pa.int64())
    columns["revision"] = pa.array([revision] * count, pa.int32())
    return pa.table(columns)


def add_input(lake: Lake, ds: str, table: pa.Table, name: str = "rows.parquet") -> None:
    write_parquet(lake.workspace.path(f"unscored/ds={ds}/{name}"), table)


def add_part(lake: Lake, partition: Partition, table: pa.Table) -> FileInfo:
    key = partition.part(len(lake.parts(partition)))
    write_parquet(lake.workspace.path(key), table)
    return _found(lake, key)


def add_quarantine(lake: Lake, job: str, ds: str, run: str, table: pa.Table, reasons: list[list[str]]) -> FileInfo:
    """Stores the rows of `table` as rejected, with their reasons."""
    count = table.num_rows
    table = table.append_column("reasons", pa.array(reasons, pa.list_(pa.string())))
    table = table.append_column("run_id", pa.array([run] * count, pa.string()))
    table = table.append_column("quarantined_at", pa.array([clock(ds)] * count, pa.timestamp("us", "UTC")))
    key = f"quarantine/job={job}/ds={ds}/{run}.parquet"
    write_parquet(lake.workspace.path(key), table)
    return _found(lake, key)


def mark(lake: Lake, partition: Partition) -> None:
    lake.storage.write(partition.success, b"")


def put_record(lake: Lake, record: RunRecord) -> None:
    """Stores a record, replacing any stored one: for the records of killed processes, or of old runs."""
    lake.storage.write(lake.records.key(record.job, record.ds, record.run_id), record.to_json())


def add_run(
    lake: Lake,
    partition: Partition,
    *,
    number: int = 0,
    state: State = State.complete,
    key: Sequence[str] = ("id",),
    scored: int = 0,
    unchanged: int = 0,
    quarantined: int = 0,
    committed: Sequence[FileInfo] = (),
    confidence: float | None = 0.75,
    patterns: Mapping[str, str] | None = None,
    model: str = "churn_model",
    reason: str = "new",
) -> RunRecord:
    """Stores the record of a run over the present input."""
    ds, done = partition.ds, state is State.complete
    terms = {"scored": scored, "unchanged": unchanged, "quarantined": quarantined, "duplicates": 0, "overtaken": 0}
    candidates = Term(rows=sum(terms.values()), hash_sum=2**80 + sum(terms.values()))
    hashes = {"scored": candidates.hash_sum}
    ledger = Ledger(
        candidates=candidates,
        **{name: Term(rows=rows, hash_sum=hashes.get(name, 0)) for name, rows in terms.items()},
    )
    record = RunRecord(
        run_id=run_id(ds, number),
        job=partition.job,
        ds=ds,
        state=state,
        model=ModelRef(name=model, version=partition.version, digest=f"digest-of-{partition.version}"),
        job_digest="0" * 64,
        job_config={},
        plan=Plan(
            input=lake.input_files(
                {name: Pattern(each) for name, each in (patterns or {"unscored": PATTERN}).items()}, ds
            ),
            base=(),
            other_versions=(),
            key=tuple(key),
            carry=(),
            features=FEATURES,
            candidates=candidates,
            null_keys=0,
            repeated=False,
            duckdb="2.0.0",
        ),
        started_at=clock(ds, number),
        finished_at=clock(ds, number) + timedelta(seconds=30) if done else None,
        committed=tuple(committed),
        parts=lake.parts(partition) if done else (),
        quarantine=lake.quarantine_files(partition.job, ds) if done else (),
        ledger=ledger if done else None,
        statistics=Statistics(mean_confidence=confidence, reasons={reason: scored}),
        stages=(StageReport(stage="score", wall_s=2.0, cpu_s=3.0, rows=scored),) if done else (),
        peak_memory_bytes=400_000_000,
        host="test",
        pid=1,
        error=None if state is not State.failed else "the disk is full",
    )
    put_record(lake, record)
    return record


def add_day(
    lake: Lake,
    ds: str,
    ids: Sequence[Any] = ("a", "b", "c"),
    *,
    job: str = "churn",
    version: str = "v1",
    number: int = 0,
    key: str = "id",
    **columns: Any,
) -> RunRecord:
    """Stores a day as a complete run leaves it: input, one part file, record, mark. `columns`: see prediction_rows."""
    partition = Partition(job, ds, version)
    if not lake.storage.files(f"unscored/ds={ds}"):
        add_input(lake, ds, input_rows(ids, key))
    rows = prediction_rows({key: list(ids)}, run=run_id(ds, number), ds=ds, **columns)
    part = add_part(lake, partition, rows)
    record = add_run(lake, partition, number=number, key=(key,), scored=len(ids), committed=[part])
    mark(lake, partition)
    return record


def _found(lake: Lake, key: str) -> FileInfo:
    info = lake.storage.head(key)
    assert info is not None
    return info
