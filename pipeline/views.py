"""The views for people over a lake; each is a file of `sql/views/`.

    runs                    what each run was about, and what it did
    predictions             one row a key: of the model version that completed last on that day
    predictions_by_version  one row a key and model version: its newest revision
    predictions_history     every revision
    quarantine              the rows that are rejected now
    unscored                the input of one job, with its day

They rest on the schema `stored`, which holds what lies in the files: `run_files`, `run_records`, `predictions`,
`quarantine` and `quarantine_files`. It is made here, either from lists of files, which no other file can join
(`lakescore query`), or from patterns, which find files that come later too (`lakescore catalog`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import duckdb
from duckdb import ColumnExpression, ConstantExpression, FunctionExpression, SQLExpression, StarExpression

from pipeline import database, queries
from pipeline.errors import LakeDamaged
from pipeline.job import RESERVED, Job
from pipeline.lake import Lake, Partition

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation
    from duckdb import Expression

DAY = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]"
NUMBERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT")
NUMBERS += ("UHUGEINT", "FLOAT", "DOUBLE", "DECIMAL")
FILE = "__file"

PREDICTIONS = {
    "prediction": "VARCHAR",
    "prediction_proba": "FLOAT",
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
"""Columns that `predictions` has in any lake, also in one without predictions; the key's and the model's come on top."""
QUARANTINE = {
    "reasons": "VARCHAR[]",
    "run_id": "VARCHAR",
    "quarantined_at": "TIMESTAMPTZ",
    "job": "VARCHAR",
    "ds": "VARCHAR",
    FILE: "VARCHAR",
}


def create(con: Connection, lake: Lake, *, lasting: bool = False) -> list[str]:
    """Makes all views but `unscored`, and returns the files that reading them needs.

    With `lasting` they read patterns instead of lists, with absolute paths. Raises LakeDamaged for a run record that
    cannot be read, UnreadableFile for a damaged Parquet file.
    """
    con.execute("CREATE SCHEMA stored")
    _create_runs(con, lake, lasting=lasting)
    parts = _create_predictions(con, lake, lasting=lasting)
    rejected = _create_quarantine(con, lake, lasting=lasting)
    con.sql(queries.load("views/predictions_history")).create_view("predictions_history")
    con.sql(queries.load("views/predictions_by_version")).create_view("predictions_by_version")
    con.sql(queries.load("views/predictions")).create_view("predictions")
    con.sql(queries.load("views/quarantine")).create_view("quarantine")
    return [*parts, *rejected]


def _create_runs(con: Connection, lake: Lake, *, lasting: bool) -> None:
    """The records are read once and kept, unless the views are to last."""
    found = [file.path for file in lake.storage.files("runs") if file.path.endswith(".json")]
    paths = (
        [_absolute(lake, "runs/job=*/ds=*/*.json")] if lasting and found else [_absolute(lake, key) for key in found]
    )
    content = con.sql("SELECT content FROM read_text($paths)", params={"paths": paths}) if paths else None
    _stored(con, "run_files", content or database.empty(con, {"content": "VARCHAR"}))
    records = con.sql(queries.load("views/run_records"))
    if lasting:
        _stored(con, "run_records", records)
    else:
        try:
            con.execute("USE stored")
            records.create("run_records")
        except duckdb.Error as error:
            raise _damaged_record(lake, error) from error
        finally:
            con.execute("USE main")
    con.sql(queries.load("views/runs")).create_view("runs")


def _create_predictions(con: Connection, lake: Lake, *, lasting: bool) -> list[str]:
    partitions = {each: [_absolute(lake, file.path) for file in lake.parts(each)] for each in _partitions(lake)}
    keys = _keys(con)
    by_key: dict[tuple[str, tuple[str, ...]], list[Partition]] = defaultdict(list)
    for partition, paths in partitions.items():
        if paths:
            by_key[partition.job, keys.get(partition, ())].append(partition)
    pieces = []
    for (_, key), group in by_key.items():
        paths = [path for partition in group for path in partitions[partition]]
        pieces += [_with_key_text(piece, key) for piece in _read(con, paths)]
    _stored(con, "predictions", _union(con, pieces, PREDICTIONS))
    return [path for paths in partitions.values() for path in paths]


def _create_quarantine(con: Connection, lake: Lake, *, lasting: bool) -> list[str]:
    newest: dict[str, str] = {}
    for file in lake.storage.files("quarantine"):
        name = PurePosixPath(file.path)
        if name.suffix == ".parquet" and not name.name.startswith("."):
            newest[str(name.parent)] = _absolute(lake, file.path)
    by_job: dict[str, list[str]] = defaultdict(list)
    for folder, path in newest.items():
        by_job[folder.split("/")[1]].append(path)
    pieces = [piece for paths in by_job.values() for piece in _read(con, paths, filename=FILE)]
    files = con.sql("SELECT unnest($paths) AS file", params={"paths": list(newest.values())}) if newest else None
    _stored(con, "quarantine_files", files or database.empty(con, {"file": "VARCHAR"}))
    _stored(con, "quarantine", _union(con, pieces, QUARANTINE))
    return list(newest.values())


def _partitions(lake: Lake) -> list[Partition]:
    jobs = [name.removeprefix("job=") for name in lake.storage.folders("predictions") if name.startswith("job=")]
    return [
        Partition(job, ds, version)
        for job in jobs
        for ds in lake.prediction_days(job)
        for version in lake.versions(job, ds)
    ]


def _keys(con: Connection) -> dict[Partition, tuple[str, ...]]:
    """Returns the key's columns as the newest complete run of each partition names them, or else its newest run."""
    found = con.sql(
        "SELECT job, ds, model.version, arg_max(plan.key, (state = 'complete', run_id)) FROM stored.run_records GROUP BY ALL"
    ).fetchall()
    return {Partition(job, ds, version): tuple(key) for job, ds, version, key in found}


