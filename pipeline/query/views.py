"""The public views over a lake; each is a file in `sql/query/views/`.

    runs                    what each run was about, and what it did
    predictions             one row per day and key, from the model version that completed last on that day
    predictions_by_version  one row per day, key and model version: the newest revision
    predictions_history     every revision
    quarantine              the rows that are currently rejected
    quality                 every validation result
    profiles, drift         what each day looked like, and how it compares
    performance, labels     how good the predictions were, and the actual labels
    deliveries              what was sent to the targets of a job
    exports, flags          who is in an export, and which cases are flagged: `handed_over.py`
    unscored                the input of one job, with its day: `unscored.py`

They select from the schema `stored`, which this module builds from the lake's files. It reads either fixed lists of
files (`lakescore query`), or patterns that also match later files (`lakescore catalog`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import duckdb
from duckdb import ColumnExpression, ConstantExpression

from pipeline.columns import HIVE as FOLDERS
from pipeline.columns import RESERVED
from pipeline.database import sql_files
from pipeline.database.aligning import aligned, union, with_key_text
from pipeline.database.connection import as_patterns, empty_relation, read_parquet, translated_errors
from pipeline.database.folders import partition_value
from pipeline.errors import LakeDamaged
from pipeline.lake.layout import Lake, Partition
from pipeline.query import handed_over
from pipeline.query.stored_columns import FILE, LABELS, OF_DAYS, PREDICTIONS, QUALITY, QUARANTINE

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation

TEXTS = {
    "runs": "query/views/runs",
    "predictions_history": "query/views/predictions_history",
    "predictions_by_version": "query/views/predictions_by_version",
    "predictions": "query/views/predictions",
    "quarantine": "query/views/quarantine",
    "quality": "query/views/quality",
    "profiles": "query/views/profiles",
    "drift": "query/views/drift",
    "performance": "query/views/performance",
    "labels": "query/views/labels",
    "deliveries": "query/views/deliveries",
    "exports": "query/views/exports",
    "flags": "query/views/flags",
}
"""Names and SQL files of the views that every lake has, each after those that it reads; `unscored` belongs to a job."""
NAMES = tuple(TEXTS)


def create(
    con: Connection,
    lake: Lake,
    names: Collection[str] = NAMES,
    *,
    lasting: bool = False,
    only: Mapping[str, Collection[str]] | None = None,
) -> list[str]:
    """Creates the named views and those that they read; returns the files that they need.

    With `lasting` they read patterns with absolute paths. `only` are the periods of each job that are wanted: of these
    alone, run records, deliveries, exports, flags and labels are listed and read. Raises LakeDamaged if a run record
    cannot be read, UnreadableFile if a Parquet file cannot.
    """
    wanted = {*names, "runs"} | ({"predictions_by_version"} if "predictions" in names else set())
    maker = Maker(con, lake, lasting, only)
    maker.run_records()
    if any(name.startswith("predictions") for name in wanted):
        maker.predictions()
    if "quarantine" in wanted:
        maker.quarantine()
    if "quality" in wanted:
        maker.quality()
    for name in wanted & OF_DAYS.keys():
        maker.of_days(name)
    if "labels" in wanted:
        maker.labels()
    if wanted & {"deliveries", *handed_over.TABLES}:
        maker.deliveries()
    for name in wanted & handed_over.TABLES.keys():
        handed_over.create(maker, name)
    for name, text in TEXTS.items():
        if name in wanted:
            con.execute(
                f"CREATE VIEW {name} AS {sql_files.load(text)}"
            )  # con.sql(...).create_view would bind it three times
    return maker.files


class _Kind(NamedTuple):
    """What distinguishes the partitions of predictions that one view can read from others."""

    job: str
    key: tuple[str, ...]
    revised: bool
    """Whether the partition holds later revisions, so that the newest of each key has to be found."""


@dataclass
class Maker:
    con: Connection
    lake: Lake
    lasting: bool
    only: Mapping[str, Collection[str]] | None = None
    files: list[str] = field(default_factory=list)
    """Absolute paths or patterns of the files that the views read."""

    def __post_init__(self) -> None:
        self.con.execute("CREATE SCHEMA IF NOT EXISTS stored")

    # The schema `stored`

    def run_records(self) -> None:
        """Creates `stored.run_records`: a table, so that records are read once, or a view if `lasting`."""
        self.documents("run_files", "runs/job=*/ds=*/*.json")
        with self.in_stored(), _damage_named(self.lake):
            records = self.con.sql(sql_files.load("query/views/run_records"))
            if self.lasting:
                records.create_view("run_records")
            else:
                records.create("run_records")

    def documents(self, name: str, pattern: str) -> None:
        """Creates `stored.<name>`: the content of the JSON files that lie as in `pattern`."""
        folder = pattern.partition("/")[0]
        found = self.listed(folder, ".json")
        content = empty_relation(self.con, {"content": "VARCHAR"})
        if found:
            paths = self._patterns(self.absolute([pattern] if self.lasting else found))
            content = self.con.sql("SELECT content FROM read_text($paths)", params={"paths": paths})
        with self.in_stored():
            content.create_view(name)

    def predictions(self) -> None:
        """Creates `stored.unrevised` and `stored.revised`: separate, so that most rows need no anti-join."""
        once: list[Relation] = []
        revised: list[Relation] = []
        for kind, paths in self._prediction_files().items():
            found = [with_key_text(relation, kind.key, RESERVED) for relation in self.read(paths, FOLDERS)]
            (revised if kind.revised else once).extend(found)
        rows = aligned([*once, *revised], PREDICTIONS) or [empty_relation(self.con, PREDICTIONS)]
        none = rows[0].filter(ConstantExpression(value=False))
        with self.in_stored():
            union(rows[: len(once)] or [none]).create_view("unrevised")
            union(rows[len(once) :] or [none]).create_view("revised")

    def quarantine(self) -> None:
        newest: dict[str, str] = {}
        for file in self.lake.storage.files("quarantine"):
            folder, _, name = file.path.rpartition("/")
            if name.endswith(".parquet"):
                newest[folder] = file.path  # files are listed in order
        by_job: dict[str, list[str]] = defaultdict(list)
        for folder, key in newest.items():
            by_job[folder.split("/")[1]].append(key)
        if self.lasting:
            by_job = {job: [f"quarantine/{job}/ds=*/*.parquet"] for job in by_job}
        pieces = [
            piece for keys in by_job.values() for piece in self.read(self.absolute(keys), ("job", "ds"), file=True)
        ]
        files = empty_relation(self.con, {"file": "VARCHAR"})
        if pieces:
            paths = self.absolute(chain.from_iterable(by_job.values()))
            files = self.con.sql("SELECT file FROM glob($paths)", params={"paths": self._patterns(paths)})
        with self.in_stored():
            files.create_view("quarantine_files")
            union(aligned(pieces, QUARANTINE) or [empty_relation(self.con, QUARANTINE)]).create_view("quarantine")

    def quality(self) -> None:
        found = [file.path for file in self.lake.storage.files("quality") if file.path.endswith(".parquet")]
        if self.lasting and found:
            found = ["quality/job=*/ds=*/*.parquet"]
        pieces = self.read(self.absolute(found), ("job", "ds")) if found else [empty_relation(self.con, QUALITY)]
        with self.in_stored():
            union(aligned(pieces, QUALITY)).create_view("quality")

    def of_days(self, name: str) -> None:
        """Creates `stored.<name>` from the files that were computed for each day."""
        found = [file.path for file in self.lake.storage.files(name) if "/ds=" in file.path]
        if self.lasting and found:
            found = [f"{name}/job=*/ds=*/model_version=*/*.parquet"]
        pieces = self.read(self.absolute(found), FOLDERS) if found else []
        with self.in_stored():
            union(aligned([*pieces, empty_relation(self.con, OF_DAYS[name])], OF_DAYS[name])).create_view(name)

    def labels(self) -> None:
        keys = {row[0]: row[1] for row in self.con.sql(sql_files.load("query/views/keys")).fetchall()}
        by_job: dict[str, list[str]] = defaultdict(list)
        for path in self.listed("labels", ".parquet"):
            by_job[path.split("/")[1].removeprefix("job=")].append(path)
        pieces = []
        for job, found in by_job.items():
            paths = self.absolute([f"labels/job={job}/ds=*/*.parquet"] if self.lasting else found)
            pieces += [
                with_key_text(piece, keys.get(job, ()), {*RESERVED, *LABELS})
                for piece in self.read(paths, ("job", "ds"), file=True)
            ]
        with self.in_stored():
            union(aligned([*pieces, empty_relation(self.con, LABELS)], LABELS)).create_view("labels")

    def deliveries(self) -> None:
        """Creates `stored.deliveries`, like `stored.run_records`."""
        self.documents("delivery_files", "deliveries/job=*/ds=*/*.json")
        with self.in_stored(), translated_errors(self.lake.storage.where("deliveries")):
            records = self.con.sql(sql_files.load("query/views/delivery_records"))
            (records.create_view if self.lasting else records.create)("deliveries")

    # Files

    def _prediction_files(self) -> dict[_Kind, list[str]]:
        """Returns the part files of all partitions, or patterns for them, by kind."""
        with _damage_named(self.lake):
            rows = self.con.sql(sql_files.load("query/views/keys_by_partition")).fetchall()
        keys = {Partition(job, ds, version): tuple(key) for job, ds, version, key in rows}
        parts = {partition: paths for partition in _partitions(self.lake) if (paths := self._parts(partition))}
        revised = set() if self.lasting else self._revised(chain.from_iterable(parts.values()))
        found: dict[_Kind, list[str]] = defaultdict(list)
        for partition, paths in parts.items():
            key = keys.get(partition, ())
            if self.lasting:
                pattern = self.absolute([f"{partition.folder}/part-*.parquet"])
                found[_Kind(partition.job, key, revised=True)] += pattern
            else:
                found[_Kind(partition.job, key, not revised.isdisjoint(paths))] += paths
        if self.lasting:
            jobs = Counter(kind.job for kind in found)
            for kind in found:
                if jobs[kind.job] == 1:  # then later partitions are taken to be of the same kind
                    found[kind] = self.absolute([f"predictions/job={kind.job}/ds=*/model_version=*/part-*.parquet"])
        return found

    def _parts(self, partition: Partition) -> list[str]:
        return self.absolute(file.path for file in self.lake.parts(partition))

    def _revised(self, paths: Iterable[str]) -> set[str]:
        """Returns the files with revisions above 0. The minima and maxima in the footers spare reading most rows."""
        if not (files := list(paths)):
            return set()
        with translated_errors(self.lake.storage, files):
            rows = read_parquet(self.con, files, filename=FILE).filter(
                ColumnExpression("revision") > ConstantExpression(0)
            )
            return {path for (path,) in rows.select(FILE).distinct().fetchall()}

    def read(self, paths: Sequence[str], folders: Sequence[str] = (), *, file: bool = False) -> list[Relation]:
        """Returns the rows of our own files, with the given folders as columns, and FILE if wanted."""
        columns = ["*" if file else f"* EXCLUDE ({FILE})"]
        columns += [f"{partition_value(folder, FILE)} AS {folder}" for folder in folders]
        return self.select(paths, ", ".join(columns))

    def select(self, paths: Sequence[str], columns: str | Callable[[Sequence[str]], str]) -> list[Relation]:
        """Returns the rows of files, grouped by equal columns, so that the footers are read only once.

        `columns` is the text of a select list, or makes it from the columns of the files and FILE, the path of each
        row's file. `union_by_name` would read all footers each time a view is used: 70 ms for 1,100 files.
        """
        self.files += dict.fromkeys((*paths, *self._patterns(paths)))  # DuckDB asks for both
        with translated_errors(self.lake.storage):
            if self.lasting:
                return [self._parquet(paths, columns)]
            groups = self.con.sql(
                sql_files.load("query/views/columns"), params={"paths": self._patterns(paths)}
            ).fetchall()
            return [self._parquet(group, columns) for (group,) in groups]

    def _parquet(self, paths: Sequence[str], columns: str | Callable[[Sequence[str]], str]) -> Relation:
        """Creates a view `stored.files_<number>` of files or patterns, and returns it.

        It is created from SQL text, with constants written by DuckDB. A view created from a relation fixes its columns
        by position: once a later file has one more, it shows the wrong ones.
        """
        made = self.con.execute("SELECT count(*) FROM duckdb_views() WHERE schema_name = 'stored'").fetchall()[0][0]
        options = {"filename": FILE, "union_by_name": self.lasting, "hive_partitioning": False}
        if not self.lasting:  # other programs' DuckDB answers that the maximum of any such column is NaN
            options["can_have_nan"] = True
        arguments = [str(ConstantExpression(self._patterns(paths)))]
        arguments += [f"{option} = {ConstantExpression(value)}" for option, value in options.items()]
        rows, name = f"FROM read_parquet({', '.join(arguments)})", f"stored.files_{made}"
        chosen = columns if isinstance(columns, str) else columns(self.con.sql(rows).columns)
        self.con.execute(f"CREATE VIEW {name} AS {rows} SELECT {chosen}")
        return self.con.view(name)

    def listed(self, folder: str, ending: str) -> list[str]:
        """Returns the files of a kind that lies in folders of jobs and periods, in order."""
        within = [folder]
        if self.only is not None:
            within = [f"{folder}/job={job}/ds={ds}" for job, periods in self.only.items() for ds in sorted(periods)]
        found = chain.from_iterable(map(self.lake.storage.files, within))
        return [file.path for file in found if file.path.endswith(ending)]

    def absolute(self, keys: Iterable[str]) -> list[str]:
        return [self.lake.storage.where(key) for key in keys]

    def _patterns(self, paths: Iterable[str]) -> list[str]:
        """Returns absolute paths as DuckDB takes them literally; of lasting views, only the lake's root is literal."""
        if not self.lasting:
            return as_patterns(paths)
        root = self.lake.storage.where("x").removesuffix("x")
        (literal,) = as_patterns([root])
        return [literal + path.removeprefix(root) if path.startswith(root) else path for path in paths]

    @contextmanager
    def in_stored(self) -> Iterator[None]:
        """Everything created inside goes to the schema `stored`."""
        self.con.execute("USE stored")
        try:
            yield
        finally:
            self.con.execute("USE main")


def _partitions(lake: Lake) -> Iterator[Partition]:
    for folder in lake.storage.folders("predictions"):
        job = folder.removeprefix("job=")
        for ds in lake.prediction_days(job):
            for version in lake.versions(job, ds):
                yield Partition(job, ds, version)


@contextmanager
def _damage_named(lake: Lake) -> Iterator[None]:
    """Raises LakeDamaged with the name of the run record that cannot be read."""
    try:
        yield
    except (duckdb.DataError, duckdb.ProgrammingError) as error:  # its content; others are about memory, or the storage
        for job in lake.records.jobs():
            for ds in lake.records.days(job):
                lake.records.of_day(job, ds)
        raise LakeDamaged("a run record cannot be read", where=lake.storage.where("runs"), got=str(error)) from error
