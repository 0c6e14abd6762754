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

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import duckdb
from duckdb import ColumnExpression, ConstantExpression

from pipeline import database, queries
from pipeline.context import Context
from pipeline.errors import InputChanged, InputMissing, JobError, ModelMismatch, QualityStop, SchemaMismatch, nearest
from pipeline.keys import KEY_TYPES, canonical, check_same_key, check_stored_key, feature_type, key_expression
from pipeline.lake import Partition
from pipeline.model.fit import check_fit
from pipeline.model.registry import check_pinned, check_trusted
from pipeline.records import FileInfo, Plan, Term

if TYPE_CHECKING:
    import pyarrow as pa
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation

    from pipeline.model.manifest import Manifest

STORED = {"fingerprint": "BIGINT", "revision": "INTEGER"}
HIVE = ("job", "ds", "model_version")
OF_QUARANTINE = ("reasons", "run_id", "quarantined_at")
"""Our columns beside the features, in the files of rejected rows."""


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
    with _connection(ctx) as con:
        judged = [rule.kwargs["column"] for rule in plan.broken]
        name = "unmarked" if plan.broken else "candidates"
        _candidates(con, ctx, plan.input, partition.ds, plan.key, (*plan.carry, *judged), plan.features, name)
        stored = _where_all(ctx, (*plan.base, *plan.other_versions))
        selection = Selection(con, plan, partition, (*_paths(ctx, plan.input), *stored))
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
    files = input_files(ctx, ds)
    with _connection(ctx) as con, database.explained(_where(files)):
        found = database.schema(unscored(con, ctx, files, ds))
        if missing := [name for name in ctx.job.input.key if name not in found]:
            raise SchemaMismatch(
                f"the input lacks {', '.join(missing)}{nearest(missing[0], list(found))}",
                where=_where(files),
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


def check_input(ctx: Context, manifest: Manifest, ds: str) -> dict[str, tuple[FileInfo, ...]]:
    """Returns the day's input files, whose columns fit the job and the model. Reads footers only.

    Raises InputMissing, SchemaMismatch, UnreadableFile, ModelMismatch, or ModelRefused for code without trust.
    """
    check_pinned(manifest, ctx.job.model.digest)
    check_trusted(manifest, ctx.job.model.trusted)
    files = input_files(ctx, ds)
    with _connection(ctx) as con:
        _check_schema(con, ctx, manifest, files, ds)
    return files


def has_more_rows(ctx: Context, files: Mapping[str, Sequence[FileInfo]], ds: str, version: str) -> bool:
    """Tells from footers whether the input has more rows than are stored, so that some are likely to be new."""
    base = ctx.lake.parts(Partition(ctx.job.name, ds, version))
    if not base:
        return True
    with _connection(ctx) as con, database.explained(_where(files)):
        return database.rows(con, _paths(ctx, files)) > database.rows(con, _where_all(ctx, base))


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
    with _connection(ctx) as con:
        _candidates(con, ctx, files, ds, job.input.key, job.input.carry, features)
        with database.explained(_where(files), _paths(ctx, files)), database.sparing_a_core(con, spare=bool(meanwhile)):
            if meanwhile is not None:
                meanwhile()
            found = con.sql(queries.load("select/uniqueness"))
            counts = dict(zip(found.columns, found.fetchall()[0], strict=True))
            repeated = counts["keys"] != counts["distinct_hashes"]
            if repeated and job.policy.conflicting_duplicates == "fail":
                _refuse_conflicts(con, files)
    if counts["rows"] == 0:
        raise InputMissing(f"the input of {ds} has no rows", where=_where(files), next_step="import the day again")
    if (without := counts["rows"] - counts["keys"]) and job.policy.null_keys == "fail":
        raise QualityStop(
            f"{without} rows have no key", where=_where(files), expected="null_keys = 'quarantine', or no such row"
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


def input_files(ctx: Context, ds: str) -> dict[str, tuple[FileInfo, ...]]:
    """Raises InputMissing if a source has no file for the day."""
    files = ctx.lake.input_files(ctx.job.input.patterns, ds)
    for name, pattern in ctx.job.input.patterns.items():
        if not files[name]:
            days = ctx.lake.input_days([pattern])
            raise InputMissing(
                f"there is no input for {ds}",
                where=ctx.lake.storage.where(pattern.replace("{ds}", ds)),
                got=f"{len(days)} days, {days[0]} to {days[-1]}" if days else "no day at all",
                next_step=f"lakescore import FILES --date {ds}, or lakescore generate --date {ds}",
            )
    return files


def check_input_unchanged(ctx: Context, plan: Plan, ds: str) -> None:
    """Raises InputChanged if the listing of the input is not that of the plan."""
    now = ctx.lake.input_files(ctx.job.input.patterns, ds)
    if now != plan.input:
        changed = {
            file.path for name in plan.input for file in set(plan.input[name]).symmetric_difference(now.get(name, ()))
        }
        raise InputChanged(
            f"the input of {ds} changed while it was scored",
            where=", ".join(sorted(changed)[:3]),
            next_step="run again: what is scored already is kept",
        )


@contextmanager
def _connection(ctx: Context) -> Iterator[Connection]:
    with database.workplace(ctx.job.engine.memory_limit, ctx.job.engine.threads) as con:
        ctx.lake.storage.attach(con)
        yield con


def unscored(con: Connection, ctx: Context, files: Mapping[str, Sequence[FileInfo]], ds: str) -> Relation:
    """Returns the input: the files' rows, or those of the job's SELECT over its sources."""
    for name, found in files.items():
        database.parquet(con, _paths(ctx, {name: found})).create_view(name, replace=True)
    text = ctx.job.select_text
    if text is None:
        return con.view("unscored")
    where = ctx.job.folder / str(ctx.job.input.select)
    try:
        statements = con.extract_statements(text)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise JobError("the job's SQL must be one SELECT", where=where, got=f"{len(statements)} statements")
        parameters = {"ds": ds} if "ds" in statements[0].named_parameters else {}
        return con.sql(text, params=parameters)
    except duckdb.ProgrammingError as error:  # no SQL, or no such table, column or parameter
        raise JobError(f"the job's SELECT does not work: {error}", where=where, expected=", ".join(files)) from None


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
    with database.explained(_where(files)):
        rows = unscored(con, ctx, files, ds)
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
            where=_where(files),
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
    if paths := _where_all(ctx, plan.released):
        selection.stored_view("released", paths, ["reasons"])
        con.sql(queries.load("select/unreleased")).create_view("candidates", replace=True)


def _add_stored(selection: Selection, ctx: Context) -> None:
    plan = selection.plan
    selection.stored_view("stored", _where_all(ctx, plan.base), ("fingerprint", "revision"))
    selection.con.sql(queries.load("select/latest")).create_view("latest")
    selection.stored_view("other_versions", _where_all(ctx, plan.other_versions))


def _check_schema(
    con: Connection, ctx: Context, manifest: Manifest, files: Mapping[str, Sequence[FileInfo]], ds: str
) -> None:
    """Checks columns and types, file by file, before any row is read."""
    needed = (*ctx.job.input.key, *ctx.job.input.carry)
    _check_names(manifest)
    found = database.columns_by_file(con, _paths(ctx, files))
    if ctx.job.input.select:
        found = {str(ctx.job.folder / ctx.job.input.select): database.schema(unscored(con, ctx, files, ds))}
    for where, columns in found.items():
        check_fit(manifest, ctx.job.input.features, columns, where)
        if missing := [name for name in needed if name not in columns]:
            raise SchemaMismatch(
                f"the input lacks {', '.join(missing)}{nearest(missing[0], list(columns))}",
                where=where,
                expected=", ".join(needed),
                got=", ".join(columns),
                next_step="correct the file, or `key` and `carry` in job.toml",
            )
        for name in ctx.job.input.key:
            if canonical(columns[name]) not in KEY_TYPES:
                raise SchemaMismatch(
                    f"column {name} cannot be a key",
                    where=where,
                    expected="an integer of up to 64 bits, text, a date, a timestamp or a boolean",
                    got=columns[name],
                    next_step="write it as one of these, or cast it in the job's SELECT",
                )
        _check_extra(ctx, manifest, columns, where)
    first, *others = found.items()
    for where, columns in others:
        check_same_key(ctx.job.input.key, columns, first[1], "the files of a day have keys of different types", where)
    for path in _witnesses(ctx, ds):
        check_stored_key(ctx.job.input.key, first[1], database.schema(database.parquet(con, [path])), path)


def _witnesses(ctx: Context, ds: str) -> Iterator[str]:
    """Yields a stored file of each version of the day, and one of the newest other day: these tell the stored key."""
    lake, job = ctx.lake, ctx.job.name
    for day in (ds, *sorted(set(lake.prediction_days(job)) - {ds}, reverse=True)):
        parts = [lake.parts(Partition(job, day, version))[:1] for version in lake.versions(job, day)]
        yield from (lake.storage.where(file.path) for found in parts for file in found)
        if day != ds and any(parts):
            return


def _check_names(manifest: Manifest) -> None:
    for name in manifest.signature.features:
        if name.casefold() in OF_QUARANTINE or name.startswith("__"):
            raise ModelMismatch(
                f"a feature of model {manifest.name} {manifest.version} has the name of a column of ours",
                expected=f"other names than {', '.join(OF_QUARANTINE)} and those that begin with __",
                got=name,
                next_step="register it with other names for its features, and rename the columns in the job's SELECT",
            )


def _check_extra(ctx: Context, manifest: Manifest, columns: Iterable[str], where: str) -> None:
    known = {*ctx.job.input.key, *ctx.job.input.carry, *manifest.signature.features, *HIVE}
    if ctx.job.policy.extra_columns == "fail" and (extra := [name for name in columns if name not in known]):
        raise SchemaMismatch(
            f"the input has columns that the job does not know: {', '.join(extra)}",
            where=where,
            next_step="carry them, or set extra_columns = 'ignore'",
        )


def _paths(ctx: Context, files: Mapping[str, Sequence[FileInfo]]) -> list[str]:
    return [ctx.lake.storage.where(file.path) for found in files.values() for file in found]


def _where_all(ctx: Context, files: Iterable[FileInfo]) -> list[str]:
    return [ctx.lake.storage.where(file.path) for file in files]


def _where(files: Mapping[str, Sequence[FileInfo]]) -> str:
    paths = [file.path for found in files.values() for file in found]
    return paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
