"""The tables of a comparison, by task, as the command line and the page show them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from pipeline.compare.findings import Comparison, Row

OF_CLASSES = ("rows", "base_rate", "mean_score", "accuracy", "auc", "brier", "log_loss", "calibration_error")
METRICS = {
    "classification": OF_CLASSES,
    "multilabel": (*OF_CLASSES, "precision", "recall", "f1"),
    "regression": ("rows", "mean_label", "mean_score", "bias", "mae", "rmse", "r2"),
}
LISTS = {"regression": ("quantiles", ("level", "covered", "pinball")),
         "ranking": ("at_k", ("k", "precision", "recall", "hit_rate", "ndcg"))}  # fmt: skip
"""Metrics of several rows per version: the column of lists, and the fields of their elements."""


class Table(NamedTuple):
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


def decisions(found: Comparison) -> Table | None:
    """Returns which decisions change; None if the task has no table of them."""
    a, b = found.first, found.second
    columns: Sequence[str]
    if found.task == "classification":
        columns = (a, b, "rows", "share", f"mean score {a}", f"mean score {b}")
        return Table(
            "decisions", columns, _picked(found.flips, ("before", "after", "rows", "share", "mean_a", "mean_b"))
        )
    if found.task == "multilabel":
        columns = ("label", f"rows {a}", f"rows {b}", f"only {b}", f"only {a}")
        return Table("labels", columns, _picked(found.flips, ("label", "rows_a", "rows_b", "added", "removed")))
    return None


def overlap(found: Comparison) -> Table:
    if found.task == "ranking":
        columns = ("first", "mean in both", "overlap", "same order")
        return Table(
            "the first items of each list", columns, _picked(found.overlap, ("k", "in_both", "overlap", "same"))
        )
    return Table("rows with the highest scores", ("top", "in both", "overlap"),
                 _picked(found.overlap, ("k", "in_both", "overlap")))  # fmt: skip


def against_labels(found: Comparison) -> list[Table]:
    """Returns how good the predictions of both versions are; empty if there are no labels."""
    if not found.performance:
        return []
    versions = dict(zip((found.first, found.second), found.performance, strict=True))
    tables = []
    if found.task in METRICS:
        names = METRICS[found.task]
        what = f"against the labels, {found.target}" if found.target is not None else "against the labels"
        rows = [[version, *_values(row, names)] for version, row in versions.items()]
        tables.append(Table(what, ("version", *names), rows))
    if found.task in LISTS and any(row[LISTS[found.task][0]] for row in versions.values()):
        column, fields = LISTS[found.task]
        rows = [[version, *_values(each, fields)] for version, row in versions.items() for each in row[column] or ()]
        what = "quantiles" if column == "quantiles" else "against the labels"
        tables.append(Table(what, ("version", *fields), rows))
    return tables


def notes(found: Comparison) -> list[str]:
    """Returns why numbers are missing."""
    versions = dict(zip((found.first, found.second), found.performance, strict=False))
    return [*found.notes, *(f"{version}: {row['note']}" for version, row in versions.items() if row["note"])]


def _picked(rows: Iterable[Row], names: Sequence[str]) -> list[Sequence[Any]]:
    return [_values(row, names) for row in rows]


def _values(row: Row, names: Sequence[str]) -> Sequence[Any]:
    return [row[name] for name in names]
