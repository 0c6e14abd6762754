"""Looks for damage: reads every page of the stored data and compares it with the run records.

Each finding says what is wrong, where, and whether `--repair` can fix it. A repair never removes rows: it deletes marks
without a complete run, and old staging. Lost or duplicated rows need a person.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from duckdb import ColumnExpression, FunctionExpression

from pipeline.care import erasures
from pipeline.care.clean import clean
from pipeline.care.erasures import MARK as ERASED
from pipeline.care.erasures import rows_by_records
from pipeline.care.expire import MARK as EXPIRED
from pipeline.care.rollback import MARK as ROLLED_BACK
from pipeline.care.rollback import interrupted
from pipeline.columns import OF_PREDICTION, RESERVED, is_output
from pipeline.database import sql_files
from pipeline.database.connection import connect, read_parquet
from pipeline.errors import LakeDamaged, LakescoreError, UsageError, counted
from pipeline.lake.layout import MARKER, PART, Lake, Partition
from pipeline.records import FileInfo, RunRecord, State
from pipeline.storage.parquet import read_metadata

if TYPE_CHECKING:
    from duckdb import Expression

    from pipeline.model.registry import Registry

FILE = "__file"
PREDICTIONS = re.compile(rf"predictions/job=[^/]+/ds=[^/]+/model_version=[^/]+/(_SUCCESS|{PART.pattern})")
"""The files in the folders of predictions."""
ENDED = {State.complete, State.overtaken, State.superseded}


@dataclass(frozen=True)
class Finding:
    kind: str
    where: str
    what: str
    repair: Callable[[], object] | None = field(default=None, repr=False)
    """Action of `--repair`; None if there is no safe repair."""

    def as_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "where": self.where, "what": self.what, "repairable": self.repair is not None}


def verify(lake: Lake, registry: Registry | None = None) -> Iterator[Finding]:
    """Yields the problems found in a lake and in the models of a registry. Changes nothing.

    Begins with the run records, which say what there must be. Raises UsageError if there is no lake.
    """
    if lake.storage.head(MARKER) is None and not lake.records.jobs() and not lake.storage.folders("predictions"):
        raise UsageError(
            "there is no lake here",
            where=lake.storage.where(""),
            next_step="name it by --lake or LAKESCORE_LAKE; the first run makes one",
        )
    stored = {name.removeprefix("job=") for name in lake.storage.folders("predictions") if name.startswith("job=")}
    yield from _strangers(lake)
    for job in sorted({*lake.records.jobs(), *stored}):
        for ds in sorted({*lake.records.days(job), *lake.prediction_days(job)}):
            found = yield from _records(lake, job, ds)
            records = yield from _rollbacks(lake, found)
            versions = {record.model.version for record in records if _published(record)}
            for version in sorted({*lake.versions(job, ds), *versions}):
                yield from _partition(lake, Partition(job, ds, version), records)
            yield from _quarantine(lake, job, ds)
    yield from _imported(lake)
    yield from _erasures(lake)
    yield from _left(lake)
    if registry is not None:
        yield from _models(registry)


def _strangers(lake: Lake) -> Iterator[Finding]:
    """Finds what does not belong into the folders of predictions, such as a part in a subfolder."""
    for file in lake.storage.files("predictions"):
        if not PREDICTIONS.fullmatch(file.path):
            what = "unexpected file: readers of this folder will fail on it, or count its rows"
            yield Finding("stranger", lake.storage.where(file.path), what)


def _records(lake: Lake, job: str, ds: str) -> Generator[Finding, None, list[RunRecord]]:
    """Yields a finding for each unreadable record; returns the others."""
    found = []
    for file in lake.storage.files(f"runs/job={job}/ds={ds}"):
        name = file.path.rpartition("/")[2]
        if name.endswith(".json"):
            try:
                found.append(lake.records.read(job, ds, name.removesuffix(".json")))
            except LakescoreError as error:
                yield Finding("record", lake.storage.where(file.path), error.what)
    return found


def _rollbacks(lake: Lake, records: list[RunRecord]) -> Generator[Finding, None, list[RunRecord]]:
    """Yields a finding for each rollback that was interrupted; returns the records, without the ledgers of these runs.

    How many of their rows are still stored depends on how far the rollback has come.
    """
    begun = interrupted(lake, records)
    for run in sorted(begun):
        record = next(each for each in records if each.run_id == run)
        where = lake.storage.where(lake.records.key(record.job, record.ds, run))
        yield Finding("rollback", where, f"its rollback has not ended: repeat `lakescore rollback {run}`")
    return [each.with_(ledger=None) if each.run_id in begun else each for each in records]


def _partition(lake: Lake, partition: Partition, records: list[RunRecord]) -> Iterator[Finding]:
    try:
        parts = lake.parts(partition)
    except LakeDamaged as error:
        yield Finding("sequence", str(error.where), error.what)
        return
    of_version = [record for record in records if record.model.version == partition.version]
    expected = sum(map(_published, of_version))
    if expected and not parts:
        what = f"no part file is left of those with the {counted(expected, 'row')} that runs have published"
        yield Finding("lost", lake.storage.where(partition.folder), what)
        return
    by_run: Counter[str] = Counter()
    models = {record.run_id: record.model.digest for record in records}
    digests = {(record.run_id, name): known for record in records for name, known in record.digests.items()}
    erased = Counter({run: rows for (at, run), rows in rows_by_records(lake).items() if at == partition.folder})
    expired = {record.run_id for record in records if record.expired_at is not None}
    of_model: dict[str, str] = {}
    for part in parts:
        found = yield from _file(lake, part, partition, digests)
        if found is not None:
            by_run.update({found.run_id: found.rows})
            erased.update({found.run_id: found.erased})
            expired |= {found.run_id} if found.expired else set()
            of_model[lake.storage.where(part.path)] = found.model_digest or models.get(found.run_id, "")
    if len(of_model) == len(parts):
        yield from _rows(lake, partition, of_version, of_model)
        yield from _ledgers(lake, partition, records, by_run, erased, expired)
    yield from _mark(lake, partition, records)


class _Part(NamedTuple):
    """What a part file says about itself."""

    run_id: str
    rows: int
    model_digest: str
    erased: int
    """Number of rows that were erased from it."""
    expired: bool


def _published(record: RunRecord) -> int:
    """Returns the number of rows that must be stored of a run, as far as none of them was erased."""
    if record.ledger is None or record.state not in ENDED or record.expired_at is not None:
        return 0
    return record.ledger.scored.rows + record.marked.rows


def _file(
    lake: Lake, part: FileInfo, partition: Partition, digests: Mapping[tuple[str, str], tuple[str, ...]]
) -> Generator[Finding, None, _Part | None]:
    """Yields the findings about a part file; returns what it says about itself, or None if it is damaged.

    `digests` are those that the file may have, by run and by the name under which it was staged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    where = lake.storage.where(part.path)
    try:
        content = lake.storage.read(part.path) or b""
        says = read_metadata(pa.BufferReader(content))
        with pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True) as file:
            missing = [name for name in OF_PREDICTION if name not in file.schema_arrow.names]
            rows = sum(batch.num_rows for batch in file.iter_batches())
    except (pa.ArrowException, OSError, LakescoreError) as error:
        yield Finding("file", where, f"cannot be read: {str(error).splitlines()[0]}")
        return None
    if missing:
        yield Finding("schema", where, f"missing columns: {', '.join(missing)}")
        return None
    expected = {"job": partition.job, "ds": partition.ds, "model_version": partition.version}
    if wrong := [f"{name} {says.get(name)!r}" for name in expected if says.get(name) != expected[name]]:
        yield Finding("file", where, f"its metadata does not match its folder: {', '.join(wrong)}")
    run_id, expired = says.get("run_id", ""), EXPIRED in says
    known = digests.get((run_id, says.get("staged", "")))
    emptied = rows == 0 and (expired or ROLLED_BACK in says)
    if known is not None and not emptied and hashlib.sha256(content).hexdigest() not in known:
        yield Finding("altered", where, "its content is not what the run has published: another program has written it")
    return _Part(run_id, rows, says.get("model_digest", ""), int(says.get(ERASED, 0)), expired)


