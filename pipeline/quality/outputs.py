"""Validates predictions: row rules over the staged rows, shares and guards over the partition including them.

Over the staged rows alone, a single changed row would look like "all scores are equal".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import duckdb
from duckdb import (
    CaseExpression,
    ColumnExpression,
    ConstantExpression,
    FunctionExpression,
    SQLExpression,
    StarExpression,
)

from pipeline.columns import HIVE
from pipeline.database import holding, sql_files, wide
from pipeline.database.connection import column_types, connect_shared, read_parquet, select_parquet, translated_errors
from pipeline.database.holding import Named
from pipeline.database.keys import key_expression
from pipeline.errors import counted
from pipeline.model.outputs import output_schema
from pipeline.quality import examine as inputs
from pipeline.quality import output_rules
from pipeline.quality.builtin import FEWEST_ROWS
from pipeline.quality.examine import Examined
from pipeline.quality.verdict import built_in, check_off, of_finding
from pipeline.records import CheckResult, Plan, RunRecord, Severity, Term
from pipeline.selecting.triage import WITHDRAWN
from pipeline.staging.folders import remove_empty, staged_files, staging_folder
from pipeline.storage import make_folder, sync_folder, translated_os_errors
from pipeline.suite import suite
from pipeline.suite.expectations import is_row_rule

if TYPE_CHECKING:
    from pathlib import Path

    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation
    from duckdb import Expression

    from pipeline.context import Context
    from pipeline.model.manifest import Signature
    from pipeline.quality.finding import Finding

STAGED, PARTITION = "__staged", "__partition"
NEARLY_CONSTANT = 1e-5
"""Range of the scores over a whole partition up to which they count as constant: no working model's are so close.

