"""Examines predictions: row rules judge the staged rows, shares and guards the partition as it would be with them.

So one changed row does not look like "all scores are equal".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import reduce
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

from pipeline import database, queries, staging
from pipeline.keys import key_expression
from pipeline.quality import examine as inputs
from pipeline.quality import suite, tasks
from pipeline.quality.builtin import FEWEST_ROWS
from pipeline.quality.examine import Examined
from pipeline.quality.kinds import is_row_rule
from pipeline.quality.verdict import built_in, check_off, of_finding
from pipeline.records import CheckResult, Plan, RunRecord, Severity, Term
from pipeline.storage import explained, make_folder, sync_folder

if TYPE_CHECKING:
    from pathlib import Path

    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation
    from duckdb import Expression

    from pipeline.context import Context
    from pipeline.model.manifest import Signature
    from pipeline.quality.gx_engine import Finding

STAGED, PARTITION = "__staged", "__partition"
NEARLY_CONSTANT = 1e-5
"""A range of scores over a whole partition that no working model gives."""
COLLAPSED = 1e-3
"""Mean entropy of a row, as a share of that of equal probabilities, under which the model is certain of everything."""
MOST = 0.95
LEAST_CONFIDENCE = 0.5


def examine(ctx: Context, record: RunRecord) -> Examined:
    """Validates what a run has staged. Reads; writes nothing."""
    check_off(ctx.job)
    staged = staging.files(ctx, record, "scored")
    if not staged:
        stored = bool(record.plan.base)
        return Examined((_noted(ctx, "no_predictions", success=stored, observed="nothing to store"),))
    signature = ctx.registry.resolve(record.model.name, record.model.version).signature
    with database.workplace(ctx.job.engine.memory_limit, ctx.job.engine.threads) as con, database.explained(staged[0]):
        ctx.lake.storage.attach(con)
        _create_views(con, ctx, record, staged)
        checks = [*_about_rows(ctx, con, record, signature), *_about_partition(ctx, con, signature)]
        findings = _suite(ctx, con, whole=not record.plan.base)
    checks += [of_finding("output", finding) for finding in findings]
    return Examined(tuple(checks), findings=tuple(findings))


def reject(ctx: Context, record: RunRecord) -> Path:
    """Moves what a run has staged to where no run reads it; returns that folder."""
    disk = ctx.lake.workspace
    source = disk.path(staging.folder_of(record))
    target = disk.path(staging.folder_of(record).replace(".staging/", ".rejected/", 1))
    with explained(target):
        make_folder(target.parent)
        source.rename(target)
        sync_folder(target.parent)
        sync_folder(source.parent)
        staging.remove_empty(source.parent, disk.path(".staging"))
    return target


def _create_views(con: Connection, ctx: Context, record: RunRecord, staged: Sequence[Path]) -> None:
    rows = database.parquet(con, staged)
    key = key_expression(record.plan.key, database.schema(rows)).alias("__key")
    rows.create_view(STAGED)
    if not record.plan.base:
        return
    rows.select(key, StarExpression()).create_view("predicted")
    base = database.parquet(con, [ctx.lake.storage.where(file.path) for file in record.plan.base])
    base.select(key, StarExpression(exclude=["job", "ds", "model_version"])).create_view("stored")
    con.sql(queries.load("quality/partition")).create_view(PARTITION)


def _about_rows(ctx: Context, con: Connection, record: RunRecord, signature: Signature) -> Iterator[CheckResult]:
    """The checks of each staged row, in one pass."""
    rows = con.view(STAGED)
    rows = rows.select(StarExpression(), key_expression(record.plan.key, database.schema(rows)).alias("__key"))
    terms = {"rows": FunctionExpression("count_star"), "hash_sum": SQLExpression("sum(hash(__key))")}
    bad_rows = tasks.bad_rows(signature, rows.columns)
    terms |= {name: FunctionExpression("count_if", condition) for name, condition in bad_rows.items()}
    (values,) = rows.aggregate([term.alias(name) for name, term in terms.items()]).fetchall()
    found = dict(zip(terms, values, strict=True))
    count, hash_sum = found.pop("rows"), found.pop("hash_sum")
    expected = record.dispositions.get("scored", 0)
    yield built_in(ctx.job, "output", "rows_scored", success=count == expected, observed=f"{count:,} of {expected:,}")
    if signature.task == "ranking":
        values_of = {"items": [str(item) for item in signature.classes]}
        ((unknown,),) = con.sql(queries.load("quality/unknown_items"), params=values_of).fetchall()
        observed = f"{unknown:,} that the model does not know"
        yield built_in(ctx.job, "output", "items_known", success=unknown == 0, observed=observed)
    doubled = _doubled(rows, record.plan, Term(rows=count, hash_sum=hash_sum))
    found = {"keys_once": doubled, **{name: bad or 0 for name, bad in found.items()}}
    for name, bad in found.items():
        yield built_in(ctx.job, "output", name, success=bad == 0, unexpected=bad, share=bad / count)


def _doubled(rows: Relation, plan: Plan, staged: Term) -> int:
    """Counts the staged rows whose key stands there before.

    If every candidate was scored, in number and in the sum of hashes, they are as unique as the plan has found them.
    """
    if staged == plan.candidates and not plan.repeated and plan.duckdb == duckdb.__version__:
        return 0
    (distinct,) = rows.aggregate("count(DISTINCT hash(__key))").fetchall()[0]
    return int(staged.rows - distinct)


def _about_partition(ctx: Context, con: Connection, signature: Signature) -> Iterator[CheckResult]:
    """The checks of the partition as it would be, in two passes."""
    rows = con.view(_partition(con))
    columns = tasks.scores(rows.columns)
    low, high = (FunctionExpression(name, *columns[:1]).cast("DOUBLE") for name in ("min", "max"))
    terms = [FunctionExpression("count_star"), low, high]
    terms += [FunctionExpression("max", column) - FunctionExpression("min", column) for column in columns]
    (values,) = rows.aggregate([term.alias(f"t{number}") for number, term in enumerate(terms)]).fetchall()
    count, lowest, highest, *ranges = values
    enough = count >= FEWEST_ROWS
    if signature.task == "classification":
        yield from _about_classes(ctx, rows, columns, enough=enough)
    if signature.task == "ranking":
        share, observed = _most_frequent(rows, tasks.best("top_items"))
        yield _noted(ctx, "first_item_share", success=not enough or share <= MOST, observed=observed + " first")
    size = max(1.0, abs(lowest), abs(highest)) if signature.task in ("regression", "ranking") else 1.0
    widest = max(ranges) / size
    yield built_in(
        ctx.job,
        "output",
        "constant_scores",
        success=not enough or widest > NEARLY_CONSTANT,
        observed=f"scores range over {widest:.3g}",
        guard=True,
    )


def _about_classes(
    ctx: Context, rows: Relation, columns: Sequence[Expression], *, enough: bool
) -> Iterator[CheckResult]:
    terms = [FunctionExpression("avg", ColumnExpression("prediction_proba")).alias("confidence")]
    terms.append(FunctionExpression("avg", _entropy(columns)).alias("entropy"))
    ((confidence, entropy),) = rows.aggregate(terms).fetchall()
    yield _noted(ctx, "mean_confidence", success=confidence >= LEAST_CONFIDENCE, observed=f"{confidence:.4f}")
    share, observed = _most_frequent(rows, ColumnExpression("prediction"))
    yield _noted(ctx, "class_share", success=not enough or share <= MOST, observed=observed)
    relative = entropy / math.log(len(columns))
    yield _noted(
        ctx,
        "collapsed_entropy",
        success=not enough or relative > COLLAPSED,
        observed=f"{relative:.3g} of the most",
        guard=True,
    )


def _most_frequent(rows: Relation, value: Expression) -> tuple[float, str]:
    """Returns the largest share of one value, and says it."""
    grouped = rows.aggregate([value.alias("value"), FunctionExpression("count_star").alias("n")])
    counts = grouped.order("n DESC").fetchall()
    label, most = counts[0]
    share = most / sum(number for _, number in counts)
    return share, f"{share:.1%} are {label}"


def _suite(ctx: Context, con: Connection, *, whole: bool) -> list[Finding]:
    """Judges the job's own suite: row rules on the staged rows, the others on the partition."""
    rules = suite.load(ctx.job, "output")
    samples = ctx.job.quality.samples
    on_rows = [rule for rule in rules if whole or is_row_rule(rule.type)]
    on_partition = [rule for rule in rules if rule not in on_rows]
    found: list[Finding] = []
    for view, judged in ((STAGED, on_rows), (_partition(con), on_partition)):
        found += inputs.judge(con, view, judged, inputs.count(con, view, judged), samples=samples)
    return found


def _partition(con: Connection) -> str:
    """Returns the view of the partition; on its first run that is what is staged."""
    views = [
        name
        for (name,) in con.sql(
            "SELECT view_name FROM duckdb_views() WHERE database_name = current_database()"
        ).fetchall()
    ]
    return PARTITION if PARTITION in views else STAGED


def _noted(ctx: Context, name: str, *, success: bool, observed: str, guard: bool = False) -> CheckResult:
    return built_in(ctx.job, "output", name, success=success, severity=Severity.warning, observed=observed, guard=guard)


def _entropy(columns: Sequence[Expression]) -> Expression:
    """Returns the entropy of a row in nats; 0 ln 0 is 0."""
    zero = ConstantExpression(0.0)
    terms = []
    for column in columns:
        value = column.cast("DOUBLE")
        terms.append(CaseExpression(value > zero, value * FunctionExpression("ln", value)).otherwise(zero))
    return zero - reduce(lambda left, right: left + right, terms)
