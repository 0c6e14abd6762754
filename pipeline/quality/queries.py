"""The gate for `unexpected_rows_expectation`, whose query Great Expectations runs as it stands.

The query may be one SELECT over `{batch}`, the rows that are validated, and nothing else: no file, no other view.
"""

from __future__ import annotations

from collections.abc import Iterable
from string import Formatter
from typing import TYPE_CHECKING

import duckdb

from pipeline.database.gate import check_select
from pipeline.errors import JobError, QueryRefused
from pipeline.records import Rule

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

KIND = "unexpected_rows_expectation"
BATCH = ("batch", "", None)
"""The only field of a query: its name, format and conversion."""


def check(con: Connection, view: str, rules: Iterable[Rule]) -> None:
    """Raises JobError for the first query that is anything else than one SELECT over the view."""
    for rule in rules:
        if rule.type == KIND:
            _check(con, view, rule)


def _check(con: Connection, view: str, rule: Rule) -> None:
    text = rule.kwargs["unexpected_rows_query"]
    try:
        fields = [field[1:] for field in Formatter().parse(text) if field[1] is not None]
    except ValueError as error:
        raise _refused(rule, f"has an unpaired brace: {error}", "write a brace that is meant as such twice") from None
    if not fields or set(fields) != {BATCH}:
        raise _refused(rule, "must read {batch}, and have no other field in braces", "SELECT * FROM {batch} WHERE ...")
    query = text.format(batch=view)
    try:
        check_select(con, query, [view])
        con.sql(query)
    except QueryRefused as error:
        raise _refused(rule, f"is refused: {error.what}", "read {batch} only, by one SELECT", error.got) from None
    except duckdb.OperationalError:
        raise  # memory, or the disk: not what was written
    except duckdb.Error as error:
        raise _refused(rule, "does not work", "correct the query", str(error)) from None


def _refused(rule: Rule, what: str, next_step: str, got: str | None = None) -> JobError:
    return JobError(
        f"the query of {rule.name} {what}",
        expected="one SELECT over {batch}, which returns the unexpected rows",
        got=got or rule.kwargs["unexpected_rows_query"],
        next_step=next_step,
    )
