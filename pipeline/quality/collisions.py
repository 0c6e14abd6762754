"""Counts the distinct values that a model cannot tell apart, because they are the same number in float32.

float32 holds every whole number up to 2^24 = 16,777,216; above, neighbours are rounded to one. That is harmless for a
measure, and wrong for an identifier, which only the owner of the data can tell from each other. So the check judges
whole numbers alone, and only columns that have any as large as that; it costs nothing for others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from duckdb import CaseExpression, ColumnExpression, ConstantExpression, FunctionExpression

from pipeline.database import sql_files
from pipeline.database.connection import column_types
from pipeline.database.keys import feature_type
from pipeline.model.inputs import FixedList, Input, Number, Timestamp

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation

    from pipeline.quality.measures import Feature

EXACT = 2**24
"""Up to here float32 holds every whole number."""
LARGEST = 3.4e38
"""Values beyond this may not fit into float32: the model sees them as infinite, and the policy decides on them."""
WHOLE = re.compile(r"U?(INTEGER|BIGINT|HUGEINT)|DECIMAL\(\d+, ?0\)|DOUBLE")
"""Types that can have a whole number above EXACT, and are not float32 already."""
DECLARE = (
    'if they are identifiers, declare the feature in the signature\'s inputs as {"kind": "integer"}, '
    '{"kind": "hash"} or {"kind": "category"}'
)
MOVE = "choose an `origin` within 194 days of the values, or convert = days or cyclic"


@dataclass(frozen=True)
class Collisions:
    feature: str
    distinct: int
    """Number of distinct values from EXACT on, in either direction."""
    colliding: int
    """Number of them that float32 rounds to the same number as another one."""
    way_out: str

    def __str__(self) -> str:
        counted = f"{self.colliding:,} of {self.distinct:,} distinct values from {EXACT:,} on"
        return f"{counted} are the same number as another in float32; {self.way_out}" if self.colliding else counted


def find(
    con: Connection, rows: Relation, features: Sequence[Feature], inputs: Mapping[str, Input]
) -> Iterator[Collisions]:
    """Yields the features that have whole numbers from EXACT on; `features` are measured over the same rows."""
    types = column_types(rows)
    for feature in features:
        name = feature.name
        how = inputs.get(name, Number())
        way_out = MOVE if isinstance(how, Timestamp) else DECLARE
        values = None if _is_small(feature) else _values(rows, name, types[name], how)
        if values is None:
            continue
        size = FunctionExpression("abs", ColumnExpression("rounded"))
        beyond = values.filter(size >= ConstantExpression(EXACT).cast("FLOAT"))
        if _is_empty(beyond) or not _are_whole(beyond):
            continue
        beyond.create_view("measured", replace=True)
        distinct, colliding = con.sql(sql_files.load("quality/collisions")).fetchall()[0]
        yield Collisions(name, distinct, colliding, way_out)


def _is_small(feature: Feature) -> bool:
    """Tells whether a column was measured, as columns of numbers are, and has no value from EXACT on."""
    return feature.low is not None and feature.high is not None and max(-feature.low, feature.high) < EXACT


def _values(rows: Relation, name: str, kind: str, how: Input) -> Relation | None:
    """Returns `value`, and `rounded` as the model sees it, of each number in a column; None if it is not judged."""
    column = ColumnExpression(name)
    match how:
        case Number() | FixedList() if how.scale:  # the owner says that it is a measure
            return None
        case Number():
            pass
        case FixedList():
            kind = kind.partition("[")[0]
            if kind == "DOUBLE":  # an embedding; looking through it would take longer than all other checks
                return None
            column = FunctionExpression("unnest", column)
        case Timestamp(convert="seconds"):
            us = FunctionExpression("epoch_us", column if "TIME ZONE" in kind else column.cast("TIMESTAMP"))
            origin = ConstantExpression(round(how.origin.timestamp() * 1e6))
            seconds = (us - origin).cast("DOUBLE") / ConstantExpression(1e6)
            return rows.select(us.alias("value"), seconds.cast("FLOAT").alias("rounded"))
        case _:
            return None
    if not WHOLE.fullmatch(kind):
        return None
    found = rows.select(column.cast(feature_type(kind)).alias("value"))
    value = ColumnExpression("value")
    fits = CaseExpression(FunctionExpression("abs", value) <= ConstantExpression(LARGEST), value)
    return found.select(value, fits.cast("FLOAT").alias("rounded"))


def _is_empty(rows: Relation) -> bool:
    return not rows.limit(1).fetchall()


def _are_whole(rows: Relation) -> bool:
    value = ColumnExpression("value")
    return not rows.filter(value != FunctionExpression("trunc", value)).limit(1).fetchall()