def _rows(lake: Lake, partition: Partition, records: list[RunRecord], of_model: Mapping[str, str]) -> Iterator[Finding]:
    """Yields the findings about keys, revisions and models. `records` are those of the version.

    `of_model` maps the path of each part file to the digest of the model whose predictions it holds.
    """
    if not of_model:
        return
    with connect() as con:
        lake.storage.attach(con)
        stored = read_parquet(con, list(of_model), filename=FILE)
        others = [name for name in stored.columns if name not in {*RESERVED, FILE} and not is_output(name)]
        key = list(records[-1].plan.key) if records else others  # without a record, all columns that may be the key
        columns = (_row(key).alias("__key"), ColumnExpression("revision"), ColumnExpression(FILE).alias("file"))
        stored.select(*columns).create_view("stored")
        doubled = con.sql(sql_files.load("care/doubled")).fetchall()[0][0]
        if len(set(of_model.values())) > 1:
            current = dict(con.sql(sql_files.load("care/current_by_file")).fetchall())
            yield from _mix(lake, partition, records, current, of_model)
    if doubled:
        yield Finding(
            "doubled",
            lake.storage.where(partition.folder),
            f"{counted(doubled, 'row', ('repeats', 'repeat'))} the key and revision of another row",
        )


def _row(key: list[str]) -> Expression:
    return FunctionExpression("row", *(ColumnExpression(name) for name in key))


