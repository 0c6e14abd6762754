"""Withdrawn keys: named in every report, and marked if the job says so, without loss of their history."""

from __future__ import annotations

import os
from collections.abc import Callable

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.care.erase import erase
from pipeline.care.rollback import rollback
from pipeline.care.verify import verify
from pipeline.errors import LedgerImbalance
from pipeline.explain.explaining import explain
from pipeline.flow.preview import preview
from pipeline.flow.status import status
from pipeline.query.catalog import write_catalog
from pipeline.records import RunRecord, State
from pipeline.staging.folders import staged_files
from tests.calling import Cli
from tests.stages import commit, scored
from tests.workspace import DAY, Workspace, table

CURRENT = "SELECT id, revision, reason FROM predictions ORDER BY id"
HISTORY = "SELECT id, revision, reason, prob_class_1 IS NULL FROM predictions_history WHERE revision > 0 ORDER BY ALL"
ROWS = table({"id": ["u", "v", "w", "x"], "a": [1.0, 2.0, 3.0, 4.0], "b": [1.0] * 4, "c": ["A", "B", "C", None]})
FEWER = ROWS.slice(0, 2)


@pytest.fixture
def marking(workspace: Workspace) -> Workspace:
    """A day of four rows, of which two are then withdrawn and marked."""
    workspace.job(reads='carry = ["c"]', policy='withdrawn = "mark"')
    workspace.day(ROWS)
    workspace.run()
    workspace.day(FEWER)
    workspace.run()
    return workspace


def newest(workspace: Workspace) -> RunRecord:
    record = workspace.context().lake.records.last_complete("toy", DAY)
    assert record is not None
    return record


def sound(workspace: Workspace) -> bool:
    return not list(verify(workspace.context().lake))


@pytest.mark.slow
def test_withdrawn_rows_are_named_by_plan_run_record_view_status_and_page(workspace: Workspace, cli: Cli) -> None:
    workspace.with_pages()
    workspace.day(ROWS)
    workspace.run()
    workspace.day(FEWER)
    day = ("--job", "toy", "--date", DAY)
    said = "2 predicted rows are no longer in the input; their predictions are kept"
    assert said in cli("plan", *day).stdout
    assert said in cli("run", *day).stdout
    assert workspace.ask("SELECT withdrawn, marked FROM runs ORDER BY run_id") == [(0, 0), (2, 0)]
    ctx = workspace.context()
    assert [each.note for each in status(ctx.lake, ctx.job, ctx.manifest().ref)] == [
        "2 predicted rows are no longer in the input"
    ]
    page = (workspace.lake / "reports" / "job=toy" / f"ds={DAY}" / f"{newest(workspace).run_id}.html").read_text()
    assert "2 predicted rows are no longer in the input." in page
    assert workspace.ask("SELECT count(*) FROM predictions") == [(4,)]


@pytest.mark.slow
def test_marked_rows_leave_predictions_and_stay_in_the_history(marking: Workspace) -> None:
    record = newest(marking)
    assert (record.withdrawn, record.marked.rows) == (2, 2)
    assert record.ledger is not None
    assert record.ledger.counts() == {
        "candidates": 2, "scored": 0, "unchanged": 2, "quarantined": 0, "duplicates": 0, "overtaken": 0,
    }  # fmt: skip
    assert marking.ask(CURRENT) == [("u", 0, "new"), ("v", 0, "new")]
    assert marking.ask("SELECT id FROM predictions_by_version ORDER BY id") == [("u",), ("v",)]
    assert marking.ask(HISTORY) == [("w", 1, "withdrawn", True), ("x", 1, "withdrawn", True)]
    assert marking.ask("SELECT count(*), count(prediction) FROM predictions_history") == [(6, 4)]
    assert marking.ask("SELECT id, c FROM predictions_history WHERE reason = 'withdrawn' ORDER BY id") == [
        ("w", "C"),
        ("x", None),
    ]
    assert marking.ask("SELECT withdrawn, marked, scored FROM runs ORDER BY run_id") == [(0, 0, 4), (2, 2, 0)]
    assert sound(marking)


