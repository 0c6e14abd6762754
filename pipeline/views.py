"""The views for people over a lake; each is a file of `sql/views/`.

    runs                    what each run was about, and what it did
    predictions             one row a key: of the model version that completed last on that day
    predictions_by_version  one row a key and model version: its newest revision
    predictions_history     every revision
    quarantine              the rows that are rejected now
    quality                 every result of a validation
    profiles, drift         what each day looked like, and how it compares
    performance, labels     how good its predictions were, and what came true
    unscored                the input of one job, with its day

They rest on the schema `stored`: what lies in the lake's files, put together here. It reads lists of files, which no
other file can join (`lakescore query`), or patterns, which find files that come later too (`lakescore catalog`).
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import duckdb
from duckdb import ConstantExpression, StarExpression

from pipeline import database, queries
from pipeline.errors import LakeDamaged
from pipeline.job import Job
from pipeline.lake import Lake, Partition
from pipeline.relations import aligned, union, with_day, with_key_text
from pipeline.reserved import RESERVED

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation

TEXTS = {
    "runs": "views/runs",
    "predictions_history": "views/predictions_history",
    "predictions_by_version": "views/predictions_by_version",
    "predictions": "views/predictions",
    "quarantine": "views/quarantine",
    "quality": "views/quality",
    "profiles": "views/profiles",
    "drift": "views/drift",
    "performance": "views/performance",
    "labels": "views/labels",
}
"""The views that any lake has, each after those that it rests on; `unscored` is of a job."""
NAMES = tuple(TEXTS)
ANY_DAY = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]"
FILE = "__file"

PREDICTIONS = {
    "prediction": "VARCHAR",
    "prediction_proba": "FLOAT",
    "prob_class_0": "FLOAT",
    "prob_class_1": "FLOAT",
    "value": "FLOAT",
    "top_items": "VARCHAR[]",
    "top_scores": "FLOAT[]",
    "scored_at": "TIMESTAMPTZ",
    "run_id": "VARCHAR",
    "reason": "VARCHAR",
    "fingerprint": "BIGINT",
    "revision": "INTEGER",
    "job": "VARCHAR",
    "ds": "VARCHAR",
    "model_version": "VARCHAR",
    "key_text": "VARCHAR",
}
"""The columns that predictions have in any lake, also an empty one. Those of key and further classes come on top."""
QUARANTINE = {
    "reasons": "VARCHAR[]",
    "run_id": "VARCHAR",
    "quarantined_at": "TIMESTAMPTZ",
    "job": "VARCHAR",
    "ds": "VARCHAR",
    FILE: "VARCHAR",
}

QUALITY = {
    "run_id": "VARCHAR",
    "job": "VARCHAR",
    "ds": "VARCHAR",
    "model_version": "VARCHAR",
    "suite": "VARCHAR",
    "name": "VARCHAR",
    "expectation": "VARCHAR",
    "column": "VARCHAR",
    "severity": "VARCHAR",
    "success": "BOOLEAN",
    "outcome": "VARCHAR",
    "observed": "VARCHAR",
    "unexpected": "BIGINT",
    "share": "DOUBLE",
    "engine": "VARCHAR",
    "validated_at": "TIMESTAMPTZ",
}

HIVE = {"job": "VARCHAR", "ds": "VARCHAR"}
OF_DAYS = {
    "profiles": HIVE
    | {"model_version": "VARCHAR", "run_id": "VARCHAR", "profiled_at": "TIMESTAMPTZ"}
    | dict.fromkeys(("slice_column", "slice", "kind", "column_name"), "VARCHAR")
    | dict.fromkeys(("rows", "nulls", "nans", "infinite"), "BIGINT")
    | dict.fromkeys(("low", "high", "mean", "deviation", "m2"), "DOUBLE")
    | {"quantiles": "DOUBLE[]", "edges": "DOUBLE[]", "labels": "VARCHAR[]", "counts": "BIGINT[]"},
    "drift": HIVE
    | dict.fromkeys(("model_version", "run_id", "slice_column", "slice", "kind", "column_name"), "VARCHAR")
    | {"reference": "VARCHAR", "outcome": "VARCHAR"}
    | dict.fromkeys(("psi", "js", "mean_shift", "excess", "threshold", "p_value", "p_adjusted"), "DOUBLE")
    | dict.fromkeys(("rows", "reference_rows", "reference_days", "bins"), "BIGINT")
    | dict.fromkeys(("dispersion", "missing", "reference_missing"), "DOUBLE")
    | {"computed_at": "TIMESTAMPTZ"},
    "performance": HIVE
    | {"model_version": "VARCHAR", "run_id": "VARCHAR", "class": "VARCHAR", "rows": "BIGINT", "positives": "BIGINT"}
    | dict.fromkeys(("auc", "log_loss", "brier", "mean_score", "base_rate", "calibration_error"), "DOUBLE")
    | {
        "calibration": "STRUCT(low DOUBLE, high DOUBLE, rows BIGINT, mean_score DOUBLE, share DOUBLE)[]",
        "predictions": "BIGINT",
        "computed_at": "TIMESTAMPTZ",
    },
}
"""What is computed of each day, by the folder in which it lies: one file a run, `<folder>/job=/ds=/model_version=/`."""
LABELS = {"label": "VARCHAR", "key_text": "VARCHAR", FILE: "VARCHAR"} | HIVE


def create(con: Connection, lake: Lake, names: Collection[str] = NAMES, *, lasting: bool = False) -> list[str]:
    """Makes the named views, and those that they rest on; returns the files that reading them needs.

    With `lasting` they read patterns with absolute paths. Raises LakeDamaged for a run record that cannot be read,
    UnreadableFile for a Parquet file.
    """
    wanted = {*names, "runs"} | ({"predictions_by_version"} if "predictions" in names else set())
    maker = _Maker(con, lake, lasting)
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
    for name, text in TEXTS.items():
        if name in wanted:
            con.execute(f"CREATE VIEW {name} AS {queries.load(text)}")  # con.sql(...).create_view binds three times
    return maker.files


def create_unscored(con: Connection, lake: Lake, job: Job, *, lasting: bool = False) -> list[str]:
    """Makes the view `unscored` of a job's input, or one for each source of its SELECT; returns the files.

    Each has the column `ds`. A source with the name of another view is left out.
    """
    maker = _Maker(con, lake, lasting)
    for name, pattern in job.input.patterns.items():
        if name not in NAMES:
            maker.input(name, pattern)
    return maker.files


class _Kind(NamedTuple):
    """What the run records say of a partition of predictions."""

    job: str
    key: tuple[str, ...]
    revised: bool
    """Whether a key may stand there twice, so that its newest row has to be found."""


@dataclass
class _Maker:
    con: Connection
    lake: Lake
    lasting: bool
    files: list[str] = field(default_factory=list)
    """What the views read, absolute."""

    def __post_init__(self) -> None:
        self.con.execute("CREATE SCHEMA IF NOT EXISTS stored")

    # What the views read

    def run_records(self) -> None:
        """Reads the records once and keeps them, unless the views are to last."""
        found = [file.path for file in self.lake.storage.files("runs") if file.path.endswith(".json")]
        if found:
            paths = self._absolute(["runs/job=*/ds=*/*.json"] if self.lasting else found)
            content = self.con.sql("SELECT content FROM read_text($paths)", params={"paths": paths})
        else:
            content = database.empty(self.con, {"content": "VARCHAR"})
        with self._in_stored(), _damage_named(self.lake):
            content.create_view("run_files")
            records = self.con.sql(queries.load("views/run_records"))
            if self.lasting:
                records.create_view("run_records")
            else:
                records.create("run_records")

    def predictions(self) -> None:
        """Puts together `stored.unrevised` and `stored.revised`: apart, so that most rows need no anti-join."""
        once: list[Relation] = []
        revised: list[Relation] = []
        for kind, paths in self._prediction_files().items():
            found = [with_key_text(relation, kind.key, RESERVED) for relation in self._read(paths)]
            (revised if kind.revised else once).extend(found)
        rows = aligned([*once, *revised], PREDICTIONS) or [database.empty(self.con, PREDICTIONS)]
        none = rows[0].filter(ConstantExpression(value=False))
        with self._in_stored():
            union(rows[: len(once)] or [none]).create_view("unrevised")
            union(rows[len(once) :] or [none]).create_view("revised")

    def quarantine(self) -> None:
        newest: dict[str, str] = {}
        for file in self.lake.storage.files("quarantine"):
            folder, _, name = file.path.rpartition("/")
            if name.endswith(".parquet"):
                newest[folder] = file.path  # files come in order
        by_job: dict[str, list[str]] = defaultdict(list)
        for folder, key in newest.items():
            by_job[folder.split("/")[1]].append(key)
        if self.lasting:
            by_job = {job: [f"quarantine/{job}/ds=*/*.parquet"] for job in by_job}
        pieces = [piece for keys in by_job.values() for piece in self._read(self._absolute(keys), FILE)]
        files = database.empty(self.con, {"file": "VARCHAR"})
        if pieces:
            paths = self._absolute(chain.from_iterable(by_job.values()))
            files = self.con.sql("SELECT file FROM glob($paths)", params={"paths": paths})
        with self._in_stored():
            files.create_view("quarantine_files")
            union(aligned(pieces, QUARANTINE) or [database.empty(self.con, QUARANTINE)]).create_view("quarantine")

    def quality(self) -> None:
        found = [file.path for file in self.lake.storage.files("quality") if file.path.endswith(".parquet")]
        if self.lasting and found:
            found = ["quality/job=*/ds=*/*.parquet"]
        pieces = self._read(self._absolute(found)) if found else [database.empty(self.con, QUALITY)]
        with self._in_stored():
            union(aligned(pieces, QUALITY)).create_view("quality")

    def of_days(self, name: str) -> None:
        """Makes `stored.<name>` of what was computed of each day."""
        found = [file.path for file in self.lake.storage.files(name) if "/ds=" in file.path]
        if self.lasting and found:
            found = [f"{name}/job=*/ds=*/model_version=*/*.parquet"]
        pieces = self._read(self._absolute(found)) if found else []
        with self._in_stored():
            union(aligned([*pieces, database.empty(self.con, OF_DAYS[name])], OF_DAYS[name])).create_view(name)

    def labels(self) -> None:
        keys = {row[0]: row[1] for row in self.con.sql(queries.load("views/keys")).fetchall()}
        by_job: dict[str, list[str]] = defaultdict(list)
        for file in self.lake.storage.files("labels"):
            if file.path.endswith(".parquet"):
                by_job[file.path.split("/")[1].removeprefix("job=")].append(file.path)
        pieces = []
        for job, found in by_job.items():
            paths = self._absolute([f"labels/job={job}/ds=*/*.parquet"] if self.lasting else found)
            pieces += [
                with_key_text(piece, keys.get(job, ()), {*RESERVED, *LABELS}) for piece in self._read(paths, FILE)
            ]
        with self._in_stored():
            union(aligned([*pieces, database.empty(self.con, LABELS)], LABELS)).create_view("labels")

    def input(self, name: str, pattern: str) -> None:
        """Makes a view of input with its day: the column `ds` of a folder `ds=...`, or else taken from the path."""
        found = [file.path for file in self.lake.storage.glob(pattern.replace("{ds}", ANY_DAY))]
        if not found:
            database.empty(self.con, {"ds": "VARCHAR"}).create_view(name)
            return
        if self.lasting:
            folder, slash, last = pattern.replace("{ds}", ANY_DAY).rpartition("/")
            visible = "[!._]" if last.startswith("*") else ""
            found = [f"{folder}{slash}{visible}{last}"]
        pieces = self._read(self._absolute(found), FILE)
        if "ds={ds}/" not in pattern:
            fixed = re.split(r"[*?\[]|{ds}", self._absolute([pattern])[0])[0]
            pieces = [with_day(piece, FILE, len(fixed)) for piece in pieces]
        rows = union(aligned(pieces, {"ds": "VARCHAR"}))
        rows.select(StarExpression(exclude=[FILE])).create_view(name)

    # Files

    def _prediction_files(self) -> dict[_Kind, list[str]]:
        """Returns the part files of all partitions, or patterns for them, those of one kind together."""
        with _damage_named(self.lake):
            known = {
                Partition(job, ds, version): (tuple(key), revised)
                for job, ds, version, key, revised in self.con.sql(queries.load("views/partitions")).fetchall()
            }
        found: dict[_Kind, list[str]] = defaultdict(list)
        for partition in _partitions(self.lake):
            if parts := self.lake.parts(partition):
                key, revised = known.get(partition, ((), True))
                if self.lasting:
                    found[_Kind(partition.job, key, revised=True)].append(f"{partition.folder}/part-*.parquet")
                else:
                    found[_Kind(partition.job, key, revised)] += (file.path for file in parts)
        if self.lasting:
            jobs = Counter(kind.job for kind in found)
            for kind in found:
                if jobs[kind.job] == 1:  # then later partitions are like these
                    found[kind] = [f"predictions/job={kind.job}/ds=*/model_version=*/part-*.parquet"]
        return {kind: self._absolute(keys) for kind, keys in found.items()}

    def _read(self, paths: Sequence[str], file: str | None = None) -> list[Relation]:
        """Returns the rows of files, those of equal columns together: so their footers are read once.

        `union_by_name` reads all of them each time that a view is used: 70 ms for 1,100 files.
        """
        self.files += paths
        with database.explained(self.lake.storage):
            if self.lasting:
                return [self._parquet(paths, file)]
            groups = self.con.sql(queries.load("views/columns"), params={"paths": paths}).fetchall()
            return [self._parquet(group, file) for (group,) in groups]

    def _parquet(self, paths: Sequence[str], file: str | None) -> Relation:
        """Makes a view `stored.files_<number>` of files or patterns, and returns it.

        It is made of text, in which DuckDB itself writes the constants. A view made of a relation counts its columns:
        once a later file has one more, it shows the wrong ones.
        """
        made = self.con.execute("SELECT count(*) FROM duckdb_views() WHERE schema_name = 'stored'").fetchall()[0][0]
        options = {"filename": file or False, "union_by_name": self.lasting}
        options |= {"hive_partitioning": True, "hive_types_autocast": False}
        arguments = [str(ConstantExpression(list(paths)))]
        arguments += [f"{option} = {ConstantExpression(value)}" for option, value in options.items()]
        name = f"stored.files_{made}"
        self.con.execute(f"CREATE VIEW {name} AS FROM read_parquet({', '.join(arguments)})")
        return self.con.view(name)

    def _absolute(self, keys: Iterable[str]) -> list[str]:
        return [self.lake.storage.where(key) for key in keys]

    @contextmanager
    def _in_stored(self) -> Iterator[None]:
        """What is made inside goes to the schema `stored`."""
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
    except duckdb.Error as error:
        for folder in lake.storage.folders("runs"):
            job = folder.removeprefix("job=")
            for ds in lake.run_days(job):
                lake.records(job, ds)
        raise LakeDamaged("a run record cannot be read", where=lake.storage.where("runs"), got=str(error)) from error
