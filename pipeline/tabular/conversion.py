"""Converts columns to the types of `--types`: a value that cannot be converted without a loss stops the query."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from duckdb import CaseExpression as Case
from duckdb import ColumnExpression as Column
from duckdb import ConstantExpression as Constant
from duckdb import FunctionExpression as Function

from pipeline.tabular.inference import TEXT, with_point

if TYPE_CHECKING:
    from duckdb import Expression

WHOLE = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT"}
FLOATING = {"FLOAT", "DOUBLE"}
"""Who asks for these asks for the nearest one."""
LISTS = {f"{kind}[]" for kind in FLOATING}
TEXTS = f"{TEXT}[]"
TYPES = WHOLE | FLOATING | LISTS | {TEXT, TEXTS, "BOOLEAN", "DATE", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE"}
DECIMAL = re.compile(r"DECIMAL\(\d+,(\d+)\)")
NOT_STORED = re.compile(r"INTERVAL|BIT|JSON|UUID|ENUM\(.*|TIME WITH TIME ZONE|\"?NULL\"?")
"""Types without a direct equivalent in Parquet; such columns are stored as text."""
EXACT = 2.0**53
"""Above this value, a double cannot represent every whole number."""
SHOWN = 40
"""Characters of a value that an error shows."""
REFUSED = "not of the type given: "
REFUSAL = re.compile(rf"{REFUSED}('.*?'|\".*?\") ([A-Z][A-Z ]*(?:\(\d+,\d+\))?(?:\[\])?): (.*)", re.DOTALL)

DAY = r" *\d{4}[-/]\d\d?[-/]\d\d?"
CLOCK = r"\d\d?:\d\d(:\d\d(\.\d{1,6}0*)?)?"
PATTERNS = (
    {
        "DATE": rf"{DAY}([ T]00:00(:00(\.0*)?)?)? *",
        "TIMESTAMP": rf"{DAY}([ T]{CLOCK} ?(Z|UTC|[-+]\d\d(:?\d\d)?)?)? *",
    }
    | dict.fromkeys(WHOLE, r" *[-+]?\d+(\.0*)? *")
    | dict.fromkeys(FLOATING, r" *[-+]?((\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|(?i:inf(inity)?|nan)) *")
)
PATTERNS["TIMESTAMP WITH TIME ZONE"] = PATTERNS["TIMESTAMP"]
"""What a text must look like, with a decimal point, to be converted to a type: DuckDB takes more, and rounds it."""


class Refusal(NamedTuple):
    column: str
    wanted: str
    value: str


def is_type(kind: str) -> bool:
    return kind in TYPES or DECIMAL.fullmatch(kind) is not None


def _is_number(kind: str) -> bool:
    return kind in WHOLE | FLOATING or DECIMAL.fullmatch(kind) is not None


def stored(name: str, found: str) -> Expression:
    """Returns a column in the type in which it is stored."""
    column = Column(name)
    return (column.cast(TEXT) if NOT_STORED.fullmatch(found) else column).alias(name)


def converted(name: str, found: str, wanted: str, decimal: str) -> Expression:
    """Returns a column in the type `wanted`; a value for which that loses something aborts the query."""
    column = Column(name)
    source = with_point(column, decimal) if found == TEXT and _is_number(wanted) else column
    value = Function("try", source.cast(wanted))
    lost = value.isnull() | ~_keeps(column, source, value, found, wanted, decimal)
    shown = Function("left", column.cast(TEXT), Constant(SHOWN))
    refusal = Function("error", Function("concat", Constant(f"{REFUSED}{name!r} {wanted}: "), shown))
    return Case(column.isnotnull() & lost, refusal).otherwise(value).alias(name)


def refusal_in(text: str) -> Refusal | None:
    """Returns what an error of DuckDB says that `converted` has refused, or None."""
    found = REFUSAL.search(text)
    if found is None:
        return None
    name, wanted, value = found.groups()
    return Refusal(name[1:-1], wanted, value)


def _keeps(
    column: Expression, source: Expression, value: Expression, found: str, wanted: str, decimal: str
) -> Expression:
    """Returns whether a value that can be cast is kept by the cast."""
    yes = Constant(value=True)
    if wanted in LISTS | {TEXT, TEXTS}:
        return yes
    if found != TEXT:
        if wanted in FLOATING:
            return yes
        back = value.cast(found) == column
        if wanted in WHOLE and found not in WHOLE:
            back &= Function("abs", column.cast("DOUBLE")) < Constant(EXACT)
        return back
    scale = DECIMAL.fullmatch(wanted)
    pattern = rf" *[-+]?\d*(\.\d{{0,{scale.group(1)}}}0*)? *" if scale else PATTERNS.get(wanted)
    if pattern is None:
        return yes
    fits = Function("regexp_full_match", source, Constant(pattern))
    if decimal != "." and _is_number(wanted):  # is 1.234 a thousand?
        fits &= ~Function("contains", column, Constant("."))
    if wanted in FLOATING:  # 1e400 becomes infinite
        fits &= Function("isfinite", value) | ~Function("regexp_matches", source, Constant(r"\d"))
    return fits
