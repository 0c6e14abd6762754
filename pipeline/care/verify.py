"""Looks for damage: what is stored is read, every page of it, and compared with what the run records say.

Each finding says what is amiss, where, and whether `--repair` mends it. Repaired is only what takes no row away: a mark
without a run that backs it, and old staging. Any row that is lost or doubled needs a person.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from duckdb import ColumnExpression, FunctionExpression

from pipeline import database, queries
from pipeline.care.clean import clean
from pipeline.care.erase import erased_rows
from pipeline.errors import LakeDamaged, LakescoreError
from pipeline.lake import PART, Lake, Partition
from pipeline.records import FileInfo, RunRecord, State

if TYPE_CHECKING:
    from duckdb import Expression

    from pipeline.model.registry import Registry

OURS = ("scored_at", "run_id", "reason", "fingerprint", "revision")
ENDED = {State.complete, State.overtaken, State.superseded}


@dataclass(frozen=True)
class Finding:
    kind: str
    where: str
    what: str
    repair: Callable[[], object] | None = field(default=None, repr=False)
    """What `--repair` does about it; None if nothing safe can be done."""

    def as_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "where": self.where, "what": self.what, "repairable": self.repair is not None}


def verify(lake: Lake, registry: Registry | None = None) -> Iterator[Finding]:
    """Yields what is amiss in a lake, and in the models of a registry. Changes nothing."""
    for folder in lake.storage.folders("predictions"):
        job = folder.removeprefix("job=")
        for ds in lake.prediction_days(job):
            records = yield from _records(lake, job, ds)
            for version in lake.versions(job, ds):
                yield from _partition(lake, Partition(job, ds, version), records)
            yield from _quarantine(lake, job, ds)
    yield from _left(lake)
    if registry is not None:
        yield from _models(registry)


def _records(lake: Lake, job: str, ds: str) -> Generator[Finding, None, list[RunRecord]]:
    """Returns the records that can be read."""
    found = []
    for file in lake.storage.files(f"runs/job={job}/ds={ds}"):
        name = file.path.rpartition("/")[2]
        if name.endswith(".json"):
            try:
                found.append(lake.read_record(job, ds, name.removesuffix(".json")))
            except LakescoreError as error:
                yield Finding("record", lake.storage.where(file.path), error.what)
    return found


def _partition(lake: Lake, partition: Partition, records: list[RunRecord]) -> Iterator[Finding]:
    for file in lake.storage.files(partition.folder):
        name = file.path.rpartition("/")[2]
        if name != "_SUCCESS" and not PART.fullmatch(name):
            yield Finding(
                "stranger", lake.storage.where(file.path), "no file of ours: readers of the folder stumble over it"
            )
    try:
        parts = lake.parts(partition)
    except LakeDamaged as error:
        yield Finding("sequence", str(error.where), error.what)
        return
    by_run: Counter[str] = Counter()
    readable = []
    for part in parts:
        found = yield from _file(lake, part, partition)
        if found is not None:
            readable.append(part)
            by_run.update({found[0]: found[1]})
    if len(readable) == len(parts):
        yield from _revisions(lake, partition, readable)
        yield from _ledgers(lake, partition, records, by_run)
    yield from _mark(lake, partition, records)


def _file(lake: Lake, part: FileInfo, partition: Partition) -> Generator[Finding, None, tuple[str, int] | None]:
    """Returns the run and the rows of a file that can be read in full."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    where = lake.storage.where(part.path)
    try:
        with lake.storage.open(part.path) as source, pq.ParquetFile(source, page_checksum_verification=True) as file:
            says = {name.decode(): text.decode() for name, text in (file.metadata.metadata or {}).items()}
            missing = [name for name in OURS if name not in file.schema_arrow.names]
            rows = sum(batch.num_rows for batch in file.iter_batches())
    except (pa.ArrowException, OSError, LakescoreError) as error:
        yield Finding("file", where, f"cannot be read: {str(error).splitlines()[0]}")
        return None
    if missing:
        yield Finding("schema", where, f"lacks the columns {', '.join(missing)}")
        return None
    expected = {"job": partition.job, "ds": partition.ds, "model_version": partition.version}
    if wrong := [
        f"{name} {says.get(f'lakescore.{name}')!r}"
        for name in expected
        if says.get(f"lakescore.{name}") != expected[name]
    ]:
        yield Finding("file", where, f"says of itself that it is of {', '.join(wrong)}")
    return says.get("lakescore.run_id", ""), rows


