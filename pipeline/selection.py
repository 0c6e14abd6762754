"""The plan: which rows a run is about. SQL selects; the views that it selects from are made here.

unscored       the input as it is: the job's files, or its SELECT over its sources
candidates     of it the columns that matter, with `__key`: the key, as a tuple if it has several columns
duplicates     keys that stand more than once
selected       the candidates, one row a key, that break no rule of the input's suite
keyed          only if there are such rules: the candidates, one row a key, with the rules that each breaks
latest         the newest prediction of each key in this partition
other_versions keys that another model version has scored
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import duckdb
from duckdb import ColumnExpression, ConstantExpression

from pipeline import database, queries, unscored
from pipeline.context import Context
from pipeline.errors import InputMissing, QualityStop, SchemaMismatch, nearest
from pipeline.keys import canonical, check_stored_key, feature_type, key_expression
from pipeline.lake import Partition
from pipeline.records import FileInfo, Plan, Term

if TYPE_CHECKING:
    import pyarrow as pa
    from duckdb import DuckDBPyConnection as Connection

    from pipeline.model.manifest import Manifest

STORED = {"fingerprint": "BIGINT", "revision": "INTEGER"}


@dataclass(frozen=True)
class Selection:
    """The views above, in one connection."""

    con: Connection
    plan: Plan
    partition: Partition
    reads: tuple[str, ...]
    """The files under the views: input and stored predictions."""

    @property
    def schema(self) -> pa.Schema:
        """The key, carried and feature columns of the selected rows."""
        candidates = self.con.view("candidates").limit(0).to_arrow_table().schema
        return candidates.remove(candidates.get_field_index("__key"))

    @property
    def unselected(self) -> str | None:
        """The query of the rows that are rejected before any is scored; None if there are none."""
        if self.plan.broken:
            return "select/unselected_or_broken"
        return "select/unselected" if self.plan.null_keys or self.plan.repeated else None

    def count(self, query: str) -> list[dict[str, int]]:
        """Runs a query of `sql/` and returns its rows."""
        with database.explained(self.partition.folder, self.reads):
            relation = self.con.sql(queries.load(query))
            return [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]

    def term(self, query: str) -> Term:
        return Term(**self.count(query)[0])

    def stored_view(self, name: str, paths: Sequence[str], columns: Sequence[str] = (), prefix: str = "") -> None:
        """Makes a view of files that a run has written: `__key` and the named columns, these with a prefix."""
        types = database.schema(self.con.view("candidates"))
        if paths:
            stored = database.parquet(self.con, paths)
            check_stored_key(self.plan.key, types, database.schema(stored), self.partition.folder)
        else:
            of_key = {column: types[column] for column in self.plan.key}
            stored = database.empty(self.con, of_key | {column: STORED[column] for column in columns})
        renamed = [ColumnExpression(column).alias(prefix + column) for column in columns]
        stored.select(key_expression(self.plan.key, types).alias("__key"), *renamed).create_view(name, replace=True)


@contextmanager
def select(ctx: Context, plan: Plan, partition: Partition) -> Iterator[Selection]:
    """Opens a connection with the views that a plan speaks of. The files are those of the plan, not those of now."""
    with unscored.connection(ctx) as con:
        judged = [rule.kwargs["column"] for rule in plan.broken]
        name = "unmarked" if plan.broken else "candidates"
        _candidates(con, ctx, plan.input, partition.ds, plan.key, (*plan.carry, *judged), plan.features, name)
        stored = unscored.where_all(ctx, (*plan.base, *plan.other_versions))
        selection = Selection(con, plan, partition, (*unscored.paths(ctx, plan.input), *stored))
        if plan.broken:
            _mark_broken(selection, ctx)
        _add_duplicates(con, plan)
        _add_stored(selection, ctx)
        yield selection


@contextmanager
def whole_input(ctx: Context, ds: str) -> Iterator[tuple[Connection, dict[str, int]]]:
    """Opens a connection with the view `__input` of a day as it is now, and the counts of its rows and keys.

    `repeated` counts the rows whose key stands more than once. Raises InputMissing or SchemaMismatch.
    """
    files = unscored.input_files(ctx, ds)
    with unscored.connection(ctx) as con, database.explained(unscored.where(files)):
        found = database.schema(unscored.rows(con, ctx, files, ds))
        if missing := [name for name in ctx.job.input.key if name not in found]:
            raise SchemaMismatch(
                f"the input lacks {', '.join(missing)}{nearest(missing[0], list(found))}",
                where=unscored.where(files),
                got=", ".join(found),
                next_step="correct the file, or `key` in job.toml",
            )
        _candidates(con, ctx, files, ds, ctx.job.input.key, (), ())
        uniqueness = con.sql(queries.load("select/uniqueness"))
        counts = dict(zip(uniqueness.columns, uniqueness.fetchall()[0], strict=True))
        counts["repeated"] = 0
        if counts["keys"] != counts["distinct_hashes"]:
            con.sql(queries.load("select/duplicates")).create_view("duplicates")
            counts["repeated"] = con.sql(queries.load("quality/repeated")).fetchall()[0][0]
        yield con, counts


def rows_by_footers(ctx: Context, files: Mapping[str, Sequence[FileInfo]], ds: str, version: str) -> tuple[int, int]:
    """Returns how many rows the input has and how many are stored, as the files' footers tell it: a guess at a run."""
    base = ctx.lake.parts(Partition(ctx.job.name, ds, version))
    found, stored = unscored.paths(ctx, files), unscored.where_all(ctx, base)
    with unscored.connection(ctx) as con, database.explained(unscored.where(files), [*found, *stored]):
        return database.rows(con, found), database.rows(con, stored) if stored else 0


