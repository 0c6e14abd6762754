"""Quarantine explains itself: reasons, counts and a few keys, before a run, after it, and if it was stopped."""

from __future__ import annotations

import json
import re

import pyarrow as pa
import pytest

from pipeline.errors import QualityStop
from pipeline.flow.preview import preview
from pipeline.quality import quarantine, rejections
from pipeline.quality.rejections import Reason
from tests.calling import Cli
from tests.quality.test_examine import BETWEEN, rule, suite
from tests.workspace import DAY, Workspace, changed, table

NARROW = {"id": ["u1", "u1", "u2", "u2", "u3"], "a": [1.0, 2.0, 3.0, 4.0, 5.0], "b": [0.0] * 5}
"""Rows that would be told apart by another column of the key."""
OF_NARROW = [Reason("conflicting_duplicate", 4, ("u1", "u1", "u2"))]
TOY = ("--job", "toy", "--date", DAY)


def at_most_a_tenth(workspace: Workspace) -> None:
    path = workspace.job() / "job.toml"
    path.write_text(path.read_text().replace("max_quarantined = 1.0", "max_quarantined = 0.1"))


def test_plan_says_why_and_which_rows_would_be_quarantined_as_the_run_does(workspace: Workspace) -> None:
    workspace.job(policy='null_features = "quarantine"')
    workspace.day(changed(changed(table(10), "a", {3: None}), "b", {3: None, 4: None}))
    planned = preview(workspace.context(), DAY)
    assert planned.quarantine == (Reason("null:b", 2, ("u3", "u4")), Reason("null:a", 1, ("u3",)))
    assert planned.stops == ()
    done = workspace.complete()
    assert rejections.of_run(workspace.context().lake, done) == list(planned.quarantine)
    again = preview(workspace.context(), DAY)
    assert again.up_to_date
    assert again.quarantine == planned.quarantine


def test_key_that_is_too_narrow_is_told_by_plan_run_list_and_page(workspace: Workspace, cli: Cli) -> None:
    at_most_a_tenth(workspace)
    workspace.day(pa.table(NARROW))
    before = workspace.files()
    said = cli("plan", *TOY).stdout
    assert "would be stopped: 4 of 5 rows would be quarantined, 80.0%, more than max_quarantined = 10.0%" in said
    assert re.search(r"conflicting_duplicate +4 +u1 u1 u2", said)
    assert "4 rows share id with a row that differs: if they are right, `key` needs another column" in said
    assert cli("plan", *TOY, "--check", expect=3).stdout == said
    assert workspace.files() == before

    stopped = cli("run", *TOY, expect=QualityStop).stderr
    assert "80.0%: 4 conflicting_duplicate" in stopped
    assert "next      lakescore quarantine list --job toy shows some keys; 4 rows share id" in stopped
    (listed,) = json.loads(cli("quarantine", "list", "--job", "toy", "--json").stdout)
    assert listed == {
        "ds": DAY,
        "reason": "conflicting_duplicate",
        "rows": 4,
        "keys": ["u1", "u1", "u2"],
        "stopped": True,
    }
    assert "the run was stopped: they would be" in cli("quarantine", "list", "--job", "toy").stdout
    (page,) = (workspace.lake / "reports" / "job=toy").rglob("*.html")
    assert "conflicting_duplicate" in page.read_text()
    assert ">u1" not in page.read_text()  # keys may be personal data


def test_run_prints_why_rows_are_in_quarantine(workspace: Workspace, cli: Cli) -> None:
    workspace.day(changed(table(10), "a", {3: None}))
    assert re.search(r"quarantined because +rows +keys(?s:.)*null:a +1 +u3\b", cli("run", *TOY).stdout)


def test_list_of_a_day_that_a_rule_stopped_counts_the_rows_that_break_it(workspace: Workspace) -> None:
    at_most_a_tenth(workspace)
    suite(workspace, rule(BETWEEN, column="a", max_value=50, meta={"name": "a_range"}))
    workspace.day(changed(table(10), "a", dict.fromkeys(range(6), 99.0)))
    assert any("6 of 10 rows would be quarantined" in why for why in preview(workspace.context(), DAY).stops)
    with pytest.raises(QualityStop):
        workspace.run()
    (found,) = quarantine.days(workspace.context())
    assert (found.reason, found.rows, found.stopped) == ("a_range", 6, True)


def test_list_forgets_a_stopped_run_once_the_day_is_right(workspace: Workspace) -> None:
    at_most_a_tenth(workspace)
    workspace.day(pa.table(NARROW))
    with pytest.raises(QualityStop):
        workspace.run()
    workspace.day(10)
    workspace.complete()
    assert quarantine.days(workspace.context()) == []


def test_plan_says_which_built_in_check_would_stop_the_run(workspace: Workspace) -> None:
    for day in range(2, 7):
        workspace.day(1000, f"2025-12-0{day}")
        workspace.complete(f"2025-12-0{day}")
    workspace.day(table(1000).slice(0, 10))
    (why,) = preview(workspace.context(), DAY).stops
    assert why.startswith("row_count: 10 rows")


def test_plan_with_check_evaluates_what_only_great_expectations_can(workspace: Workspace) -> None:
    suite(workspace, rule("expect_table_row_count_to_equal", value=7, meta={"name": "seven"}))
    workspace.day(10)
    assert preview(workspace.context(), DAY).stops == ()
    (why,) = preview(workspace.context(), DAY, whole=True).stops
    assert why.startswith("seven")


def test_tally_of_batches_counts_reasons_and_writes_keys_as_stored(workspace: Workspace) -> None:
    tally = rejections.Tally(["shop", "id"])
    for start in (0, 2):
        rows = pa.record_batch({"shop": ["a,b"] * 2, "id": [start, start + 1]})
        tally.add(rows, pa.array([["null:x"], ["null:x", "rule"]]))
    tally.add(pa.record_batch({"shop": pa.array([None], pa.string()), "id": [9]}), pa.array([["null_key"]]))
    assert tally.reasons() == [
        Reason("null:x", 4, ("a\\,b,0", "a\\,b,1", "a\\,b,2")),
        Reason("rule", 2, ("a\\,b,1", "a\\,b,3")),
        Reason("null_key", 1),
    ]
