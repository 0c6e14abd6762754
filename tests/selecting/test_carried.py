"""Carried values that change alone: left and counted, or published again with the stored outputs."""

from __future__ import annotations

import decimal
import uuid
from datetime import UTC, date, datetime, time
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.flow.preview import preview
from pipeline.model.registry import Registry
from pipeline.records import RunRecord, State
from tests.calling import Cli
from tests.stages import commit, scored
from tests.workspace import DAY, Workspace

CURRENT = "SELECT id, c, prediction, prob_class_1, reason, revision FROM predictions ORDER BY id, revision"


def rows(carried: Any, a: list[float] | None = None) -> pa.Table:
    count = len(carried)
    values = carried if isinstance(carried, pa.Array) else pa.array(carried)
    ids = pa.array([f"u{number}" for number in range(count)])
    return pa.table({"id": ids, "a": a or [float(number) for number in range(count)], "b": [1.0] * count, "c": values})


def job(workspace: Workspace, policy: str = 'carried_change = "publish"') -> None:
    workspace.job(reads='carry = ["c"]', policy=policy)


def counts(record: RunRecord) -> tuple[dict[str, int], int, int]:
    assert record.ledger is not None
    return record.statistics.reasons, record.ledger.unchanged.rows, record.carried_left


def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(Registry, "load", refuse)


@pytest.mark.slow
def test_carried_value_that_changes_alone_stays_and_is_counted(workspace: Workspace) -> None:
    job(workspace, policy="")
    workspace.day(rows(["x", "y", "z", None]))
    workspace.run()
    before = workspace.stored(CURRENT)
    workspace.day(rows(["x", "other", None, "new"]))
    assert preview(workspace.context(), DAY).carried_left == 3
    record = workspace.complete()
    assert counts(record) == ({}, 4, 3)
    assert workspace.stored(CURRENT) == before
    assert workspace.ask("SELECT carried_left FROM runs ORDER BY run_id") == [(0,), (3,)]


