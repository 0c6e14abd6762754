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
from pipeline.errors import InputMissing, QualityStop
from pipeline.model.schema_check import NUMBER

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation
    from duckdb import Expression

KS = (10, 100, 1000)
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
    target: str
    """Class whose probability is the score."""
    skipped: int
    summary: Row
    flips: list[Row]
    overlap: list[Row]
    histogram: list[Row]
    calibration: list[Row]
    """One row per version; empty if there are no labels."""
    segments: list[Row]

    @property
    def rows(self) -> int:
        return int(self.summary["rows"])

    @property
    def flip_share(self) -> float:
        return float(self.summary["flips"] / self.summary["rows"])

    @property
    def flip_limit(self) -> float:
        """Upper limit of the flip share: for whole days the share itself, for a sample its one-sided 95% limit."""
        return self.flip_share if self.sample is None else upper(self.flip_share, self.rows)

    def as_dict(self) -> Row:
        return {**asdict(self), "flip_share": self.flip_share, "flip_limit": self.flip_limit}


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
    with rows.compared(ctx, a, b, wanted, days, sample) as found:
        ks = [k for k in (*KS, *(int(share * found.rows) for share in SHARES)) if 0 < k <= found.rows]
        with translated_errors(", ".join(days)):
            segmented(found.con, found.columns).create_view("segmented")
            return Comparison(
                job=ctx.job.name,
                model=ctx.job.model.name,
                first=a.version,
                second=b.version,
                days=tuple(days),
                sample=sample,
                target=wanted,
                skipped=found.skipped,
                summary=_ask(found.con, "compare/summary")[0],
                flips=_ask(found.con, "compare/flips"),
                overlap=_ask(found.con, "compare/overlap", {"ks": sorted(set(ks))}),
                histogram=_ask(found.con, "compare/histogram"),
                calibration=_ask(found.con, "compare/calibration", {"target": wanted}) if found.labelled else [],
                segments=_ask(found.con, "compare/segments", {"least": LEAST}),
            )


def gate(found: Comparison, max_flips: float) -> None:
    """Raises QualityStop if more decisions change than `max_flips` allows; a sample is judged by its upper limit."""
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
