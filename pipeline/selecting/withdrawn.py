"""Withdrawn keys have a prediction but no longer a row in the input.

They keep their prediction, unless the job says `withdrawn = "mark"`: then the run publishes one more revision of each,
with the reason `withdrawn` and without outputs. Such a row is the newest of its key, so that the view `predictions` has
none for it; the earlier ones stay in the history. It is committed, rolled back and erased like any other row. Once its
key is in the input again, the key is scored, with the reason `returned` and the next revision.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duckdb import StarExpression

from pipeline.database import sql_files
from pipeline.database.connection import column_types, read_parquet
from pipeline.database.keys import key_expression
from pipeline.records import Term
from pipeline.selecting.views import Selection

if TYPE_CHECKING:
    from duckdb import DuckDBPyRelation as Relation


def withdrawn(selected: Selection) -> int:
    """Returns the number of withdrawn keys, marked or not."""
    return selected.term("selecting/withdrawn").rows if selected.base else 0


def unmarked(selected: Selection) -> Term:
    """Returns the number and hash sum of the withdrawn keys that are not marked yet."""
    return selected.term("selecting/unmarked") if selected.base else Term()


def to_mark(selected: Selection) -> Relation:
    """Returns the newest stored row of each withdrawn key that is not marked yet. Needs a partition with rows."""
    stored = read_parquet(selected.con, selected.base)
    key = key_expression(selected.plan.key, column_types(stored)).alias("__key")
    stored.select(key, StarExpression()).create_view("stored_rows", replace=True)
    return selected.con.sql(sql_files.load("selecting/to_mark"))
