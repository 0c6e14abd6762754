"""The labels of each task: the columns that an import takes, and the one in which they are stored.

classification  `label`        the class, as text
regression      `label_value`  the value that was observed
multilabel      `label_items`  the labels that apply, as text; an empty list if none does
ranking         `label_items`  the relevant items, as text
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import reduce
from operator import and_, or_
from typing import TYPE_CHECKING

from duckdb import CaseExpression, ColumnExpression, ConstantExpression, FunctionExpression, LambdaExpression

from pipeline.database.aligning import NUMBER
from pipeline.errors import SchemaMismatch, nearest

if TYPE_CHECKING:
    from duckdb import DuckDBPyRelation as Relation
    from duckdb import Expression

    from pipeline.model.manifest import Signature, Task

STORED: dict[Task, str] = {
    "classification": "label",
    "regression": "label_value",
    "multilabel": "label_items",
    "ranking": "label_items",
}
"""Column of a task's labels in the files of `labels/` and in the view `labels`."""
NOUN = {"multilabel": "a class", "classification": "a class", "ranking": "an item"}


def labelled(
    rows: Relation, key: Sequence[str], columns: Sequence[str], signature: Signature, where: object
) -> Relation:
    """Returns the key and the label of each row that has a label, in the column `STORED` of the task.

    Raises SchemaMismatch for a missing column, a label that the task cannot have, or one that the model does not know.
    """
    for name in (*key, *columns):
        if name not in rows.columns:
            raise SchemaMismatch(
                f"the labels lack a column {name!r}{nearest(name, rows.columns)}",
                where=where,
                expected=f"{', '.join(key)} and the label",
                got=", ".join(rows.columns),
            )
    types = dict(zip(rows.columns, map(str, rows.types), strict=True))
    if signature.task == "multilabel" and not types[columns[0]].endswith("]"):
        value = _of_flags(rows, columns, types, signature, where)
    else:
        if len(columns) > 1:
            raise SchemaMismatch(
                f"the labels of a {signature.task} are in one column", where=where, got=", ".join(columns)
            )
        value = _VALUE[signature.task](rows, columns[0], types[columns[0]], where)
    stored = STORED[signature.task]
    chosen = rows.select(*map(ColumnExpression, key), value.alias(stored)).filter(ColumnExpression(stored).isnotnull())
    if signature.task != "regression":
        _check_known(chosen, stored, signature, columns, where)
    return chosen


def _class(rows: Relation, column: str, kind: str, where: object) -> Expression:
    """Returns the class as text: a boolean as 0 or 1, and a number without `.0`."""
    del rows
    if kind.endswith("]"):
        raise SchemaMismatch(f"{column!r} is a list", where=where, expected="one class per row", got=kind)
    value = ColumnExpression(column)
    if kind == "BOOLEAN":
        value = value.cast("INTEGER")
    whole = value.cast("VARCHAR")
    if kind in ("FLOAT", "DOUBLE") or kind.startswith("DECIMAL"):  # 1.0 is the class 1; a text `v2.0` is no `v2`
        whole = FunctionExpression("regexp_replace", whole, ConstantExpression(r"\.0+$"), ConstantExpression(""))
    return whole


def _number(rows: Relation, column: str, kind: str, where: object) -> Expression:
    if not NUMBER.fullmatch(kind):
        raise SchemaMismatch(
            f"the labels of a regression are numbers, and {column!r} is not",
            where=where,
            expected="a column of numbers",
            got=kind,
            next_step=f"check that {column!r} is the column of the labels; for text, --types {column}=DOUBLE",
        )
    value = ColumnExpression(column).cast("DOUBLE")
    if bad := rows.filter(~FunctionExpression("isfinite", value)).aggregate("count(*)").fetchall()[0][0]:
        raise SchemaMismatch(f"{bad:,} labels are NaN or infinite", where=where, expected="numbers, or no value")
    return value