For regression and ranking it is relative to the largest absolute score, if that is above 1.
"""
COLLAPSED = 1e-3
"""Mean row entropy, as a share of that of equal probabilities, up to which the model counts as always certain."""
MOST = 0.95
LEAST_CONFIDENCE = 0.5


def examine(ctx: Context, record: RunRecord) -> Examined:
    """Validates what a run has staged. Writes nothing."""
    check_off(ctx.job)
    staged = staged_files(ctx, record, "scored")
    if not staged:
        stored = bool(record.plan.base)
        return Examined((_noted(ctx, "no_predictions", success=stored, observed="nothing to store"),))
    signature = ctx.manifest_of(record).signature
    with connect_shared(ctx.resources(len(output_schema(signature)))) as con, translated_errors(staged[0]):
        ctx.lake.storage.attach(con)
        views = _staged_views(con, ctx, record, staged)
        checks = [*_about_rows(ctx, views, record, signature), *_about_partition(ctx, views, signature)]
        findings = _suite(ctx, views)
    checks += [of_finding("output", finding) for finding in findings]
    return Examined(tuple(checks), findings=tuple(findings))


def reject(ctx: Context, record: RunRecord) -> Path:
    """Moves what a run has staged to `.rejected/`, which no run reads; returns the new folder."""
    disk = ctx.lake.workspace
    source = disk.path(staging_folder(record))
    target = disk.path(staging_folder(record).replace(".staging/", ".rejected/", 1))
    with translated_os_errors(target):
        make_folder(target.parent)
        source.rename(target)
        sync_folder(target.parent)
        sync_folder(source.parent)
        remove_empty(source.parent, disk.path(".staging"))
    return target


@dataclass(frozen=True)
class StagedViews:
    """What a run has staged, and the partition as it would be with it, as views in a connection."""

    con: Connection
    staged: str
    """Name of the view of the staged rows."""
    partition: str
    """Name of the view of the partition; for its first run, the same view."""

    @property
    def rows(self) -> Relation:
        return self.con.view(self.staged)


def _staged_views(con: Connection, ctx: Context, record: RunRecord, staged: Sequence[Path]) -> StagedViews:
    values = {"job": record.job, "ds": record.ds, "model_version": record.model.version}
    of_run = ", ".join(f"{ConstantExpression(values[name])} AS {name}" for name in HIVE)
    rows = select_parquet(con, staged, f"*, {of_run}")
    size = sum(path.stat().st_size for path in staged)
    held = holding.few(record.dispositions.get("scored", 0), len(rows.columns), size)
    rows = holding.name_rows(con, STAGED, rows, held=held)
    if not record.plan.base:
        return StagedViews(con, STAGED, STAGED)
    base = [ctx.lake.storage.where(file.path) for file in record.plan.base]
    after_commit(con, record.plan.key, rows, base, staged_files(ctx, record, WITHDRAWN)).create_view(PARTITION)
    return StagedViews(con, STAGED, PARTITION)


def after_commit(
    con: Connection, key: Sequence[str], staged: Relation, base: Sequence[str], withdrawing: Sequence[Path]
) -> Relation:
    """Returns the predictions of a partition as they will be: staged rows, and stored rows for all other keys.

    `base` are the files with the stored rows, `withdrawing` staged files by which withdrawn keys lose theirs.
    """
    stored = read_parquet(con, base)
    keyed = key_expression(key, column_types(stored)).alias("__key")
    others = [name for name in HIVE if name in staged.columns]
    staged.select(keyed, StarExpression(exclude=others)).create_view("predicted", replace=True)
    stored.select(keyed, StarExpression()).create_view("stored", replace=True)
    none = stored.filter(ConstantExpression(value=False))  # DuckDB then leaves the join out
    (revised,) = stored.aggregate("coalesce(max(revision), 0) > 0").fetchall()
    newer = stored.filter("revision > 0") if revised[0] else none
    newer.select(keyed, ColumnExpression("revision")).create_view("newer", replace=True)
    gone = read_parquet(con, withdrawing) if withdrawing else none
    gone.select(keyed).create_view("withdrawing", replace=True)
    return con.sql(sql_files.load("quality/partition"))


def _about_rows(ctx: Context, views: StagedViews, record: RunRecord, signature: Signature) -> Iterator[CheckResult]:
    """Yields the checks of the staged rows; one pass counts the rows that fail each."""
    types = column_types(views.rows)
    hashed = FunctionExpression("hash", key_expression(record.plan.key, types))
    terms = {"rows": FunctionExpression("count_star"), "hash_sum": FunctionExpression("sum", hashed)}
    bad_rows = output_rules.bad_rows(signature, list(types))
    terms |= {name: FunctionExpression("count_if", condition) for name, condition in bad_rows.items()}
    rows = Named(views.con, views.staged)
    found = dict(zip(terms, rows.aggregate(list(terms.values())), strict=True))
    count, hash_sum = found.pop("rows"), found.pop("hash_sum")
    expected = record.dispositions.get("scored", 0)
    observed = f"{count:,} of {counted(expected, 'row')}"
    yield built_in(ctx.job, "output", "rows_scored", success=count == expected, observed=observed)
    if signature.task == "ranking":
        values_of = {"items": [str(item) for item in signature.classes]}
        ((unknown,),) = views.con.sql(sql_files.load("quality/unknown_items"), params=values_of).fetchall()
        observed = f"{unknown:,} unknown to the model"
        yield built_in(ctx.job, "output", "items_known", success=unknown == 0, observed=observed)
    doubled = _doubled(rows, hashed, record.plan, Term(rows=count, hash_sum=hash_sum))
    found = {"keys_once": doubled, **{name: bad or 0 for name, bad in found.items()}}
    for name, bad in found.items():
        yield built_in(ctx.job, "output", name, success=bad == 0, unexpected=bad, share=bad / count)


def _doubled(rows: Named, hashed: Expression, plan: Plan, staged: Term) -> int:
    """Returns the number of surplus staged rows, beyond the first of each key.

    If the staged rows match the candidates in count and hash sum, the plan has already shown that keys are unique.
    """
    if staged == plan.candidates and not plan.repeated and plan.duckdb == duckdb.__version__:
        return 0
    (distinct,) = rows.aggregate([SQLExpression(f"count(DISTINCT {hashed})")])
    return int(staged.rows - distinct)


def _about_partition(ctx: Context, views: StagedViews, signature: Signature) -> Iterator[CheckResult]:
    """Yields the checks of the partition including the staged rows, in two passes."""
    rows = Named(views.con, views.partition)
    columns = output_rules.scores(views.rows.columns)  # stored rows may be of another model, with other outputs
    low, high = (FunctionExpression(name, *columns[:1]).cast("DOUBLE") for name in ("min", "max"))
    terms = [FunctionExpression("count_star"), low, high]
    (count, lowest, highest), found = wide.aggregate(rows, terms, columns, [_range])
    enough = count >= FEWEST_ROWS
    if signature.task == "classification":
        yield from _about_classes(ctx, rows, columns, enough=enough)
    if signature.task == "ranking":
        share, observed = _most_frequent(rows, output_rules.best("top_items"))
        yield _noted(ctx, "first_item_share", success=not enough or share <= MOST, observed=observed + " first")
    size = max(1.0, abs(lowest), abs(highest)) if signature.task in ("regression", "ranking") else 1.0
    widest = max(each for (each,) in found) / size
    yield built_in(
        ctx.job,
        "output",
        "constant_scores",
        success=not enough or widest > NEARLY_CONSTANT,
        observed=f"scores range over {widest:.3g}",
        guard=True,
    )


def _range(value: Expression) -> Expression:
    return FunctionExpression("max", value) - FunctionExpression("min", value)


def _about_classes(ctx: Context, rows: Named, columns: Sequence[Expression], *, enough: bool) -> Iterator[CheckResult]:
    terms = [ColumnExpression("prediction_proba"), _entropy(columns)]
    confidence, entropy = rows.aggregate([FunctionExpression("avg", term) for term in terms])
    observed = f"mean confidence {confidence:.4f}"
    yield _noted(ctx, "mean_confidence", success=confidence >= LEAST_CONFIDENCE, observed=observed)
    share, observed = _most_frequent(rows, ColumnExpression("prediction"))
    yield _noted(ctx, "class_share", success=not enough or share <= MOST, observed=observed)
    relative = entropy / math.log(len(columns))
    yield _noted(
        ctx,
        "collapsed_entropy",
        success=not enough or relative > COLLAPSED,
        observed=f"mean entropy {relative:.3g} of the maximum",
        guard=True,
    )


def _most_frequent(rows: Named, value: Expression) -> tuple[float, str]:
    """Returns the share of the most frequent value, 0 to 1, and a text that names both."""
    text = f"SELECT {value}, count(*) AS n FROM {ColumnExpression(rows.name)} GROUP BY ALL ORDER BY n DESC"  # noqa: S608 - quoted
    counts = rows.con.execute(text).fetchall()
    label, most = counts[0]
    share = most / sum(number for _, number in counts)
    return share, f"{share:.1%} are {label}"


def _suite(ctx: Context, views: StagedViews) -> list[Finding]:
    """Runs the job's output suite: row rules over the staged rows, the others over the partition."""
    rules = suite.load(ctx.job, "output")
    samples = ctx.job.quality.samples
    on_rows = [rule for rule in rules if views.partition == views.staged or is_row_rule(rule.type)]
    on_partition = [rule for rule in rules if rule not in on_rows]
    found: list[Finding] = []
    for view, judged in ((views.staged, on_rows), (views.partition, on_partition)):
        if not judged:
            continue
        found += inputs.judge(views.con, view, judged, inputs.count(views.con, view, judged), samples=samples)
    return found


def _noted(ctx: Context, name: str, *, success: bool, observed: str, guard: bool = False) -> CheckResult:
    return built_in(ctx.job, "output", name, success=success, severity=Severity.warning, observed=observed, guard=guard)


def _entropy(columns: Sequence[Expression]) -> Expression:
    """Returns the entropy of a row in nats, with 0 ln 0 = 0."""
    zero = ConstantExpression(0.0)

    def term(value: Expression) -> Expression:
        return CaseExpression(value > zero, value * FunctionExpression("ln", value)).otherwise(zero)

    return zero - wide.total(columns, term)
