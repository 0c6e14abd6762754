"""The input's suite: what stops a run, what goes to the quarantine, and what is only noted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import JobError, QualityStop
from pipeline.flow.preview import preview
from pipeline.records import CheckResult, RunRecord, State
from tests.calling import Cli
from tests.workspace import DAY, Workspace, changed, table

BETWEEN = "expect_column_values_to_be_between"


def suite(workspace: Workspace, *expectations: dict[str, Any], side: str = "input") -> Path:
    path = workspace.settings.jobs / "toy" / f"{side}.json"
    path.write_text(json.dumps({"expectations": list(expectations)}))
    return path


def rule(kind: str, severity: str = "critical", meta: dict[str, Any] | None = None, **kwargs: Any) -> dict[str, Any]:
    return {"type": kind, "kwargs": kwargs, "severity": severity, "meta": meta or {}}


def found(record: RunRecord, name: str) -> CheckResult:
    (check,) = (check for check in record.checks if check.name == name)
    return check


def rejected(workspace: Workspace) -> dict[str, list[str]]:
    newest = max((workspace.lake / "quarantine").rglob("*.parquet"))
    return {row["id"]: row["reasons"] for row in pq.read_table(newest).to_pylist()}


def limit(workspace: Workspace, share: float) -> None:
    path = workspace.settings.jobs / "toy" / "job.toml"
    path.write_text(path.read_text().replace("max_quarantined = 1.0", f"max_quarantined = {share}"))


def test_job_without_quality_validates_only_when_asked(workspace: Workspace, cli: Cli) -> None:
    suite(workspace, rule(BETWEEN, column="a", min_value=1000, max_value=2000, meta={"name": "a_range"}))
    workspace.day(changed(table(20), "b", {0: None}))
    with (workspace.settings.jobs / "toy" / "job.toml").open("a") as file:
        file.write("[quality]\nenabled = false\n")
    planned = preview(workspace.context(), DAY)
    record = workspace.complete()
    assert record.ledger is not None
    assert (record.ledger.scored.rows, record.ledger.quarantined.rows) == (19, 1), "a policy holds without a suite"
    assert (planned.dispositions["scored"], planned.dispositions["quarantined"]) == (19, 1)
    assert {check.suite for check in record.checks} == {"model"}
    assert not (workspace.lake / "quality").exists()
    asked = cli("validate", "--job", "toy", "--date", DAY)
    assert "quarantined critical a_range: 20 rows (100.00%) (expected of a: between 1,000 and 2,000)" in asked.stdout


def test_run_rows_that_break_a_rule_go_to_quarantine_with_all_reasons_and_the_rest_is_scored(
    workspace: Workspace,
) -> None:
    suite(
        workspace,
        rule(BETWEEN, column="a", min_value=-50, max_value=50, meta={"name": "a_range"}),
        rule("expect_column_values_to_match_regex", column="id", regex="^u", meta={"name": "id_form"}),
    )
    rows = changed(table(20), "a", {0: 99.0, 1: 99.0})
    rows = changed(changed(rows, "b", {1: None, 2: None}), "id", {3: "bad"})
    workspace.day(rows)
    record = workspace.complete()
    assert record.ledger is not None
    assert (record.ledger.scored.rows, record.ledger.quarantined.rows) == (16, 4)
    assert record.ledger.balanced
    assert rejected(workspace) == {"u0": ["a_range"], "u1": ["a_range", "null:b"], "u2": ["null:b"], "bad": ["id_form"]}
    check = found(record, "a_range")
    assert (check.outcome, check.unexpected, check.engine) == ("quarantined", 2, "gx")


def test_run_copies_conflicts_and_rows_without_key_keep_their_reasons_beside_those_of_rules(
    workspace: Workspace,
) -> None:
    suite(workspace, rule(BETWEEN, column="a", max_value=50, meta={"name": "a_range"}))
    rows = changed(table(10), "a", {0: 99.0, 1: 99.0, 2: 99.0})
    copies = rows.slice(0, 1)  # a row that breaks the rule
    conflict = changed(rows.slice(1, 1), "b", {0: 7.0})
    without = changed(rows.slice(2, 1), "id", {0: None})
    workspace.day(pa.concat_tables([rows, copies, conflict, without]))
    ledger = workspace.complete().ledger
    assert ledger is not None
    assert ledger.balanced
    assert (ledger.scored.rows, ledger.duplicates.rows, ledger.quarantined.rows) == (7, 1, 5)
    newest = max((workspace.lake / "quarantine").rglob("*.parquet"))
    reasons = sorted((row["id"] or "", *row["reasons"]) for row in pq.read_table(newest).to_pylist())
    assert reasons == [
        ("", "null_key", "a_range"),
        ("u0", "a_range"),
        ("u1", "conflicting_duplicate", "a_range"),
        ("u1", "conflicting_duplicate", "a_range"),
        ("u2", "a_range"),
    ]


def test_run_repaired_row_is_scored_by_the_next_run(workspace: Workspace) -> None:
    suite(workspace, rule(BETWEEN, column="a", max_value=50))
    rows = table(10)
    workspace.day(changed(rows, "a", {0: 99.0}))
    workspace.run()
    workspace.day(rows)
    ledger = workspace.complete().ledger
    assert ledger is not None
    assert (ledger.scored.rows, ledger.unchanged.rows, ledger.quarantined.rows) == (1, 9, 0)


def test_run_more_broken_rows_than_allowed_stops_before_scoring_and_names_the_rule(workspace: Workspace) -> None:
    suite(workspace, rule(BETWEEN, column="a", max_value=50, meta={"name": "a_range"}))
    limit(workspace, 0.1)
    workspace.day(changed(table(10), "a", {0: 99.0, 1: 99.0}))
    with pytest.raises(QualityStop, match=r"2 of 10 rows.*a_range") as stopped:
        workspace.run()
    assert stopped.value.exit_code == 3
    assert not list(workspace.lake.rglob("part-*"))
    assert not list(workspace.lake.rglob("scored-*"))
    (record,) = workspace.context().lake.records.of_day("toy", DAY)
    assert record.state is State.stopped
    assert found(record, "a_range").outcome == "stopped"


@pytest.mark.parametrize(("severity", "outcome"), [("critical", "stopped"), ("warning", "noted"), ("info", "noted")])
def test_run_broken_expectation_about_the_day_stops_only_if_critical(
    workspace: Workspace, severity: str, outcome: str
) -> None:
    suite(workspace, rule("expect_column_mean_to_be_between", severity, column="a", min_value=1000, meta={"name": "m"}))
    workspace.day(50)
    if severity == "critical":
        with pytest.raises(QualityStop, match=r"fails for 2026-01-01: m"):
            workspace.run()
        (record,) = workspace.context().lake.records.of_day("toy", DAY)
    else:
        record = workspace.complete()
    assert found(record, "m").outcome == outcome
    assert bool(list(workspace.lake.rglob("part-*"))) == (severity != "critical")


def test_run_expectation_that_raises_counts_as_critical(workspace: Workspace) -> None:
    suite(
        workspace,
        rule("expect_column_mean_to_be_between", "info", column="nowhere", min_value=0, meta={"name": "m"}),
        rule("expect_column_to_exist", "info", column="nowhere"),
    )
    workspace.day(50)
    with pytest.raises(QualityStop, match=r"nowhere.*does not exist"):
        workspace.run()


def test_run_row_rule_may_stop_instead_of_quarantine(workspace: Workspace) -> None:
    suite(workspace, rule(BETWEEN, column="a", max_value=50, meta={"name": "a_range", "quarantine": False}))
    workspace.day(changed(table(10), "a", {0: 99.0}))
    with pytest.raises(QualityStop, match="a_range"):
        workspace.run()


def test_run_row_rule_of_severity_warning_scores_all_rows(workspace: Workspace) -> None:
    suite(workspace, rule(BETWEEN, "warning", column="a", max_value=50, meta={"name": "a_range"}))
    workspace.day(changed(table(10), "a", {0: 99.0}))
    record = workspace.complete()
    assert record.ledger is not None
    assert record.ledger.scored.rows == 10
    assert (found(record, "a_range").outcome, found(record, "a_range").unexpected) == ("noted", 1)


def test_run_share_under_mostly_stops(workspace: Workspace) -> None:
    suite(workspace, rule(BETWEEN, column="a", max_value=50, mostly=0.8, meta={"name": "a_range"}))
    rows = table(10)
    workspace.day(changed(rows, "a", {0: 99.0}))
    ledger = workspace.complete().ledger
    assert ledger is not None
    assert ledger.quarantined.rows == 1
    workspace.day(changed(rows, "a", dict.fromkeys(range(3), 99.0)))
    with pytest.raises(QualityStop, match="a_range"):
        workspace.run()


def test_run_key_uniqueness_in_a_suite_is_answered_by_the_plan(workspace: Workspace) -> None:
    suite(workspace, rule("expect_column_values_to_be_unique", "warning", column="id", meta={"name": "id_unique"}))
    rows = table(10)
    workspace.day(pa.concat_tables([rows, rows.slice(0, 2)]))
    check = found(workspace.complete(), "id_unique")
    assert (check.engine, check.unexpected, check.success) == ("plan", 4, False)


def test_run_rule_on_a_column_that_is_no_feature_quarantines_too(workspace: Workspace) -> None:
    suite(
        workspace,
        rule("expect_column_values_to_be_in_set", column="country", value_set=["UK", "FR"], meta={"name": "country"}),
    )
    rows = table(4).append_column("country", pa.array(["UK", "XX", None, "FR"]))
    workspace.day(rows)
    ledger = workspace.complete().ledger
    assert ledger is not None
    assert (ledger.scored.rows, ledger.quarantined.rows) == (3, 1)
    assert rejected(workspace) == {"u1": ["country"]}


def test_switching_off_an_unknown_check_is_refused(workspace: Workspace) -> None:
    workspace.job(schedule='[quality]\noff = ["row_cuont"]')
    workspace.day(5)
    with pytest.raises(JobError, match="did you mean 'row_count'"):
        workspace.run()