def _read(con: Connection, paths: Sequence[str], filename: str | None = None) -> list[Relation]:
    """Returns the rows of files, those of equal columns together.

    So their footers are read once; `union_by_name` reads all of them each time that a view is used.
    """
    query = """
        SELECT files FROM (
            SELECT columns, list(file_name) AS files FROM (
                SELECT file_name, list((name, type, duckdb_type) ORDER BY column_id) AS columns
                FROM parquet_schema($paths) GROUP BY file_name
            ) GROUP BY columns
        )
    """
    with database.explained(paths[0]):
        groups = con.sql(query, params={"paths": list(paths)}).fetchall()
    return [_parquet(con, sorted(files), filename=filename) for (files,) in groups]


def _parquet(con: Connection, paths: list[str], *, union: bool = False, filename: str | None = None) -> Relation:
    query = """
        SELECT * FROM read_parquet(
            $paths, hive_partitioning = true, hive_types_autocast = false, union_by_name = $union, filename = $filename)
    """
    return con.sql(query, params={"paths": paths, "union": union, "filename": filename or False})


def _with_key_text(relation: Relation, key: Sequence[str]) -> Relation:
    """Adds `key_text`: the key as people write it. Several columns are joined by commas; `\\,` is one that is no joint."""
    ours = {*RESERVED, *PREDICTIONS}
    names = [name for name in key if name in relation.columns] or [
        name for name in relation.columns if name not in ours and not name.startswith("prob_class_")
    ]
    texts = [ColumnExpression(name).cast("VARCHAR") for name in names]
    if len(texts) > 1:
        texts = [_escaped(text) for text in texts]
    text = texts[0] if len(texts) == 1 else FunctionExpression("concat_ws", ConstantExpression(","), *texts)
    return relation.select(StarExpression(), text.alias("key_text"))


def _escaped(text: Expression) -> Expression:
    for character in ("\\", ","):
        text = FunctionExpression("replace", text, ConstantExpression(character), ConstantExpression("\\" + character))
    return text


def _union(con: Connection, pieces: Sequence[Relation], fixed: Mapping[str, str]) -> Relation:
    """Returns all rows by column name. Types that do not go together become text; the fixed columns are always there."""
    if not pieces:
        return database.empty(con, fixed)
    types: dict[str, set[str]] = defaultdict(set)
    for piece in pieces:
        for name, kind in database.schema(piece).items():
            types[name].add("number" if kind.startswith(NUMBERS) else kind)
    types |= {name: {kind} for name, kind in fixed.items() if name not in types}
    aligned = [
        piece.select(
            *(
                ColumnExpression(name).cast("VARCHAR").alias(name)
                if name in piece.columns and len(kinds) > 1
                else ColumnExpression(name)
                if name in piece.columns
                else ConstantExpression(None).cast(fixed[name] if name in fixed else '"NULL"').alias(name)
                for name, kinds in types.items()
            )
        )
        for piece in pieces
    ]
    return reduce(lambda left, right: left.union(right), aligned)


def _stored(con: Connection, name: str, relation: Relation) -> None:
    con.execute("USE stored")
    try:
        relation.create_view(name)
    finally:
        con.execute("USE main")


def _absolute(lake: Lake, key: str) -> str:
    return str(lake.storage.path(key).absolute())


def _damaged_record(lake: Lake, error: duckdb.Error) -> LakeDamaged:
    return LakeDamaged("x")
