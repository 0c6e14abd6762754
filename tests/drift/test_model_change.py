"""The first days of a new model are compared with what the model before gave."""

from __future__ import annotations

import dataclasses
from datetime import date, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.drift import stage
from tests.profiles.test_profiles import lake_views
from tests.workspace import DAY, Workspace, table

COLUMNS = "ds, column_name, kind, outcome, psi, mean_shift, reference_days, reference_rows, rows"


def days_from(first: str, count: int) -> list[str]:
    return [str(date.fromisoformat(first) + timedelta(days=number)) for number in range(count)]


def score(workspace: Workspace, days: list[str]) -> None:
    for ds in days:
        workspace.day(fresh(ds), ds)
        workspace.complete(ds)


def fresh(ds: str, rows: int = 2_000) -> pa.Table:
    rng = np.random.default_rng(date.fromisoformat(ds).toordinal())
    made = table(rows)
    for name in ("a", "b"):
        made = made.set_column(made.schema.get_field_index(name), name, pa.array(rng.normal(size=rows)))
    return made


def across(workspace: Workspace) -> list[dict[str, Any]]:
    with lake_views(workspace) as con:
        query = f"SELECT {COLUMNS} FROM drift WHERE reference = 'previous_model' ORDER BY ALL"
        found: list[dict[str, Any]] = con.sql(query).to_arrow_table().to_pylist()
    return found


@pytest.mark.slow
def test_first_days_of_a_new_model_are_compared_with_the_model_before(workspace: Workspace) -> None:
    """With the share of a class and the mean score as plain SQL over the predictions says."""
    days = days_from(DAY, 6)
    score(workspace, days[:2])
    assert across(workspace) == []
    workspace.model("v2", seed=3)
    score(workspace, days[2:])
    found = across(workspace)
    assert {row["ds"] for row in found} == set(days[2:5])  # from then on the new model's own days are the reference
    assert {(row["column_name"], row["kind"]) for row in found} == {("prediction", "class"), ("prob_class_1", "score")}
    assert {(row["reference_days"], row["reference_rows"], row["rows"]) for row in found} == {(2, 4_000, 2_000)}
    share = {row["model_version"]: row["share"] for row in workspace.stored(shares(days[2]))}
    by_column = {row["column_name"]: row for row in found if row["ds"] == days[2]}
    assert abs(by_column["prediction"]["mean_shift"]) == pytest.approx(abs(share["v2"] - share["v1"]), abs=1e-6)
    scores = {row["model_version"]: row for row in workspace.stored(scored(days[2]))}
    shift = (scores["v2"]["mean"] - scores["v1"]["mean"]) / scores["v1"]["deviation"]
    assert by_column["prob_class_1"]["mean_shift"] == pytest.approx(shift, rel=1e-4)
    assert by_column["prediction"]["outcome"] == by_column["prob_class_1"]["outcome"] == "critical"
    record = workspace.context().lake.records.last_complete("toy", days[2])
    assert record is not None
    assert [text for text in record.warnings if text.startswith("prediction has changed with the model: critical, PSI")]


def shares(ds: str) -> str:
    return f"SELECT model_version, avg((prediction = '1')::INT) AS share FROM predictions WHERE ds <= '{ds}' GROUP BY 1"


def scored(ds: str) -> str:
    return f"""SELECT model_version, avg(prob_class_1) AS mean, stddev(prob_class_1) AS deviation
        FROM predictions WHERE ds <= '{ds}' GROUP BY 1"""


@pytest.mark.slow
def test_new_version_with_the_same_weights_has_changed_nothing(workspace: Workspace) -> None:
    days = days_from(DAY, 3)
    score(workspace, days[:2])
    workspace.model("v2", seed=0)
    score(workspace, days[2:])
    found = across(workspace)
    assert [(row["column_name"], row["outcome"]) for row in found] == [("prediction", "ok"), ("prob_class_1", "ok")]
    assert all(row["psi"] < 0.05 for row in found)


@pytest.mark.slow
def test_models_of_other_classes_are_not_compared(workspace: Workspace) -> None:
    """Class 1 of three is not class 1 of two."""
    score(workspace, [DAY])
    workspace.model("v2", classes=3)
    score(workspace, days_from(DAY, 2)[1:])
    assert across(workspace) == []


def test_scores_of_classes_in_another_order_are_not_compared_but_the_shares_are() -> None:
    from pipeline.drift.model_change import _comparable
    from pipeline.histograms.counting import WHOLE, Counts, Spec

    now = {"p": Spec("class", "p", labels=("no", "yes")), "prob_class_1": Spec("score", "prob_class_1", (0.5,))}
    before = {**now, "p": dataclasses.replace(now["p"], labels=("yes", "no"))}
    theirs = {WHOLE: {name: Counts(spec) for name, spec in before.items()}}
    assert _comparable(now, theirs) == (before["p"],)


@pytest.mark.slow
def test_error_of_the_comparison_with_the_model_before_takes_no_other_outcome_with_it(workspace: Workspace) -> None:
    """The part file is gone, in which the scores would be counted again; the profile is there."""
    days = days_from(DAY, 2)
    score(workspace, days[:1])
    workspace.model("v2", seed=3)
    score(workspace, days[1:])
    ctx = workspace.context()
    record = ctx.lake.records.last_complete("toy", days[1])
    assert record is not None
    assert across(workspace)
    (workspace.lake / record.parts[0].path).unlink()
    (warning,) = stage.drift(ctx, record).warnings
    assert warning.startswith("no drift from the model before: ")
    assert "lakescore drift --job toy --date" in warning
    assert stage.OURS.search(warning)
    with lake_views(workspace) as con:
        kept = con.sql(f"SELECT DISTINCT reference FROM drift WHERE ds = '{days[1]}'").fetchall()
    assert kept == [("trailing",)]
