"""The rows of a plan, as views in one DuckDB connection, which a `Selection` holds.

unscored       the input: the job's files, or the result of its SELECT over its sources
candidates     the columns of the input that the run needs, with `__key`: the key, a tuple if it has several columns
duplicates     keys that occur more than once
selected       candidates, one row per key, that break no rule of the input's suite
keyed          candidates, one row per key, with the rules that each breaks; only if rows break rules
compared       selected, with a hash of the carried values that can be compared with that of stored predictions
latest         the newest prediction of each key in this partition; without a fingerprint if it is of another model.
               If stored rows were paired by position (`pair_search.py`), these are left out, and older ones may be here
other_versions keys that another model version has scored
staged         keys of the predictions that the run itself has staged so far
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from types import MappingProxyType
from typing import TYPE_CHECKING

from duckdb import ColumnExpression, ConstantExpression

from pipeline.context import Context
from pipeline.database import sql_files, wide
from pipeline.database.connection import column_types, create_view, files_as_text, read_parquet, translated_errors
from pipeline.database.keys import canonical, check_stored_key, feature_type, key_expression
from pipeline.errors import SchemaMismatch, nearest
from pipeline.lake.layout import Partition
from pipeline.records import FileInfo, Plan, Term
from pipeline.selecting.carried import hash_of
from pipeline.selecting.imported import of_plan
from pipeline.selecting.input import (
    connect_for_job,
    describe_files,
    input_paths,
    input_rows,
    readable_input,
    rows_by_path,
    stored_paths,
)
from pipeline.selecting.opening import INPUT, Opened, can_share, open_input, shared_input
from pipeline.selecting.pairing import POSITION, located, within
from pipeline.suite.expectations import columns_of

if TYPE_CHECKING:
    import pyarrow as pa
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation
    from duckdb import Expression

    from pipeline.selecting.pairing import Gap, Pairs


STORED = {"fingerprint": "BIGINT", "revision": "INTEGER"}
CARRIED = "__carried"
"""Column of `compared` and of stored predictions with a hash of the carried values; NULL if they do not matter."""


@dataclass(frozen=True)
class DayInput:
    """The whole input of a day, as a view, and counts of its rows and keys."""

    con: Connection
    rows: int
    null_keys: int
    """Number of rows without a key."""
    repeated: int
    """Number of rows whose key occurs more than once."""
    view: str = INPUT
    """Name of the view, for engines that take a name."""
    by_file: Callable[[], Relation | None] = lambda: None
    """Returns the rows with the column `source.FILE`, the path of each; None if they come from a SELECT."""

    @property
    def relation(self) -> Relation:
        return self.con.view(self.view)


@dataclass(frozen=True)
class Selection:
    """The views listed above, in one connection."""

    con: Connection
    plan: Plan
    partition: Partition
    reads: tuple[str, ...]
    """Paths of the files that the views read: input and stored predictions."""
    base: tuple[str, ...]
    """Paths of the files with the stored predictions of this partition."""
    files: Mapping[str, Sequence[FileInfo]]
    """The files with the rows of the input, by source."""

    pairs: Pairs | None = None
    """Stored rows that are in none of the views: `Pairs.complete` adds them to batches of `to_score`."""

    @cached_property
    def schema(self) -> pa.Schema:
        """The key, carried and feature columns of the selected rows."""
        fields = self.con.view("candidates").limit(0).to_arrow_table().schema
        for name in ("__key", *([POSITION] if self.pairs is not None else [])):
            fields = fields.remove(fields.get_field_index(name))
        return fields

    @cached_property
    def _key_types(self) -> dict[str, str]:
        """The types of the key columns in the input. Kept, since DuckDB looks at every column of a view to tell one."""
        types = column_types(self.con.view("candidates"))
        return {column: types[column] for column in self.plan.key}

    @property
    def rows(self) -> Relation:
        """The selected rows: one per key, with `__key`."""
        return self.con.view("selected")

    @property
    def unselected(self) -> Relation | None:
        """The rows that are rejected before any is scored, with `reasons`; None if there are none."""
        if self.plan.broken:
            return self.con.sql(sql_files.load("selecting/unselected_or_broken"))
        if self.plan.null_keys or self.plan.repeated:
            return self.con.sql(sql_files.load("selecting/unselected"))
        return None

    def day_input(self, ctx: Context) -> DayInput:
        """Returns the whole input of the day; counts the repeated rows if the plan says that there are any."""
        repeated = int(self.count("selecting/repeated")[0]["rows"]) if self.plan.repeated else 0
        by_file = partial(rows_by_path, self.con, ctx, self.files, self.partition.ds)
        return DayInput(self.con, self.plan.candidates.rows, self.plan.null_keys, repeated, by_file=by_file)

    def to_score(self, staged: Sequence[str]) -> Relation:
        """Returns the selected rows whose keys are not in the files `staged`, with what is stored for each key.

        With `pairs`, each batch must be given to `Pairs.complete`.
        """
        self.stored_view("staged", staged)
        joined = bool(staged or self.plan.base or self.plan.other_versions)
        return self.con.sql(sql_files.load("selecting/to_score" if joined else "selecting/to_score_first"))

    def count(self, query: str) -> list[dict[str, int]]:
        """Runs a query of `sql/` and returns its rows as mappings from column to value."""
        with translated_errors(self.partition.folder, self.reads):
            found = self.con.execute(sql_files.load(query))
            names = [column[0] for column in found.description or ()]
            return [dict(zip(names, row, strict=True)) for row in found.fetchall()]

    def term(self, query: str) -> Term:
        return Term(**self.count(query)[0])

    def predictions_view(
        self,
        name: str,
        own: Sequence[str],
        foreign: Sequence[str] = (),
        carry: Sequence[str] = (),
        gaps: Sequence[Gap] | None = None,
    ) -> None:
        """Creates a view of part files: `__key`, `fingerprint`, `revision`, `__carried`; and `compared`, to match.

        Of the files `own`, only the rows in `gaps` if given.

        The rows of another model, in the files `foreign`, have no fingerprint: none counts as unchanged because that
        model has scored the same features.
        """
        ours = theirs = nothing = ConstantExpression(None).cast("UBIGINT")
        if own and carry:
            now, before = (column_types(rows) for rows in (self.con.view("selected"), read_parquet(self.con, own)))
            ours, theirs = hash_of(carry, now, before), hash_of(carry, before, now)
        create_view(self.con, "compared", f"SELECT *, {_listed({CARRIED: ours})} FROM selected")  # noqa: S608 - quoted
        own_name = f"{name}_own" if foreign else name
        self.stored_view(own_name, own, ("fingerprint", "revision"), computed={CARRIED: theirs}, gaps=gaps)
        if foreign:
            self.stored_view(f"{name}_foreign", foreign, ("revision",))
            others = self.con.view(f"{name}_foreign").select(
                ColumnExpression("__key"),
                ConstantExpression(None).cast(STORED["fingerprint"]).alias("fingerprint"),
                ColumnExpression("revision"),
                nothing.alias(CARRIED),
            )
            self.con.view(own_name).union(others).create_view(name, replace=True)

    def stored_view(
        self,
        name: str,
        paths: Sequence[str],
        columns: Sequence[str] = (),
        prefix: str = "",
        computed: Mapping[str, Expression] = MappingProxyType({}),
        optional: Sequence[str] = (),
        gaps: Sequence[Gap] | None = None,
    ) -> None:
        """Creates a view of a run's files: `__key`, the given columns, their names prefixed, and computed ones.

        `optional` columns are those that not all files of that kind have. Without files, the view is empty, and what is
        computed must be constant. Of the files, the view has only the rows in `gaps` if given.
        """
        types = self._key_types
        if not paths:
            nothing = {prefix + column: ConstantExpression(None).cast(STORED[column]) for column in columns}
            self.empty_view(name, nothing | dict(computed))
            return
        stored = read_parquet(self.con, paths) if gaps is None else within(self.con, paths, gaps)
        found = column_types(stored)
        check_stored_key(self.plan.key, types, found, self.partition.folder)
        taken = (*columns, *(column for column in optional if column in found))
        renamed = {prefix + column: ColumnExpression(column) for column in taken}
        listed = _listed({"__key": key_expression(self.plan.key, types), **renamed, **computed})
        if gaps is None:
            create_view(self.con, name, f"SELECT {listed} FROM {files_as_text(paths)}")  # noqa: S608 - all is quoted
        else:
            stored.select(listed).create_view(name, replace=True)

    def empty_view(self, name: str, columns: Mapping[str, Expression]) -> None:
        """Creates a view without rows: `__key`, and columns of the types of the given constants."""
        types = self._key_types
        key = _listed({column: ConstantExpression(None).cast(kind) for column, kind in types.items()})
        listed = _listed({"__key": key_expression(self.plan.key, types), **columns})
        create_view(self.con, name, f"SELECT {listed} FROM (SELECT {key}) WHERE false")  # noqa: S608 - all is quoted


@contextmanager
def select(
    ctx: Context,
    plan: Plan,
    partition: Partition,
    read: Callable[[Connection], Relation] | None = None,
    *,
    features: bool = True,
    pairs: Pairs | None = None,
) -> Iterator[Selection]:
    """Opens a connection with the views of a plan, over the files that the plan names.

    `read` returns the rows of the input; by default they are read as the job says. Without `features` the views lack
    their columns, unless copies of a row have to be compared: DuckDB looks at each of a thousand columns in every query
    over such a view, even if it counts keys only. The stored rows in `pairs` are left out.
    """
    files = of_plan(ctx, plan, partition.ds) if read is None else plan.input
    columns = len(plan.features) + len(plan.carry)
    known = plan.candidates.rows
    if read is not None:
        with connect_for_job(ctx, columns) as con:
            with translated_errors(describe_files(files)):
                rows = read(con)
                rows.create_view(INPUT)
            yield _selection(ctx, Opened(con, rows), plan, partition, files, features=features)
    elif pairs is not None or not can_share(ctx, columns):
        with open_input(ctx, files, partition.ds, columns, known) as opened:
            yield _selection(ctx, opened, plan, partition, files, features=features, pairs=pairs)
    else:
        with shared_input(ctx, files, partition.ds, columns, known) as opened:
            if opened.selection is None or opened.selection.plan != plan:
                opened.selection = _selection(ctx, opened, plan, partition, files, features=True)
            yield opened.selection


def _selection(
    ctx: Context,
    opened: Opened,
    plan: Plan,
    partition: Partition,
    files: Mapping[str, Sequence[FileInfo]],
    *,
    features: bool,
    pairs: Pairs | None = None,
) -> Selection:
    """Creates the views of a plan over its input."""
    read_features = plan.features if features or plan.repeated else ()
    with translated_errors(describe_files(files)):
        rows, position = opened.rows, None
        if pairs is not None:
            found = located(rows, opened.con, ctx, files, partition.ds)
            assert found is not None, "pairs are found by it"
            rows, position = found
        of_run = candidates(rows, plan.key, (*plan.carry, *judged(plan)), read_features, position)
        of_run.create_view("unmarked" if plan.broken else "candidates", replace=True)
    stored = stored_paths(ctx, (*plan.base, *plan.other_versions))
    base = tuple(stored_paths(ctx, plan.base))
    selection = Selection(opened.con, plan, partition, (*input_paths(ctx, files), *stored), base, files, pairs=pairs)
    if plan.broken:
        _mark_broken(selection, ctx)
    _add_duplicates(selection)
    _add_stored(selection, ctx)
    return selection


@contextmanager
def whole_input(ctx: Context, ds: str) -> Iterator[DayInput]:
    """Opens a connection with the input of a day as it is now, without a run. Raises InputMissing or SchemaMismatch."""
    with readable_input(ctx, ds) as files, translated_errors(describe_files(files)):
        with connect_for_job(ctx) as con:
            found = column_types(input_rows(con, ctx, files, ds))
        if missing := [name for name in ctx.job.input.key if name not in found]:
            raise SchemaMismatch(
                f"the input lacks {', '.join(missing)}{nearest(missing[0], list(found))}",
                where=describe_files(files),
                got=", ".join(found),
                next_step="correct the file, or `key` in job.toml",
            )
        with connect_for_job(ctx, len(found)) as con:
            yield _counted(con, ctx, files, ds)


def _counted(con: Connection, ctx: Context, files: Mapping[str, Sequence[FileInfo]], ds: str) -> DayInput:
    create_candidates(con, ctx, files, ds)
    uniqueness = con.sql(sql_files.load("selecting/uniqueness"))
    counts = dict(zip(uniqueness.columns, uniqueness.fetchall()[0], strict=True))
    repeated = 0
    if counts["keys"] != counts["distinct_hashes"]:
        con.sql(sql_files.load("selecting/duplicates")).create_view("duplicates")
        repeated = con.sql(sql_files.load("selecting/repeated")).fetchall()[0][0]
    nulls = counts["rows"] - counts["keys"]
    return DayInput(con, counts["rows"], nulls, repeated, by_file=partial(rows_by_path, con, ctx, files, ds))


def create_candidates(con: Connection, ctx: Context, files: Mapping[str, Sequence[FileInfo]], ds: str) -> None:
    """Creates the views of input and candidates; the candidates have no columns but the key."""
    with translated_errors(describe_files(files)):
        rows = input_rows(con, ctx, files, ds)
        rows.create_view(INPUT)
        candidates(rows, ctx.job.input.key, (), ()).create_view("candidates")


def candidates(
    rows: Relation,
    key: Sequence[str],
    carry: Sequence[str],
    features: Sequence[str],
    position: Expression | None = None,
) -> Relation:
    """Returns rows of the input as a run reads them: `__key`, POSITION if given, key, carried and feature columns."""
    types = column_types(rows)
    columns = {"__key": key_expression(key, types)}
    if position is not None:
        columns[POSITION] = position
    for column in dict.fromkeys((*key, *carry, *features)):
        kind = canonical(types[column]) if column in key else types[column]
        kind = feature_type(kind) if column in features else kind
        columns[column] = ColumnExpression(column).cast(kind)
    return wide.select(rows, columns)


def judged(plan: Plan) -> tuple[str, ...]:
    """Returns the columns by whose values rows go to quarantine."""
    return tuple(column for rule in plan.broken for column in columns_of(rule.kwargs))


def _listed(columns: Mapping[str, Expression]) -> str:
    """Returns a select list."""
    return ", ".join(f"{value} AS {ColumnExpression(name)}" for name, value in columns.items())


def _add_duplicates(selection: Selection) -> None:
    con, plan = selection.con, selection.plan
    if plan.repeated:
        con.execute("DROP TABLE IF EXISTS duplicates")  # that of the plan before, in a shared connection
        con.sql(sql_files.load("selecting/duplicates")).create("duplicates")
    else:
        nothing = {"copies": ConstantExpression(0), "conflicting": ConstantExpression(value=False)}
        selection.empty_view("duplicates", nothing)
    keyed = sql_files.load("selecting/selected") if plan.repeated or plan.null_keys else "FROM candidates"
    create_view(con, "keyed" if plan.broken else "selected", keyed)
    if plan.broken:
        create_view(con, "selected", sql_files.load("selecting/passing"))


def _mark_broken(selection: Selection, ctx: Context) -> None:
    """Adds `__broken` to the candidates: the rules that each row breaks, except those that a release waives."""
    from pipeline.suite import row_rules

    con, plan = selection.con, selection.plan
    row_rules.mark(con.view("unmarked"), plan.broken).create_view("marked", replace=True)
    con.view("marked").create_view("candidates", replace=True)
    if paths := stored_paths(ctx, plan.released):
        selection.stored_view("released", paths, ["reasons"])
        con.sql(sql_files.load("selecting/unreleased")).create_view("candidates", replace=True)


def _add_stored(selection: Selection, ctx: Context) -> None:
    plan = selection.plan
    foreign = plan.other_models or ()
    own = stored_paths(ctx, [file for file in plan.base if file not in foreign])
    gaps = selection.pairs.gaps if selection.pairs is not None else None
    if gaps is not None:
        own = list(dict.fromkeys(gap.path for gap in gaps))
    selection.predictions_view("stored", own, stored_paths(ctx, foreign), plan.carry, gaps)
    create_view(selection.con, "latest", sql_files.load("selecting/latest"))
    selection.stored_view("other_versions", stored_paths(ctx, plan.other_versions))
