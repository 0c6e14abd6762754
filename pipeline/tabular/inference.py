"""Infers the types of text from every value, so that no value is lost.

DuckDB infers types from a sample and forces later rows to fit: 1.5 becomes 2, 0012 becomes 12, and 01/02/2026 becomes
a day in January or in February. Here a few rows only suggest a type, and one pass over all rows confirms it. For the
columns where that fails, one more pass finds the first type that fits every value.

Text keeps its identity. Integers, dates and times get a type only if the value, written back in the one form that the
column uses, is the same text: `007`, `+49170`, ` 12` and a column of both `10:00` and `10:00:00` stay text. A decimal
becomes a DOUBLE if its digits survive: at most 15 of them, or those that the DOUBLE itself has. A column of the key is
stricter still, because keys are compared, printed and looked up as text: only DuckDB's own form counts, and no DOUBLE.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from duckdb import CaseExpression as Case
from duckdb import ColumnExpression as Column
from duckdb import ConstantExpression as Constant
from duckdb import FunctionExpression as Function

if TYPE_CHECKING:
    from duckdb import DuckDBPyRelation as Relation
    from duckdb import Expression

TEXT = "VARCHAR"
SAMPLE_ROWS = 1000
MOST_ASKED = 400
"""Number of questions in one query: each needs some 100 kB per thread, and a file may have thousands of columns."""

DAY = r"(\d{3}[1-9]|\d\d[1-9]\d|\d[1-9]\d\d|[1-9]\d{3})-\d\d-\d\d"
CLOCK = r"([01]\d|2[0-3]):[0-5]\d"
ZONE = r"(Z|[-+]\d\d(:?\d\d)?)"
MOMENT = rf"{DAY}[ T]{CLOCK}(:[0-5]\d(\.\d{{1,6}})?)?"
NONZERO = r"\.([1-9]\d{5}|0[1-9]\d{4}|00[1-9]\d{3}|000[1-9]\d\d|0000[1-9]\d|00000[1-9])"
TRIMMED = r"(\.\d{0,5}[1-9])?"
"""The fraction of a second as DuckDB and PostgreSQL write it: without trailing zeros."""


PLAIN_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][-+]?\d+)?")
DIGITS = 15
"""Number of significant decimal digits that any DOUBLE keeps, if it is not smaller than SMALLEST."""
SMALLEST = 2.3e-308
MOST_DIGITS = 60
NO, DOUBT, YES = 0, 1, 2


class Rule(NamedTuple):
    """A type, and the pattern that every value of a column must match to get it."""

    kind: str
    pattern: str
    suffices: bool = False
    """Whether the pattern alone decides, and no value needs to be converted to see."""


class Fit(NamedTuple):
    """The rule that all values of a column fit, or None; and one of its values, None if there is none."""

    rule: Rule | None
    example: str | None


WHOLE = Rule("BIGINT", r"0|-?[1-9]\d{0,18}")
KEY_RULES = (
    Rule("BOOLEAN", "true|false"),
    WHOLE,
    Rule("DATE", DAY),
    Rule("TIMESTAMP", rf"{DAY} {CLOCK}:[0-5]\d{TRIMMED}"),
    Rule("TIMESTAMP WITH TIME ZONE", rf"{DAY} {CLOCK}:[0-5]\d{TRIMMED}\+00"),
)


def rules(decimal: str) -> tuple[Rule, ...]:
    """Returns the rules in order: the first that fits all values wins. `decimal` is the decimal point, `.` or `,`."""
    whole, point, power = r"(0|[1-9]\d*)", re.escape(decimal), r"[eE][-+]?\d+"
    number = rf" *[-+]?({whole}{point}\d*({power})?|{point}\d+({power})?|{whole}{power}) *"
    return (
        Rule("BOOLEAN", "(?i)true|false"),
        WHOLE,
        Rule("DOUBLE", rf"-?(0|[1-9]\d{{0,14}})|{number}|(?i: *[-+]?(inf(inity)?|nan) *)"),
        Rule("DATE", DAY),
        Rule("TIMESTAMP", MOMENT),
        Rule("TIMESTAMP WITH TIME ZONE", MOMENT + ZONE),
    )


def infer(rows: Relation, every: Mapping[str, Sequence[Rule]], decimal: str = ".") -> dict[str, str]:
    """Returns the type of each column: the first of its rules that fits. All columns are text in `rows`.

    A column without a value, or that fits no rule, is TEXT.
    """
    found = _guess(rows, every)
    likely = {name: _forms(fit) for name, fit in found.items() if fit.rule is not None}
    unseen = [name for name, fit in found.items() if fit.example is None]
    found |= _first_fit(rows, likely, decimal)
    surprising = [name for name in likely if found[name].rule is None]
    late = _first_fit(rows, {name: every[name] for name in (*unseen, *surprising)}, decimal)
    found |= late
    found |= _first_fit(rows, {name: _forms(fit) for name, fit in late.items() if _is_moment(fit.rule)}, decimal)
    return {name: TEXT if fit.rule is None else fit.rule.kind for name, fit in found.items()}


def rules_of(names: Iterable[str], key: Collection[str], decimal: str = ".") -> dict[str, tuple[Rule, ...]]:
    """Returns the rules for each column."""
    usual = rules(decimal)
    return {name: KEY_RULES if name in key else usual for name in names}


def first_other(rows: Relation, name: str, kind: str, decimal: str) -> str | None:
    """Returns a value of a text column that does not have a type, and for which the column is not of that type."""
    rule = next(rule for rule in rules(decimal) if rule.kind == kind)
    others = (
        rows.filter(Column(name).isnotnull() & (_verdict(name, rule, decimal, thorough=True) == Constant(NO)))
        .select(Column(name))
        .limit(1)
    )
    return next((value for (value,) in others.fetchall()), None)


def _is_moment(rule: Rule | None) -> bool:
    return rule is not None and rule.pattern.startswith(MOMENT)


def _forms(fit: Fit) -> tuple[Rule, ...]:
    """Returns the rules of one form each, of which a column needs one; its example tells which are possible."""
    if fit.rule is None or not _is_moment(fit.rule) or fit.example is None:
        return () if fit.rule is None else (fit.rule,)
    example = re.fullmatch(r"\S{10}(.)\d\d:\d\d(:\d\d)?(\.\d+)?(.*)", fit.example)
    assert example is not None
    between, seconds, fraction, zone = example.groups("")
    fractions = [""]
    if seconds:
        same = [rf"\.\d{{{len(fraction) - 1}}}"] if fraction else []
        fractions = [f":[0-5]\\d{each}" for each in (*same, TRIMMED, rf"({NONZERO})?")]
    return tuple(Rule(fit.rule.kind, f"{DAY}{between}{CLOCK}{each}{re.escape(zone)}") for each in fractions)


def _guess(rows: Relation, every: Mapping[str, Sequence[Rule]]) -> dict[str, Fit]:
    """Returns the first rule of each column whose pattern some rows match, and a value."""
    if not every:
        return {}
    sample = rows.select(*map(Column, every)).limit(SAMPLE_ROWS).fetchall()
    found = {}
    for name, values in zip(every, zip(*sample, strict=True) if sample else [()] * len(every), strict=True):
        texts = {value for value in values if value is not None}
        patterns = ((rule, re.compile(rule.pattern, re.ASCII)) for rule in every[name])
        fitting = (rule for rule, pattern in patterns if all(map(pattern.fullmatch, texts)))
        found[name] = Fit(next(fitting, None) if texts else None, min(texts, default=None))
    return found


def _first_fit(
    rows: Relation, candidates: Mapping[str, Sequence[Rule]], decimal: str, *, thorough: bool = False
) -> dict[str, Fit]:
    """Returns for each column the first of its rules that all values fit. Reads the rows once per MOST_ASKED rules.

    A second pass looks more closely, and more slowly, at columns in which a quick look leaves doubts.
    """
    asked = [(name, rule) for name, each in candidates.items() for rule in each]
    found: dict[str, Fit] = {}
    doubtful: dict[str, Sequence[Rule]] = {}
    for start in range(0, len(asked), MOST_ASKED):
        some = asked[start : start + MOST_ASKED]
        names = list(dict.fromkeys(name for name, _ in some))
        verdicts = [Function("min", _verdict(name, rule, decimal, thorough=thorough)) for name, rule in some]
        answers = rows.aggregate([*verdicts, *(Function("min", Column(name)) for name in names)]).fetchall()[0]
        examples = dict(zip(names, answers[len(some) :], strict=True))
        for (name, rule), verdict in zip(some, answers, strict=False):
            before = found.setdefault(name, Fit(None, examples[name]))
            if before.rule is None and verdict == YES:
                found[name] = Fit(rule, examples[name])
            elif before.rule is None and verdict == DOUBT:
                doubtful[name] = candidates[name]
    if doubtful:
        found |= _first_fit(rows, doubtful, decimal, thorough=True)
    return found


def _verdict(name: str, rule: Rule, decimal: str, *, thorough: bool) -> Expression:
    """Returns YES, NO or DOUBT: whether a value has the type; NULL for NULL. If `thorough`, there is no doubt."""
    text = Column(name)
    matches = Function("regexp_full_match", text, Constant(rule.pattern))
    if rule.suffices:
        kept = Constant(value=True)
    elif rule.kind != "DOUBLE":
        kept = Function("try", text.cast(rule.kind)).isnotnull()
    else:
        kept = survives(text, decimal) if thorough else _clearly_survives(text, decimal)
    otherwise = DOUBT if rule.kind == "DOUBLE" and not thorough else NO
    verdict = Case(kept, Constant(YES)).otherwise(Constant(otherwise))
    return Case(text.isnull(), Constant(None)).when(matches, verdict).otherwise(Constant(NO))


def typed(name: str, kind: str, decimal: str) -> Expression:
    """Returns a text column in the type that `infer` found."""
    text = Column(name)
    return (with_point(text, decimal) if kind == "DOUBLE" else text).cast(kind).alias(name)


def as_double(text: Expression, decimal: str) -> Expression:
    """Returns a text as DOUBLE, or NULL if it is no number."""
    return Function("try", with_point(text, decimal).cast("DOUBLE"))


def with_point(text: Expression, decimal: str) -> Expression:
    return text if decimal == "." else Function("replace", text, Constant(decimal), Constant("."))


def survives(text: Expression, decimal: str) -> Expression:
    """Returns whether a number keeps its digits as a DOUBLE.

    A DOUBLE keeps any 15 significant digits. More of them survive if the DOUBLE, printed with as many, is the same:
    0.30000000000000004 and 1.0000000000000001e-01, which programs write for a DOUBLE, but not 3.14159265358979323846.
    """
    number = as_double(text, decimal)
    digits = Function("trim", _only_digits(Function("regexp_extract", text, Constant(r"[\d.,]+"))), Constant("0"))
    count = Function("length", digits)
    longer = Function("format", Constant("{:.{}e}"), Function("abs", number), count - Constant(1))
    again = Function("rtrim", _only_digits(Function("split_part", longer, Constant("e"), Constant(1))), Constant("0"))
    in_range = Function("isfinite", number) & (Function("abs", number) >= Constant(SMALLEST))
    return (
        Case(_clearly_survives(text, decimal), Constant(value=True))
        .when(digits == Constant(""), number.isnotnull())
        .when(~in_range | (count > Constant(MOST_DIGITS)), Constant(value=False))
        .when(count <= Constant(DIGITS), Constant(value=True))
        .otherwise(again == digits)
    )


def _clearly_survives(text: Expression, decimal: str) -> Expression:
    """Returns whether a number has few digits, or is what DuckDB prints: true of nearly all numbers in files."""
    power = Function("contains", text, Constant("e")) | Function("contains", text, Constant("E"))
    short = (Function("strlen", text) <= Constant(DIGITS + 1)) & ~power
    printed = as_double(text, decimal).cast(TEXT) == with_point(text, decimal)
    return Case(short, Constant(value=True)).otherwise(printed)  # nothing is printed where it is short


def _only_digits(text: Expression) -> Expression:
    return Function("translate", text, Constant(".,"), Constant(""))