def make_plan(
    ctx: Context,
    manifest: Manifest,
    ds: str,
    files: dict[str, tuple[FileInfo, ...]],
    meanwhile: Callable[[], None] | None = None,
) -> Plan:
    """Looks at checked input and at what is stored, and freezes what a run of this day is about. Writes nothing.

    `meanwhile` is called when the rows are about to be read, and finds a core free for what it begins.
    Raises InputMissing if there is no row, or QualityStop where a policy says `fail`.
    """
    job, lake = ctx.job, ctx.lake
    partition = Partition(job.name, ds, manifest.version)
    features = manifest.signature.features
    base = lake.parts(partition)
    others = [
        file
        for version in lake.versions(job.name, ds)
        if version != partition.version
        for file in lake.parts(Partition(job.name, ds, version))
    ]
    where = unscored.where(files)
    with unscored.connection(ctx, spare=1 if meanwhile else 0) as con:
        _candidates(con, ctx, files, ds, job.input.key, job.input.carry, features)
        with database.explained(where, unscored.paths(ctx, files)):
            if meanwhile is not None:
                meanwhile()
            found = con.sql(queries.load("select/uniqueness"))
            counts = dict(zip(found.columns, found.fetchall()[0], strict=True))
            repeated = counts["keys"] != counts["distinct_hashes"]
            if repeated and job.policy.conflicting_duplicates == "fail":
                _refuse_conflicts(con, files)
    if counts["rows"] == 0:
        raise InputMissing(f"the input of {ds} has no rows", where=where, next_step="import the day again")
    if (without := counts["rows"] - counts["keys"]) and job.policy.null_keys == "fail":
        raise QualityStop(
            f"{without} rows have no key",
            where=where,
            expected="null_keys = 'quarantine', or no such row",
        )
    return Plan(
        input=files,
        base=base,
        other_versions=tuple(others),
        key=job.input.key,
        carry=job.input.carry,
        features=features,
        candidates=Term(rows=counts["rows"], hash_sum=counts["hash_sum"]),
        null_keys=without,
        repeated=repeated,
        duckdb=duckdb.__version__,
    )


def _candidates(  # noqa: PLR0917 - what makes the view
    con: Connection,
    ctx: Context,
    files: Mapping[str, Sequence[FileInfo]],
    ds: str,
    key: Sequence[str],
    carry: Sequence[str],
    features: Sequence[str],
    name: str = "candidates",
) -> None:
    """Makes the view `candidates`: `__key`, then key, carried and feature columns, each once."""
    with database.explained(unscored.where(files)):
        rows = unscored.rows(con, ctx, files, ds)
        rows.create_view("__input", replace=True)
        types = database.schema(rows)
        columns = [key_expression(key, types).alias("__key")]
        for column in dict.fromkeys((*key, *carry, *features)):
            kind = canonical(types[column]) if column in key else types[column]
            kind = feature_type(kind) if column in features else kind
            columns.append(ColumnExpression(column).cast(kind).alias(column))
        rows.select(*columns).create_view(name, replace=True)


def _refuse_conflicts(con: Connection, files: Mapping[str, Sequence[FileInfo]]) -> None:
    conflicting = con.sql(queries.load("select/duplicates")).filter(ColumnExpression("conflicting"))
    if keys := conflicting.aggregate("count(*)").fetchall()[0][0]:
        raise QualityStop(
            f"{keys:,} keys have rows that differ",
            where=unscored.where(files),
            expected="one row a key, or conflicting_duplicates = 'quarantine' in job.toml",
        )


def _add_duplicates(con: Connection, plan: Plan) -> None:
    if plan.repeated:
        con.sql(queries.load("select/duplicates")).create("duplicates")
    else:
        key = con.view("candidates").select("__key").filter(ConstantExpression(value=False))
        columns = (ConstantExpression(0).alias("copies"), ConstantExpression(value=False).alias("conflicting"))
        key.select(ColumnExpression("__key"), *columns).create_view("duplicates")
    keyed = con.sql(queries.load("select/selected")) if plan.repeated or plan.null_keys else con.view("candidates")
    keyed.create_view("keyed" if plan.broken else "selected")
    if plan.broken:
        con.sql(queries.load("select/passing")).create_view("selected")


def _mark_broken(selection: Selection, ctx: Context) -> None:
    """Adds to the candidates, as `__broken`, the rules that each breaks, but for what a person has released."""
    from pipeline.quality import rowrules

    con, plan = selection.con, selection.plan
    rowrules.mark(con.view("unmarked"), plan.broken).create_view("marked")
    con.view("marked").create_view("candidates")
    if paths := unscored.where_all(ctx, plan.released):
        selection.stored_view("released", paths, ["reasons"])
        con.sql(queries.load("select/unreleased")).create_view("candidates", replace=True)


def _add_stored(selection: Selection, ctx: Context) -> None:
    plan = selection.plan
    selection.stored_view("stored", unscored.where_all(ctx, plan.base), ("fingerprint", "revision"))
    selection.con.sql(queries.load("select/latest")).create_view("latest")
    selection.stored_view("other_versions", unscored.where_all(ctx, plan.other_versions))