@pytest.mark.slow
def test_plan_and_run_say_how_many_rows_are_marked(workspace: Workspace, cli: Cli) -> None:
    workspace.job(policy='withdrawn = "mark"')
    workspace.day(ROWS)
    workspace.run()
    workspace.day(FEWER)
    day = ("--job", "toy", "--date", DAY)
    said = "2 predicted rows are no longer in the input; the job marks such rows, 2 of them now"
    assert said in cli("plan", *day).stdout
    assert said in cli("run", *day).stdout
    workspace.day(FEWER)
    assert said.replace("2 of them now", "0 of them now") in cli("run", *day).stdout


@pytest.mark.slow
def test_day_with_marked_rows_is_up_to_date_and_marks_none_twice(marking: Workspace) -> None:
    assert marking.run().up_to_date
    marking.day(FEWER)
    record = marking.complete()
    assert (record.withdrawn, record.marked.rows) == (2, 0)
    assert len(marking.stored()) == 6


@pytest.mark.slow
def test_key_that_returns_is_current_again(marking: Workspace) -> None:
    before = marking.stored("SELECT prob_class_1 FROM predictions WHERE id = 'w'")[0]
    marking.day(ROWS.slice(0, 3))
    assert preview(marking.context(), DAY).reasons["returned"] == 1
    record = marking.complete()
    assert record.statistics.reasons == {"returned": 1}
    assert (record.withdrawn, record.marked.rows) == (1, 0)
    assert marking.ask(CURRENT) == [("u", 0, "new"), ("v", 0, "new"), ("w", 2, "returned")]
    assert marking.stored("SELECT prob_class_1 FROM predictions WHERE id = 'w' AND revision = 2") == [before]
    assert sound(marking)
    marking.day(FEWER)
    assert marking.complete().marked.rows == 1
    assert marking.ask(CURRENT) == [("u", 0, "new"), ("v", 0, "new")]
    assert marking.ask("SELECT count(*) FROM predictions_history WHERE id = 'w'") == [(4,)]


@pytest.mark.slow
def test_key_that_returns_with_other_features_is_current_again(marking: Workspace) -> None:
    marking.day(pa.concat_tables([FEWER, table({"id": ["w"], "a": [9.0], "b": [1.0], "c": ["C"]})]))
    assert marking.complete().statistics.reasons == {"returned": 1}
    assert marking.ask("SELECT revision FROM predictions WHERE id = 'w'") == [(2,)]


@pytest.mark.slow
def test_job_that_keeps_again_leaves_marks_until_the_key_returns(marking: Workspace) -> None:
    marking.job(reads='carry = ["c"]')
    assert (marking.complete().withdrawn, len(marking.stored())) == (2, 6)
    assert marking.ask(CURRENT) == [("u", 0, "new"), ("v", 0, "new")]
    marking.day(ROWS)
    marking.run()
    assert marking.ask("SELECT id FROM predictions ORDER BY id") == [("u",), ("v",), ("w",), ("x",)]


@pytest.mark.slow
def test_rejected_row_is_not_withdrawn(marking: Workspace) -> None:
    marking.day(table({"id": ["u", "v"], "a": [None, 2.0], "b": [1.0, 1.0], "c": ["A", "B"]}))
    record = marking.complete()
    assert (record.withdrawn, record.marked.rows) == (2, 0)
    assert marking.ask("SELECT id FROM predictions ORDER BY id") == [("u",), ("v",)]


@pytest.mark.slow
def test_rollback_of_the_marks_makes_the_keys_current_again(marking: Workspace) -> None:
    rollback(marking.context().lake, newest(marking).run_id)
    assert marking.ask("SELECT id FROM predictions ORDER BY id") == [("u",), ("v",), ("w",), ("x",)]
    assert sound(marking)
    record = marking.complete()
    assert record.marked.rows == 2
    assert marking.ask(CURRENT) == [("u", 0, "new"), ("v", 0, "new")]
    assert marking.ask(HISTORY) == [("w", 1, "withdrawn", True), ("x", 1, "withdrawn", True)]


@pytest.mark.slow
def test_rollback_of_what_was_marked_leaves_the_marks(marking: Workspace) -> None:
    first = marking.context().lake.records.of_day("toy", DAY)[-1]
    rollback(marking.context().lake, first.run_id)
    assert marking.complete().withdrawn == 2
    assert marking.ask(CURRENT) == [("u", 0, "new"), ("v", 0, "new")]
    marking.day(ROWS)
    assert marking.complete().statistics.reasons == {"returned": 2}
    assert sound(marking)


