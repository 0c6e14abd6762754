"""Compares two versions over the same rows: flips, overlap at the top, shift, calibration, segments; and the gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from math import sqrt
from typing import TYPE_CHECKING, Any

from duckdb import CaseExpression, ColumnExpression, ConstantExpression, FunctionExpression

from pipeline.compare import rows
from pipeline.context import Context
from pipeline.database import sql_files
from pipeline.database.aligning import union
from pipeline.database.connection import column_types, empty_relation, translated_errors
from pipeline.drift.performance import of_labelled
from pipeline.errors import InputMissing, ModelMismatch, QualityStop
from pipeline.model.schema_check import NUMBER

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation
    from duckdb import Expression

    from pipeline.model.manifest import Signature, Task

KS = (10, 100, 1000)
RANKS = (1, 5, 10, 20, 50, 100)
SHARES = (0.01, 0.1)
SAMPLE_DAYS = 30
LEAST = 30
"""Number of rows that a segment needs: a share of fewer says little."""
MOST_SEGMENTS = 20
SEGMENTED = {"column_name": "VARCHAR", "segment": "VARCHAR", "flipped": "BOOLEAN", "shift": "DOUBLE"}
"""Columns of the view `segmented`, and their types."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    job: str
    model: str
    first: str
    second: str
    days: tuple[str, ...]
    sample: int | None
    task: Task
    target: str | None
    """Class or label whose probability is the score; None for a regression, whose score is its value, and a ranking."""
    skipped: int
    summary: Row
    flips: list[Row]
    """One row per pair of decisions; of a multi-label model, per label; empty for other tasks."""
    overlap: list[Row]
    """One row per k: what the k highest scores have in common; of a ranking, the first k items of each list."""
    histogram: list[Row]
    """Of the scores; empty for a ranking."""
    performance: list[Row]
    """One row per version, with the columns of the view `performance`; empty if there are no labels."""
    segments: list[Row]
    notes: tuple[str, ...]

    @property
    def rows(self) -> int:
        return int(self.summary["rows"])

    @property
    def flip_share(self) -> float | None:
        """Share of rows whose class, set of labels or first item changes; None for a regression."""
        flips = self.summary["flips"]
        return None if flips is None else float(flips / self.summary["rows"])

    @property
    def flip_limit(self) -> float | None:
        """Upper limit of the flip share: for whole days the share itself, for a sample its one-sided 95% limit."""
        share = self.flip_share
        return share if share is None or self.sample is None else upper(share, self.rows)

    @property
    def score(self) -> str:
        """The meaning of the score, as a part of a sentence."""
        texts = {"regression": "the predicted value", "ranking": "not compared: two rankings have no common scale"}
        noun = "class" if self.task == "classification" else "label"
        return texts.get(self.task, f"the probability of {noun} {self.target}")

    def as_dict(self) -> Row:
        """Returns the fields; `calibration` is an earlier name of `performance`."""
        shares = {"flip_share": self.flip_share, "flip_limit": self.flip_limit}
        return {**asdict(self), **shares, "calibration": self.performance}


def compare(
    ctx: Context,
    first: str,
    second: str,
    *,
    ds: str | None = None,
    sample: int | None = None,
    target: str | None = None,
) -> Comparison:
    """Compares two versions of the job's model over a day, or over a sample of the newest days with input.

    By default over the newest day. Raises ModelNotFound, ModelMismatch if they cannot be compared, InputMissing.
    """
    a, b = (ctx.registry.resolve(ctx.job.model.name, version) for version in (first, second))
    wanted = rows.target_of(a, b, target)
    days = _days(ctx, ds, sample)
    with rows.compared(ctx, a, b, wanted, days, sample) as found, translated_errors(", ".join(days)):
        segmented(found.con, found.columns).create_view("segmented")
        summary = _ask(found.con, "compare/summary")[0]
        return Comparison(
            job=ctx.job.name,
            model=ctx.job.model.name,
            first=a.version,
            second=b.version,
            days=tuple(days),
            sample=sample,
            task=a.signature.task,
            target=wanted,
            skipped=found.skipped,
            summary=summary,
            flips=_flips(found.con, a.signature.task),
            overlap=_overlap(found, a.signature, b.signature),
            histogram=_histogram(found.con, a.signature.task),
            performance=_performance(found, a.signature, b.signature, wanted) if found.labelled else [],
            segments=_ask(found.con, "compare/segments", {"least": LEAST}),
            notes=found.notes,
        )


def _flips(con: Connection, task: Task) -> list[Row]:
    queries = {"classification": "compare/flips", "multilabel": "compare/flips_of_labels"}
    return _ask(con, queries[task]) if task in queries else []


def _overlap(found: rows.Compared, a: Signature, b: Signature) -> list[Row]:
    if a.task == "ranking":
        most = min(a.top or 0, b.top or 0)
        return _ask(found.con, "compare/common_items", {"ks": sorted({*(k for k in RANKS if k < most), most})})
    ks = {k for k in (*KS, *(int(share * found.rows) for share in SHARES)) if 0 < k <= found.rows}
    return _ask(found.con, "compare/overlap", {"ks": sorted(ks)})


def _histogram(con: Connection, task: Task) -> list[Row]:
    low, high = 0.0, 1.0
    if task == "ranking":
        return []
    if task == "regression":
        found = con.view("compared").aggregate(
            "least(min(score_a), min(score_b)), greatest(max(score_a), max(score_b))"
        )
        low, high = found.fetchall()[0]
        high = high if high > low else low + 1.0
    return _ask(con, "compare/histogram", {"low": low, "high": high})