def _mix(
    lake: Lake,
    partition: Partition,
    records: list[RunRecord],
    current: Mapping[str, int],
    of_model: Mapping[str, str],
) -> Iterator[Finding]:
    """Finds current rows that another model has scored than that of the version's last complete run.

    Rows that are withdrawn or rejected keep their earlier prediction; only a run that has compared models tells how
    many there may be.
    """
    last = next(iter(lake.records.complete(records)), None)
    if last is None or last.ledger is None:
        return
    foreign = sum(rows for path, rows in current.items() if of_model[path] != last.model.digest)
    compared = last.plan.other_models is not None
    if foreign > (last.withdrawn + last.ledger.quarantined.rows if compared else 0):
        yield Finding(
            "mix",
            lake.storage.where(partition.folder),
            f"{foreign:,} of {counted(sum(current.values()), 'current row')} "
            f"{'is' if foreign == 1 else 'are'} not by the model of the last complete run, "
            f"{last.model.name} {last.model.version} with digest {last.model.digest[:16]}"
            + ("" if compared else ": run the day again"),
        )


def _ledgers(
    lake: Lake,
    partition: Partition,
    records: list[RunRecord],
    by_run: Counter[str],
    erased: Counter[str],
    expired: set[str],
) -> Iterator[Finding]:
    """Compares the rows that are stored of each run with its ledger. `erased` are rows, `expired` runs."""
    known = {record.run_id: record for record in records}
    for run, rows in by_run.items():
        if rows and run not in known:
            yield Finding(
                "ledger",
                lake.storage.where(partition.folder),
                f"{counted(rows, 'row')} of run {run}, which has no run record",
            )
    for record in records:
        if record.model.version == partition.version:
            where = lake.storage.where(lake.records.key(record.job, record.ds, record.run_id))
            rows, gone = by_run[record.run_id], erased[record.run_id]
            if what := _ledger(record, rows, gone, expired=record.run_id in expired):
                yield Finding("ledger", where, what)


def _ledger(record: RunRecord, rows: int, erased: int, *, expired: bool) -> str | None:
    """Returns what is wrong with a run of which this many rows are stored, and this many were erased."""
    if record.state is State.rolled_back and rows:
        return f"rolled back, but still has {counted(rows, 'row')}: repeat `lakescore rollback {record.run_id}`"
    if record.ledger is None or record.state not in ENDED:
        return None
    if not record.ledger.balanced:
        return "the ledger does not balance"
    if expired:
        return f"expired, but still has {counted(rows, 'row')}: clean the lake again" if rows else None
    if rows + erased != (published := _published(record)):
        return f"the run published {counted(published, 'row')}, but stored are {rows + erased:,}"
    return None


def _mark(lake: Lake, partition: Partition, records: list[RunRecord]) -> Iterator[Finding]:
    complete = any(record.state is State.complete and record.model.version == partition.version for record in records)
    if lake.storage.head(partition.success) is not None and not complete:
        yield Finding(
            "mark",
            lake.storage.where(partition.success),
            "marked as complete, but no run is complete",
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


def _imported(lake: Lake) -> Iterator[Finding]:
    """Finds copies of text that cannot be read; without them, runs make them again."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for file in lake.storage.files("imported"):
        try:
            with lake.storage.open(file.path) as source, pq.ParquetFile(source) as copy:
                for _ in copy.iter_batches():
                    pass
        except (pa.ArrowException, OSError, LakescoreError) as error:
            what = f"cannot be read: {str(error).splitlines()[0]}; a run makes it again from the text"
            yield Finding("file", lake.storage.where(file.path), what, partial(lake.storage.delete, file.path))


def _erasures(lake: Lake) -> Iterator[Finding]:
    for erasure in erasures.unfinished(lake):
        what = f"an erasure of job {erasure.job} has not ended: repeat `lakescore erase` with the key in this file"
        yield Finding("erasure", erasures.where(lake, erasure), what)


def _left(lake: Lake) -> Iterator[Finding]:
    """Finds staging, rejected work and partially written files more than a day old."""
    for left in clean(lake, older_than_days=1, dry_run=True):
        what = f"left behind {left.age_days:.0f} days ago, {left.bytes:,} bytes"
        yield Finding("staging", left.where, what, lambda: clean(lake, older_than_days=1))


def _models(registry: Registry) -> Iterator[Finding]:
    for manifest in registry.manifests():
        try:
            registry.content(manifest)
        except LakescoreError as error:
            yield Finding("model", str(error.where), error.what)