def _list(rows: Relation, column: str, kind: str, where: object) -> Expression:
    if not kind.endswith("]"):
        raise SchemaMismatch(
            f"the labels of a ranking are lists of relevant items, and {column!r} is not a list",
            where=where,
            expected="a list column, one row per key",
            got=kind,
            next_step=f"for text such as [sku-1, sku-7], --types {column}=VARCHAR[]; "
            "of rows with one item each, make one list per key",
        )
    items = ColumnExpression(column).cast("VARCHAR[]")
    holes = FunctionExpression("list_filter", items, LambdaExpression("item", ColumnExpression("item").isnull()))
    if (
        bad := rows.filter(FunctionExpression("len", holes) > ConstantExpression(0))
        .aggregate("count(*)")
        .fetchall()[0][0]
    ):
        raise SchemaMismatch(f"{bad:,} lists in {column!r} contain NULL", where=where, expected="labels alone")
    return FunctionExpression("list_sort", FunctionExpression("list_distinct", items))


_VALUE = {"classification": _class, "regression": _number, "multilabel": _list, "ranking": _list}


def _of_flags(
    rows: Relation, columns: Sequence[str], types: dict[str, str], signature: Signature, where: object
) -> Expression:
    """Returns the list of labels from one column per label, each named like its label and with 0 or 1 in each row."""
    classes = [str(label) for label in signature.classes]
    if set(columns) != set(classes):
        raise SchemaMismatch(
            "the labels of a multi-label model are one list column, or one column per label, named like it",
            where=where,
            expected="a list; or " + " ".join(f"--label {name}" for name in classes),
            got=", ".join(f"{name} {types[name]}" for name in columns),
            next_step=f"for text such as [{classes[0]}, {classes[-1]}], --types {columns[0]}=VARCHAR[]",
        )
    flags = {name: _flag(name, types[name], where) for name in classes}
    unknown = [flag.isnull() for flag in flags.values()]
    strange = [~flag.isin(ConstantExpression(0), ConstantExpression(1)) for flag in flags.values()]
    partly = reduce(or_, unknown) & ~reduce(and_, unknown)
    for bad, what in ((reduce(or_, strange), "have a value that is not 0 or 1"), (partly, "lack some of the labels")):
        if count := rows.filter(bad).aggregate("count(*)").fetchall()[0][0]:
            raise SchemaMismatch(f"{count:,} rows {what}", where=where, expected="0 or 1 in each column, or in none")
    names = [CaseExpression(flag == ConstantExpression(1), ConstantExpression(name)) for name, flag in flags.items()]
    present = LambdaExpression("label", ColumnExpression("label").isnotnull())
    listed = FunctionExpression("list_filter", FunctionExpression("list_value", *names), present)
    return CaseExpression(~reduce(and_, unknown), FunctionExpression("list_sort", listed))


def _flag(name: str, kind: str, where: object) -> Expression:
    if kind != "BOOLEAN" and not NUMBER.fullmatch(kind):
        raise SchemaMismatch(f"column {name!r} does not say yes or no", where=where, expected="0 or 1", got=kind)
    return ColumnExpression(name).cast("DOUBLE")


def _check_known(chosen: Relation, stored: str, signature: Signature, columns: Collection[str], where: object) -> None:
    """Raises SchemaMismatch for a label that is not a class or an item of the model."""
    known = [str(label) for label in signature.classes]
    label = ColumnExpression(stored)
    each = label if signature.task == "classification" else FunctionExpression("unnest", label)
    # of so many different values, at least three are unknown if any more than the known ones exist
    found = chosen.select(each).distinct().limit(len(known) + 3).fetchall()
    if unknown := sorted({text for (text,) in found} - set(known))[:3]:
        shown = ", ".join(known[:20]) + (f", ... ({len(known):,} in all)" if len(known) > 20 else "")
        raise SchemaMismatch(
            f"a label is not {NOUN[signature.task]} of the job's model",
            where=where,
            expected=shown,
            got=", ".join(map(repr, unknown)),
            next_step=f"check that {', '.join(map(repr, columns))} is the column of the labels"
            + ("; leave out items that the model does not rank" if signature.task == "ranking" else ""),
        )