def test_erase_of_a_withdrawn_key_removes_its_mark_too(marking: Workspace) -> None:
    ctx = marking.context()
    assert erase(ctx.lake, ctx.job, "w").rows == 2
    assert marking.ask("SELECT count(*) FROM predictions_history WHERE id = 'w'") == [(0,)]
    assert sound(marking)


@pytest.mark.slow
def test_explain_shows_that_a_key_is_withdrawn(marking: Workspace, cli: Cli) -> None:
    found = explain(marking.context(), "w", replay=True)
    assert [(each.reason, each.revision, each.current) for each in found.predictions] == [
        ("withdrawn", 1, False),
        ("new", 0, False),
    ]
    said = cli("explain", "w", "--job", "toy").stdout
    assert "withdrawn" in said
    assert "current" not in said
    marking.day(ROWS)
    marking.run()
    found = explain(marking.context(), "w", replay=True)
    first = found.predictions[0]
    assert (first.reason, first.current) == ("returned", True)
    assert first.replay is not None
    assert first.replay.reproduced


@pytest.mark.slow
def test_marked_rows_are_not_in_profile_quality_or_performance(workspace: Workspace, cli: Cli) -> None:
    workspace.with_pages()
    workspace.job(policy='withdrawn = "mark"')
    rows = table(200)
    workspace.day(rows)
    workspace.run()
    labels = workspace.root / "labels.parquet"
    pq.write_table(pa.table({"id": rows["id"], "won": [str(number % 2) for number in range(200)]}), labels)
    cli("labels", "import", labels, "--label", "won", "--job", "toy", "--date", DAY)
    workspace.day(pa.concat_tables([rows.slice(0, 120), table({"id": ["new"], "a": [0.5], "b": [0.5]})]))
    record = workspace.complete()
    assert (record.withdrawn, record.marked.rows) == (80, 80)
    assert workspace.ask("SELECT DISTINCT rows FROM profiles") == [(121,)]
    assert workspace.ask("SELECT rows, predictions FROM performance") == [(120, 121)]
    (shown,) = [check.observed for check in record.checks if check.name == "class_share"]
    ones = workspace.ask("SELECT count(*) FILTER (prediction = '1') FROM predictions")[0][0]
    assert shown is not None
    assert shown.startswith(f"{max(ones, 121 - ones) / 121:.1%}")


def test_catalog_that_was_made_before_shows_no_marked_rows(workspace: Workspace) -> None:
    workspace.job(policy='withdrawn = "mark"')
    workspace.day(ROWS)
    workspace.run()
    path = write_catalog(workspace.context().lake)
    workspace.day(FEWER)
    workspace.run()
    with duckdb.connect(str(path), read_only=True) as con:
        assert con.execute("SELECT id FROM predictions ORDER BY id").fetchall() == [("u",), ("v",)]


# Exactly once


def crash_in_the_commit(workspace: Workspace, monkeypatch: pytest.MonkeyPatch, files: int) -> RunRecord:
    """Begins a run that dies once it has published a number of files; returns its record."""
    ctx = workspace.context()
    record = scored(ctx)
    publish, published = type(ctx.lake.storage).create, list[str]()

    def create(self: object, key: str, source: object) -> object:
        if "part-" in key and len(published) == files:
            raise KeyboardInterrupt
        published.append(key)
        return publish(self, key, source)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(type(ctx.lake.storage), "create", create)
        with pytest.raises(KeyboardInterrupt):
            commit(ctx, record)
    return ctx.lake.records.change(record, lambda stored: stored.with_(pid=2**22 + 1, host=os.uname().nodename))