def _revisions(lake: Lake, partition: Partition, parts: list[FileInfo]) -> Iterator[Finding]:
    if not parts:
        return
    with database.connection() as con:
        lake.storage.attach(con)
        stored = database.parquet(con, [lake.storage.where(part.path) for part in parts])
        ours = {*OURS, "prediction", "prediction_proba", "value", "rank", "item", "score", "job", "ds", "model_version"}
        key = _key(lake, partition, [name for name in stored.columns if name not in ours])
        stored.select(_row(key).alias("__key"), ColumnExpression("revision")).create_view("stored")
        doubled = con.sql(queries.load("care/doubled")).fetchall()[0][0]
    if doubled:
        yield Finding("doubled", lake.storage.where(partition.folder), f"{doubled:,} times the same key and revision")


def _row(key: list[str]) -> Expression:
    return FunctionExpression("row", *(ColumnExpression(name) for name in key))


def _key(lake: Lake, partition: Partition, others: list[str]) -> list[str]:
    """Returns the key's columns as the newest record of the version has them, else all that are not ours."""
    for record in lake.iter_records(partition.job, partition.ds):
        if record.model.version == partition.version:
            return list(record.plan.key)
    return others


def _ledgers(lake: Lake, partition: Partition, records: list[RunRecord], by_run: Counter[str]) -> Iterator[Finding]:
    erased = erased_rows(lake)
    known = {record.run_id: record for record in records}
    for run, rows in by_run.items():
        if rows and run not in known:
            yield Finding(
                "ledger", lake.storage.where(partition.folder), f"{rows:,} rows of run {run}, which has no record"
            )
    for record in records:
        if record.model.version != partition.version:
            continue
        where = lake.storage.where(lake.record_key(record.job, record.ds, record.run_id))
        if record.state is State.rolled_back and by_run[record.run_id]:
            yield Finding(
                "ledger", where, f"rolled back, but {by_run[record.run_id]:,} rows are there: roll it back again"
            )
        if record.ledger is None or record.state not in ENDED:
            continue
        if not record.ledger.balanced:
            yield Finding("ledger", where, "does not add up")
        stored = by_run[record.run_id] + erased.get((partition.folder, record.run_id), 0)
        if stored != record.ledger.scored.rows:
            yield Finding("ledger", where, f"scored {record.ledger.scored.rows:,} rows, but {stored:,} are stored")


def _mark(lake: Lake, partition: Partition, records: list[RunRecord]) -> Iterator[Finding]:
    complete = any(record.state is State.complete and record.model.version == partition.version for record in records)
    if lake.storage.head(partition.success) is not None and not complete:
        yield Finding(
            "mark",
            lake.storage.where(partition.success),
            "no run is complete here",
            lambda: lake.storage.delete(partition.success),
        )


def _quarantine(lake: Lake, job: str, ds: str) -> Iterator[Finding]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for file in lake.quarantine_files(job, ds):
        try:
            with lake.storage.open(file.path) as source:
                pq.read_table(source)
        except (pa.ArrowException, OSError, LakescoreError) as error:
            yield Finding("file", lake.storage.where(file.path), f"cannot be read: {str(error).splitlines()[0]}")


def _left(lake: Lake) -> Iterator[Finding]:
    """Finds work of more than a day ago that no run has taken up."""
    for left in clean(lake, older_than_days=1, dry_run=True):
        what = f"left behind {left.age_days:.0f} days ago, {left.bytes:,} bytes"
        yield Finding("staging", left.where, what, lambda: clean(lake, older_than_days=1))


def _models(registry: Registry) -> Iterator[Finding]:
    for manifest in registry.manifests():
        try:
            registry.content(manifest)
        except LakescoreError as error:
            yield Finding("model", str(error.where), error.what)
