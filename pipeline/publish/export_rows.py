"""The rows of an export: those left by suppression, of these the highest, and of these the ones that are held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from duckdb import ColumnExpression, ConstantExpression, FunctionExpression, StarExpression

from pipeline.columns import HIVE, KEY_TEXT, OF_PREDICTION, is_output
from pipeline.database import sql_files
from pipeline.database.connection import column_types
from pipeline.database.keys import key_expression
from pipeline.errors import DeliveryRefused, JobError, counted, nearest
from pipeline.job.targets import ExportTarget
from pipeline.publish.suppression import Applied, suppress
from pipeline.storage import Storage

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation
    from duckdb import Expression

RANK, GROUP = "export_rank", "export_group"
"""Columns that an export adds: the place by score in a segment, from 1; SENT or HOLDOUT."""
SENT, HOLDOUT = "target", "holdout"
BY_RANK = f"__segment NULLS LAST, {RANK} NULLS LAST, __key"
EVERYTHING = 1_000_000
"""The share of all rows, in millionths."""


@dataclass(frozen=True)
class Segment:
    segment: str | None
    chosen: int
    held_out: int
    lowest_score: float | None


@dataclass(frozen=True)
class Chosen:
    """What was chosen; the rows themselves are in the table `chosen`, with internal columns that begin with `__`."""

    columns: tuple[str, ...]
    """Columns of the rows that are exported, key first."""
    lists: tuple[Applied, ...]
    segments: tuple[Segment, ...]

    @property
    def sent(self) -> int:
        return sum(each.chosen - each.held_out for each in self.segments)

    @property
    def held_out(self) -> int:
        return sum(each.held_out for each in self.segments)


def choose(
    con: Connection, target: ExportTarget, key: Sequence[str], storage: Storage, as_of: datetime, scratch: Path
) -> Chosen:
    """Creates the table `chosen` from the view `outgoing`.

    Raises JobError for a column that the predictions do not have, DeliveryRefused for rows without a score, and what
    `suppress` raises.
    """
    rows = con.view("outgoing")
    columns = exported_columns(rows, target, key)
    types = column_types(rows)
    internal = {
        "__key": key_expression(key, types),
        "__text": ColumnExpression(KEY_TEXT),
        "__segment": text_or_null(types, target.per, "per", target),
        "__score": score_expression(types, target.score, target),
        "__content": _content(columns) if target.changes else ConstantExpression(None).cast("UBIGINT"),
    }
    named = [value.alias(name) for name, value in internal.items()]
    rows.select(*map(ColumnExpression, columns), *_others(rows, target, columns), *named).create_view("scored")
    if target.score is not None:
        check_scores(con.view("scored"), target.name, target.score)
    lists = suppress(con, target.suppress, storage, key, as_of, scratch)
    con.sql(sql_files.load("publish/eligible")).create_view("eligible")
    if target.score is None:
        rank = ConstantExpression(None).cast("BIGINT").alias(RANK)
        con.view("eligible").select(StarExpression(), rank).create_view("highest")
    else:
        limits = {"top": target.top, "millionths": target.millionths or EVERYTHING}
        con.sql(sql_files.load("publish/thresholds"), params=limits).create("thresholds")
        con.sql(sql_files.load("publish/highest")).create_view("highest")
    held = target.holdout
    groups = {"campaign": held.campaign if held else None, "held": held.buckets if held else 0}
    con.sql(sql_files.load("publish/in_groups"), params=groups).create("chosen")
    segments = con.sql(sql_files.load("publish/segments")).fetchall()
    return Chosen(columns, tuple(lists), tuple(Segment(*each) for each in segments))


def exported_columns(rows: Relation, target: ExportTarget, key: Sequence[str]) -> tuple[str, ...]:
    """Returns the columns to write. By default those that are not Lakescore's own: key, carried columns, outputs."""
    for name in target.columns:
        known_column(rows.columns, name, "columns", target)
    own = {*HIVE, *OF_PREDICTION, KEY_TEXT}
    others = [name for name in rows.columns if name not in key and name not in own]
    everything = (*key, *(name for name in others if not is_output(name)), *filter(is_output, others))
    columns = target.columns or everything
    if taken := [name for name in columns if name.casefold() in (RANK, GROUP)]:
        raise JobError(
            f"the target {target.name!r} would write a column {taken[0]!r}, which an export adds itself",
            where="[[publish]] in job.toml",
            next_step="list the others: columns = [...]",
        )
    return columns


def known_column(columns: Sequence[str], name: str, option: str, target: Any) -> str:
    """Returns the name of a column of the predictions. Raises JobError if there is none."""
    if name in columns:
        return name
    raise JobError(
        f"`{option}` of the target {target.name!r} names {name!r}, which the predictions do not have"
        f"{nearest(name, list(columns))}",
        where="[[publish]] in job.toml",
        expected=", ".join(columns),
        next_step="a column of the input is carried along by [input] carry = [...]",
    )


def text_or_null(types: Mapping[str, str], name: str | None, option: str, target: Any) -> Expression:
    """Returns a column as text, or NULL if no column is named."""
    if name is None:
        return ConstantExpression(None).cast("VARCHAR")
    return ColumnExpression(known_column(list(types), name, option, target)).cast("VARCHAR")


def score_expression(types: Mapping[str, str], name: str | None, target: Any) -> Expression:
    """Returns the score as DOUBLE: a column of numbers, or the first of a list of numbers; NULL if none is named."""
    if name is None:
        return ConstantExpression(None).cast("DOUBLE")
    value = ColumnExpression(known_column(list(types), name, "score", target))
    kind = types[name]
    if kind.endswith("[]"):
        value, kind = FunctionExpression("list_extract", value, ConstantExpression(1)), kind.removesuffix("[]")
    if kind == "BOOLEAN" or not (kind in ("FLOAT", "DOUBLE") or "INT" in kind or kind.startswith("DECIMAL")):
        raise JobError(
            f"`score` of the target {target.name!r} names {name!r}, which holds no numbers",
            where="[[publish]] in job.toml",
            expected="a column such as prob_class_1 or value",
            got=types[name],
        )
    return value.cast("DOUBLE")


def check_scores(rows: Relation, target: str, score: str) -> None:
    """Raises DeliveryRefused for rows whose `__score` is missing or not finite: they have no place in an order."""
    # As a filter of its own it would be pushed into the scan, and Parquet's statistics know nothing of NaN.
    without = "count(*) FILTER (__score IS NULL OR NOT isfinite(__score))"
    (found,) = rows.aggregate(without).fetchall()[0]
    if found:
        raise DeliveryRefused(
            f"{counted(found, 'row', ('has', 'have'))} no finite {score}, and so no place in the order",
            where=f"target {target}",
            next_step=f'leave them out: where = "isfinite({score})"',
        )


def _content(columns: Sequence[str]) -> Expression:
    """Returns 64 bits of a digest over the values of columns: another digest means another content."""
    texts = FunctionExpression("list_value", *(ColumnExpression(name).cast("VARCHAR") for name in columns))
    return FunctionExpression("md5_number_lower", FunctionExpression("to_json", texts).cast("VARCHAR"))


def _others(rows: Relation, target: ExportTarget, columns: Sequence[str]) -> list[Expression]:
    """Returns the columns that are needed although they are not exported: the key, and what suppression lists name."""
    wanted = dict.fromkeys(each.on for each in target.suppress if each.on is not None)
    for name in wanted:
        known_column(rows.columns, name, "suppress.on", target)
    return [ColumnExpression(name) for name in wanted if name not in columns]
