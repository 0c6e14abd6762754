"""The period of a file by its path, as SQL: for views that also show files that are written later."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import and_
from typing import TYPE_CHECKING

from duckdb import CaseExpression as Case
from duckdb import CoalesceOperator
from duckdb import ColumnExpression as Column
from duckdb import ConstantExpression as Constant
from duckdb import FunctionExpression as Function

from pipeline.lake.patterns import Pattern
from pipeline.periods import Grain

if TYPE_CHECKING:
    from duckdb import Expression

NULL = Constant(None).cast("VARCHAR")


def period_in(pattern: Pattern, file: str) -> Expression:
    """Returns the stored text of the period of the path in column `file`, as `Pattern.ds_of` finds it.

    NULL if periods share files, or if the path is of none.
    """
    if pattern.same_paths is not None:
        return NULL
    names = [f"p{number}" for number in range(len(pattern.matches))]
    groups = Function("regexp_extract", Column(file), Constant(pattern.regex), Constant(names))
    texts = [Function("struct_extract", groups, Constant(name)) for name in names]
    form, numbers = pattern.joined
    joined = Function("concat_ws", Constant(" "), *(texts[number] for number in numbers))
    tries = []
    for more, value in pattern.completions:
        moment = Function("try_strptime", Function("concat", joined, Constant(value)), Constant(form + more))
        tries += [_found(pattern, moment, texts, later) for later in (0, 1)]
    return CoalesceOperator(*tries)


def _found(pattern: Pattern, moment: Expression, texts: Sequence[Expression], later: int) -> Expression:
    """Returns the period in which a moment lies, or the one after, if its path has these texts; else NULL."""
    zone = Constant(pattern.zone)
    if pattern.grain is Grain.hour:
        instant = moment if "%z" in pattern.joined[0] else Function("timezone", zone, moment)
        begin = Function("date_trunc", Constant("hour"), Function("timezone", Constant("UTC"), instant))
        return Function("strftime", begin, Constant("%Y-%m-%dT%HZ")) if later == 0 else NULL
    grain = str(pattern.grain)
    step = Function(f"to_{grain}s", Constant(later))
    begin = Function("date_trunc", Constant(grain), moment) + step
    same = (
        Function("strftime", begin, Constant(pattern.format_of(match))) == text
        for match, text in zip(pattern.matches, texts, strict=True)
    )
    return Case(reduce(and_, same), Function("strftime", begin, Constant("%Y-%m-%d")))