@pytest.mark.slow
def test_carried_value_that_changes_alone_is_published_with_the_stored_outputs(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    job(workspace)
    workspace.day(rows(["x", "y", "z", None]))
    workspace.run()
    first = {row["id"]: row for row in workspace.stored(CURRENT)}
    workspace.day(rows(["x", "other", None, "new"]))
    found = preview(workspace.context(), DAY)
    assert (found.reasons["carried"], found.dispositions["unchanged"], found.carried_left) == (3, 1, 0)
    with monkeypatch.context() as patch:
        no_model(patch)
        record = workspace.complete()
    assert counts(record) == ({"carried": 3}, 1, 0)
    later = [row for row in workspace.stored(CURRENT) if row["revision"]]
    assert [(row["id"], row["c"], row["reason"], row["revision"]) for row in later] == [
        ("u1", "other", "carried", 1),
        ("u2", None, "carried", 1),
        ("u3", "new", "carried", 1),
    ]
    assert all(row["prob_class_1"] == first[row["id"]]["prob_class_1"] for row in later)
    assert workspace.ask("SELECT id, c FROM predictions ORDER BY id") == [
        ("u0", "x"),
        ("u1", "other"),
        ("u2", None),
        ("u3", "new"),
    ]
    workspace.day(rows(["x", "other", None, "new"]))
    assert counts(workspace.complete()) == ({}, 4, 0)


@pytest.mark.slow
def test_row_whose_features_change_too_is_scored_once(workspace: Workspace) -> None:
    job(workspace)
    workspace.day(rows(["x", "y", "z"]))
    workspace.run()
    workspace.day(rows(["x", "other", "other"], [0.0, 9.0, 2.0]))
    assert counts(workspace.complete()) == ({"carried": 1, "changed": 1}, 1, 0)
    assert workspace.ask("SELECT id, c, reason, revision FROM predictions ORDER BY id") == [
        ("u0", "x", "new", 0),
        ("u1", "other", "changed", 1),
        ("u2", "other", "carried", 1),
    ]


KINDS = {
    "integers": pa.array([1, None, -(2**63)]),
    "small integers": pa.array([1, None, 2], pa.int8()),
    "unsigned": pa.array([1, None, 2**64 - 1], pa.uint64()),
    "doubles": pa.array([0.1, None, float("nan")]),
    "floats": pa.array([0.1, None, float("inf")], pa.float32()),
    "decimals": pa.array([decimal.Decimal("1.10"), None, decimal.Decimal("-3.30")], pa.decimal128(30, 10)),
    "booleans": pa.array([True, None, False]),
    "text": pa.array(["", None, "ä"]),
    "categories": pa.array(["x", None, "y"]).dictionary_encode(),
    "dates": pa.array([date(1969, 12, 31), None, date(2026, 1, 1)]),
    "times": pa.array([time(1, 2, 3), None, time(23, 59)]),
    "naive times": pa.array([1, None, 2], pa.timestamp("us")),
    "nanoseconds": pa.array([1, None, 2], pa.timestamp("ns")),
    "instants": pa.array([datetime(2026, 1, 1, tzinfo=UTC), None, datetime(1950, 1, 1, tzinfo=UTC)]),
    "instants in nanoseconds": pa.array([1, None, 2], pa.timestamp("ns", "Asia/Tokyo")),
    "uuids": pa.array([uuid.UUID(int=1).bytes, None, uuid.UUID(int=2).bytes], pa.uuid()),
    "bytes": pa.array([b"\x00", None, b"x"]),
    "lists": pa.array([[1, None], None, []]),
    "structs": pa.array([{"x": 1, "y": "a"}, None, {"x": None, "y": "b"}]),
    "nothing": pa.nulls(3),
}


@pytest.mark.slow
def test_carried_values_of_any_type_that_are_written_again_have_not_changed(workspace: Workspace) -> None:
    workspace.job(reads=f"carry = {list(KINDS)}", policy='carried_change = "publish"')
    day = pa.table({**{name: [1.0] * 3 for name in "ab"}, "id": ["x", "y", "z"], **KINDS})
    workspace.day(day)
    workspace.run()
    workspace.day(day)
    assert counts(workspace.complete()) == ({}, 3, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after", "changes"),
    [
        (pa.array([1, 2, 3]), pa.array([1.0, 2.0, 4.0]), 1),
        (pa.array([1, 2, 3]), pa.array([1, 2, None], pa.int32()), 1),
        (pa.array([2**53, 1, 2]), pa.array([2**53 + 1, 1, 2], pa.uint64()), 1),
        (pa.array([1, 2, 3]), pa.array(["1", "2", "03"]), 1),
        (pa.array([1.5, None, 3.0]), pa.array([decimal.Decimal("1.5"), None, decimal.Decimal("3.1")]), 1),
        (pa.array(["x", None, "z"]), pa.nulls(3), 2),
        (pa.array(["x", "y", None]), pa.array(["x", "y", None]).dictionary_encode(), 0),
    ],
)
def test_carried_values_of_another_type_are_compared_by_value(
    workspace: Workspace, before: pa.Array, after: pa.Array, changes: int
) -> None:
    job(workspace, policy="")
    workspace.day(rows(before))
    workspace.run()
    workspace.day(rows(after))
    assert workspace.complete().carried_left == changes


def test_column_that_the_job_carries_from_now_on_is_published(workspace: Workspace) -> None:
    workspace.job(policy='carried_change = "publish"')
    workspace.day(rows(["x", None, "z"]))
    workspace.run()
    job(workspace)
    assert counts(workspace.complete()) == ({"carried": 2}, 1, 0)
    assert workspace.ask("SELECT id, c FROM predictions ORDER BY id") == [("u0", "x"), ("u1", None), ("u2", "z")]


@pytest.mark.slow
def test_run_after_a_crash_publishes_what_was_staged_for_carried_values(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    job(workspace)
    workspace.day(rows(["x", "y", "z"]))
    workspace.run()
    workspace.day(rows(["x", "other", "z"]))
    ctx = workspace.context()
    crashed = scored(ctx)
    ctx.lake.records.change(crashed, lambda stored: stored.with_(pid=2**22 + 1))
    no_model(monkeypatch)
    assert counts(workspace.complete()) == ({"carried": 1}, 2, 0)
    assert workspace.ask("SELECT id, c, revision FROM predictions ORDER BY id")[1] == ("u1", "other", 1)


@pytest.mark.slow
def test_other_carried_values_by_another_run_overtake(workspace: Workspace) -> None:
    job(workspace)
    workspace.day(rows(["x", "y", "z"]))
    workspace.run()
    newest = workspace.day(rows(["x", "newest", "z"]))
    ctx = workspace.context()
    slow = scored(ctx)
    workspace.day(rows(["x", "older", "z"]))
    commit(ctx, scored(ctx))
    pq.write_table(rows(["x", "newest", "z"]), newest)  # as if the other run had read the input before it changed
    slow = slow.with_(plan=slow.plan.model_copy(update={"input": ctx.lake.input_files(ctx.job.patterns, DAY)}))
    assert commit(ctx, slow).state is State.overtaken
    workspace.run()
    assert workspace.ask("SELECT c, revision FROM predictions WHERE id = 'u1'") == [("newest", 2)]


@pytest.mark.slow
def test_same_carried_values_by_another_run_are_stored_once(workspace: Workspace) -> None:
    job(workspace)
    workspace.day(rows(["x", "y", "z"]))
    workspace.run()
    workspace.day(rows(["x", "other", "z"]))
    ctx = workspace.context()
    first, second = scored(ctx), scored(ctx)
    commit(ctx, first)
    done = commit(ctx, second)
    assert done.state is State.complete
    assert counts(done) == ({}, 3, 0)
    assert len(workspace.stored()) == 4


@pytest.mark.slow
def test_plan_and_run_say_what_became_of_carried_values(workspace: Workspace, cli: Cli) -> None:
    job(workspace, policy="")
    workspace.day(rows(["x", "y", "z"]))
    day = ("--job", "toy", "--date", DAY)
    cli("run", *day)
    workspace.day(rows(["x", "other", "z"]))
    said = "1 unchanged row has other carried values now; the stored ones are kept"
    assert said in cli("plan", *day).stdout
    assert said in cli("run", *day).stdout