@pytest.mark.slow
@pytest.mark.parametrize("files", [0, 1])
@pytest.mark.parametrize("repeated", [True, False], ids=["the same run goes on", "another run takes over"])
def test_marks_are_stored_once_after_a_crash_in_the_commit(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, files: int, *, repeated: bool
) -> None:
    workspace.job(reads='carry = ["c"]', policy='withdrawn = "mark"')
    workspace.day(ROWS)
    workspace.run()
    workspace.day(pa.concat_tables([FEWER, table({"id": ["y"], "a": [1.0], "b": [2.0], "c": ["Y"]})]))
    crashed = crash_in_the_commit(workspace, monkeypatch, files)
    done = commit(workspace.context(), crashed) if repeated else workspace.complete()
    assert done.state is State.complete
    assert done.withdrawn == 2
    assert workspace.ask("SELECT id FROM predictions ORDER BY id") == [("u",), ("v",), ("y",)]
    assert workspace.ask(HISTORY) == [("w", 1, "withdrawn", True), ("x", 1, "withdrawn", True)]
    assert sound(workspace)


@pytest.mark.slow
def test_two_runs_mark_each_key_once(workspace: Workspace) -> None:
    workspace.job(reads='carry = ["c"]', policy='withdrawn = "mark"')
    workspace.day(ROWS)
    workspace.run()
    workspace.day(FEWER)
    ctx = workspace.context()
    first, second = scored(ctx), scored(ctx)
    assert commit(ctx, first).marked.rows == 2
    done = commit(ctx, second)
    assert (done.state, done.marked.rows, done.withdrawn) == (State.complete, 0, 2)
    assert len(workspace.stored()) == 6
    assert sound(workspace)


@pytest.mark.slow
def test_key_that_another_run_has_marked_meanwhile_is_planned_again(workspace: Workspace) -> None:
    workspace.job(reads='carry = ["c"]', policy='withdrawn = "mark"')
    path = workspace.day(ROWS)
    workspace.run()
    ctx = workspace.context()
    workspace.day(ROWS)
    slow = scored(ctx)
    workspace.day(FEWER)
    commit(ctx, scored(ctx))
    pq.write_table(ROWS, path)  # as if the other run had read the input before it changed
    slow = slow.with_(plan=slow.plan.model_copy(update={"input": ctx.lake.input_files(ctx.job.patterns, DAY)}))
    done = commit(ctx, slow)
    assert done.state is State.overtaken
    assert done.ledger is not None
    assert (done.ledger.unchanged.rows, done.ledger.overtaken.rows) == (2, 2)
    assert workspace.complete().statistics.reasons == {"returned": 2}
    assert workspace.ask("SELECT id FROM predictions ORDER BY id") == [("u",), ("v",), ("w",), ("x",)]


@pytest.mark.slow
def test_key_that_another_run_has_scored_meanwhile_is_not_marked(workspace: Workspace) -> None:
    workspace.job(reads='carry = ["c"]', policy='withdrawn = "mark"')
    workspace.day(ROWS)
    workspace.run()
    path = workspace.day(FEWER)
    ctx = workspace.context()
    slow = scored(ctx)
    workspace.day(pa.concat_tables([FEWER, table({"id": ["w"], "a": [9.0], "b": [1.0], "c": ["C"]})]))
    other = workspace.context()
    commit(other, scored(other))
    pq.write_table(FEWER, path)
    slow = slow.with_(plan=slow.plan.model_copy(update={"input": ctx.lake.input_files(ctx.job.patterns, DAY)}))
    assert commit(ctx, slow).state is State.overtaken
    assert workspace.ask("SELECT revision, reason FROM predictions WHERE id = 'w'") == [(1, "changed")]
    assert sound(workspace)
    workspace.run()
    assert workspace.ask("SELECT id FROM predictions ORDER BY id") == [("u",), ("v",)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [
        lambda rows: rows.slice(1),
        lambda rows: pa.concat_tables([rows, rows.slice(0, 1)]),
        lambda rows: rows.set_column(0, "id", pa.array(["w", "u"])),
    ],
    ids=["one lost", "one doubled", "another key"],
)
def test_marks_that_do_not_add_up_are_not_committed(
    workspace: Workspace, damage: Callable[[pa.Table], pa.Table]
) -> None:
    workspace.job(reads='carry = ["c"]', policy='withdrawn = "mark"')
    workspace.day(ROWS)
    workspace.run()
    workspace.day(FEWER)
    ctx = workspace.context()
    record = scored(ctx)
    (path,) = staged_files(ctx, record, "withdrawn")
    pq.write_table(damage(pq.read_table(path)), path)
    with pytest.raises(LedgerImbalance, match="does not add up"):
        commit(ctx, record)
    assert len(workspace.stored()) == 4
