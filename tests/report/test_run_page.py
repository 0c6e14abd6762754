"""The page of a run: its neighbours, what has changed since the run before, and the distributions of its columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.histograms.counting import Counts, Spec
from pipeline.lake.layout import Lake
from pipeline.periods import Grain
from pipeline.records import CheckResult, ModelRef, RunRecord, Severity
from pipeline.report import distributions, facts, neighbours, pages
from tests import lakes

DAYS = ["2026-01-05", "2026-01-06"]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return lakes.open_lake(tmp_path / "lake")


def page(lake: Lake, record: RunRecord) -> str:
    return (lake.storage.read(facts.page_of(record)) or b"").decode()


def test_pages_link_to_the_runs_before_and_after(lake: Lake) -> None:
    first, second = (lakes.add_day(lake, ds) for ds in DAYS)
    pages.write_run(lake, first)
    assert "Next run" not in page(lake, first)
    pages.write_run(lake, second)
    assert f'<a href="../ds={DAYS[0]}/{first.run_id}.html">Previous run: {DAYS[0]}</a>' in page(lake, second)
    link = f'<a href="../ds={DAYS[1]}/{second.run_id}.html">Next run: {DAYS[1]}</a>'
    assert page(lake, first).count(link) == 1
    pages.write_run(lake, first)
    pages.write_run(lake, second)
    assert page(lake, first).count(link) == 1


def test_changes_name_model_job_rules_and_columns(lake: Lake) -> None:
    passed = {"severity": Severity.warning, "success": True, "outcome": "passed", "expected": "at most 9"}
    rule = CheckResult.model_validate({"suite": "input", "name": "age", "expectation": "x", **passed})
    before = lakes.add_day(lake, DAYS[0]).with_(job_config={"policy": {"max_quarantined": 0.05}}, checks=(rule,))
    now = before.with_(
        model=ModelRef(name="churn_model", version="v2", digest="another"),
        job_config={"policy": {"max_quarantined": 1.0}},
        checks=(rule.model_copy(update={"expected": "at most 5"}),),
        plan=before.plan.model_copy(update={"features": ("age", "tenure")}),
    )
    assert neighbours.changes(before, before) == []
    found = {each.what: (each.name, each.before, each.now) for each in neighbours.changes(before, now)}
    assert found["job"] == ("policy.max_quarantined", "0.05", "1.0")
    assert found["suite"] == ("input: age", "warning: at most 9", "warning: at most 5")
    assert found["input"] == ("features", "removed: income", "added: tenure")
    assert found["model"][1:] == ("churn_model v1, digest digest-of-v1", "churn_model v2, digest another")


def test_distribution_has_the_shares_of_the_day_and_of_its_references() -> None:
    spec = Spec("feature", "a<b", (0.0, 1.0))
    day, trained = Counts(spec), Counts(spec)
    day.add_numbers(np.repeat([-1, 0.5, 2], [100, 300, 600]).astype(np.float32))
    trained.add_numbers(np.repeat([-1, 0.5, 2], [500, 250, 250]).astype(np.float32))
    found = distributions.distribution(day, {"training": trained}, "critical", Grain.week, 0)
    assert found.groups == (
        ("below 0", "10.0%", "50.0%"),
        ("0 to 1", "30.0%", "25.0%"),
        ("1 and above", "60.0%", "25.0%"),
    )
    assert found.heads == ("this week", "training")
    assert 'aria-label="Distribution of a&lt;b on this week, and in the training data"' in found.svg


def test_distribution_of_labels_escapes_them() -> None:
    day = Counts(Spec("class", "prediction", labels=("<script>", "b")))
    day.bins[:] = day.rows = 1
    found = distributions.distribution(day, {}, "none", Grain.day, 0)
    assert "&lt;script&gt;</text>" in found.svg
    assert "<script>" not in found.svg


def test_distribution_of_many_classes_keeps_the_frequent_ones() -> None:
    spec = Spec("class", "prediction", labels=tuple(f"c{number}" for number in range(40)))
    day = Counts(spec)
    day.bins[:] = 1
    day.bins[5] = day.rows = 100
    found = distributions.distribution(day, {}, "none", Grain.day, 0)
    assert len(found.groups) == distributions.MOST_LABELS
    assert found.groups[-1][0] == "29 others"
    assert ("c5", "71.9%") in found.groups