def _performance(found: rows.Compared, a: Signature, b: Signature, target: str | None) -> list[Row]:
    """Returns one row per version: how its predictions agree with the labels, of a class that of the target."""
    result = []
    for version, signature in (("a", a), ("b", b)):
        outputs = FunctionExpression("unnest", ColumnExpression(f"outputs_{version}"))
        labelled = found.con.view("compared").filter(ColumnExpression("label").isnotnull()).select("label", outputs)
        classes = None if target is None else [[str(label) for label in signature.classes].index(target)]
        (row,) = of_labelled(found.con, labelled, signature, classes).to_pylist()
        excess = {"shift": row["mean_score"] - row["base_rate"]} if target is not None else {}
        result.append({"version": version, **row, **excess})
    return result


def gate(found: Comparison, max_flips: float) -> None:
    """Raises QualityStop if more decisions change than `max_flips` allows; a sample is judged by its upper limit.

    Raises ModelMismatch for a regression.
    """
    if found.flip_limit is None or found.flip_share is None:
        raise ModelMismatch(
            "a regression makes no decisions that could flip",
            got="--max-flips",
            next_step=f"look at lakescore compare {found.first} {found.second}, then promote without --max-flips",
        )
    if found.flip_limit > max_flips:
        worst = next(iter(found.segments), None)
        hint = f"; most in {worst['column_name']} {worst['segment']}: {worst['share']:.1%}" if worst else ""
        raise QualityStop(
            f"{found.second} decides differently from {found.first} for too many rows; it was not promoted",
            where=f"{found.rows:,} rows of {', '.join(found.days[:3])}" + (" ..." if len(found.days) > 3 else ""),
            expected=f"at most {max_flips:.2%}",
            got=f"{found.flip_share:.2%}"
            + (f", up to {found.flip_limit:.2%} by the sample" if found.sample else "")
            + hint,
            next_step=f"lakescore compare {found.first} {found.second}, then raise --max-flips if that is intended",
        )


def upper(share: float, rows: int, z: float = 1.6449) -> float:
    """Returns the upper end of the one-sided 95% interval (Wilson) of a share."""
    middle = share + z * z / (2 * rows)
    return float((middle + z * sqrt(share * (1 - share) / rows + (z / (2 * rows)) ** 2)) / (1 + z * z / rows))


def _days(ctx: Context, ds: str | None, sample: int | None) -> list[str]:
    if ds is not None:
        return [ds]
    days = ctx.lake.input_days(ctx.job.patterns.values())
    if not days:
        raise InputMissing(
            "no day has input",
            where=ctx.lake.storage,
            next_step=f"lakescore import FILES --job {ctx.job.name} --date DAY",
        )
    return days[-1:] if sample is None else days[-SAMPLE_DAYS:]


def _ask(con: Connection, query: str, values: Mapping[str, Any] | None = None) -> list[Row]:
    found = con.sql(sql_files.load(query), params=dict(values) if values else None)
    return [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]


# Segments


def segmented(con: Connection, columns: Sequence[str]) -> Relation:
    """Returns each row once per segmenting column: carried columns with few values, and features by quarters.

    There are no rows if no column segments: if all features have many values that are not numbers, or are lists.
    """
    source = con.view("compared")
    parts = {name.removeprefix(rows.CARRIED): _value(source, name) for name in columns if name.startswith(rows.CARRIED)}
    types = column_types(source)
    for name in columns:
        if name.startswith(rows.FEATURE):
            part = _quarter if NUMBER.fullmatch(types[name]) else _value
            parts[name.removeprefix(rows.FEATURE)] = part(source, name)
    flipped = ColumnExpression("prediction_a") != ColumnExpression("prediction_b")
    shift = ColumnExpression("score_b") - ColumnExpression("score_a")
    pieces = [
        source.select(ConstantExpression(name).alias("column_name"), part.alias("segment"), flipped.alias("flipped"),
                      shift.alias("shift"))
        for name, part in parts.items()
        if part is not None
    ]  # fmt: skip
    if not pieces:
        return empty_relation(con, SEGMENTED)
    return union(pieces)


def _value(source: Relation, name: str) -> Expression | None:
    values = source.select(ColumnExpression(name)).distinct().limit(MOST_SEGMENTS + 1).fetchall()
    return ColumnExpression(name).cast("VARCHAR") if len(values) <= MOST_SEGMENTS else None


def _quarter(source: Relation, name: str) -> Expression:
    """Returns, as text, the quarter of the rows that a value is in; there are fewer if many values are equal."""
    value = ColumnExpression(name).cast("DOUBLE")
    finite = CaseExpression(FunctionExpression("isfinite", value), value)
    cuts = source.aggregate([FunctionExpression("quantile_cont", finite, ConstantExpression([0.25, 0.5, 0.75]))])
    found = cuts.fetchall()[0][0] or []
    borders = sorted({float(f"{cut:.4g}") for cut in found})
    if not borders:
        return ConstantExpression("all")
    part = CaseExpression(value.isnull() | FunctionExpression("isnan", value), ConstantExpression("NULL"))
    part = part.when(value <= ConstantExpression(borders[0]), ConstantExpression(f"up to {borders[0]:g}"))
    for low, high in pairwise(borders):
        part = part.when(value <= ConstantExpression(high), ConstantExpression(f"{low:g} to {high:g}"))
    return part.otherwise(ConstantExpression(f"over {borders[-1]:g}"))
