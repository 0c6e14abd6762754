"""What a record says of its committed rows: computed from the stored files, and the same as a reader finds there."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.committing.ledger import Accounts
from pipeline.context import Context
from pipeline.errors import LedgerImbalance
from pipeline.lake.layout import Partition
from pipeline.records import Ledger, RunRecord
from pipeline.selecting.views import Selection, select
from pipeline.staging.folders import staged_files
from tests.stages import commit, scored
from tests.workspace import Workspace, changed, table

JOIN = "committing/unchanged"


def test_withdrawn_rows_are_told_apart_from_changed_unchanged_and_new_ones(workspace: Workspace) -> None:
    rows = table(60)
    workspace.day(rows.slice(0, 50))
    workspace.run()
    workspace.day(changed(rows.slice(3), "a", {0: 5.0, 1: 5.0, 2: 5.0, 3: 5.0, 4: 5.0}))
    record = workspace.complete()
    assert record.ledger is not None
    assert (record.ledger.unchanged.rows, record.statistics.reasons) == (42, {"changed": 5, "new": 10})
    assert record.withdrawn == 3


def test_mean_confidence_is_the_mean_over_all_stored_rows_of_the_run(workspace: Workspace) -> None:
    workspace.day(200)
    record = workspace.complete()
    stored = pa.Table.from_pylist(workspace.stored())
    assert len(record.statistics.classes) > 1
    mean = sum(stored.column("prediction_proba").to_pylist()) / 200
    assert record.statistics.mean_confidence == pytest.approx(mean, abs=1e-9)


@pytest.mark.parametrize(
    ("damage", "got"),
    [
        (lambda rows: rows.slice(1), "1 rows mark such keys"),
        (lambda rows: rows.set_column(0, "id", pa.array(["x", "y"])), "2 rows mark such keys, but other keys"),
    ],
    ids=["one lost", "other keys"],
)
def test_marks_that_do_not_add_up_are_told_from_those_of_other_keys(
    workspace: Workspace, damage: Callable[[pa.Table], pa.Table], got: str
) -> None:
    workspace.job(policy='withdrawn = "mark"')
    rows = table({"id": ["u", "v", "w"], "a": [1.0, 2.0, 3.0], "b": [1.0, 2.0, 3.0]})
    workspace.day(rows)
    workspace.run()
    workspace.day(rows.slice(2))
    ctx = workspace.context()
    record = scored(ctx)
    (path,) = staged_files(ctx, record, "withdrawn")
    pq.write_table(damage(pq.read_table(path)), path)
    with pytest.raises(LedgerImbalance) as caught:
        commit(ctx, record)
    assert f"{got}\n" in f"{caught.value}\n"


@pytest.fixture
def queries(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The queries that the ledger has asked."""
    asked: list[str] = []
    real = Selection.count

    def noted(selected: Selection, query: str) -> list[dict[str, int]]:
        asked.append(query)
        return real(selected, query)

    monkeypatch.setattr(Selection, "count", noted)
    return asked


def rewritten(workspace: Workspace) -> tuple[Context, RunRecord]:
    """Stages a day with 50 rows that were scored before, 2 of them changed and 1 rejected; 5 are new, 1 rejected."""
    rows = table(55)
    workspace.day(rows.slice(0, 50))
    workspace.run()
    workspace.day(changed(rows, "a", {0: 5.0, 1: 5.0, 2: float("nan"), 54: float("nan")}))
    ctx = workspace.context(threads=1)
    return ctx, scored(ctx)


def ledger(ctx: Context, record: RunRecord) -> Ledger:
    staged, rejected = ([str(path) for path in staged_files(ctx, record, kind)] for kind in ("scored", "rejected"))
    with select(ctx, record.plan, Partition.of(record), features=False) as selected:
        return Accounts(selected, record, staged, rejected).before_commit()


def with_keys(rows: pa.Table, keys: dict[int, str]) -> pa.Table:
    found = rows.column("id").to_pylist()
    return rows.set_column(0, "id", pa.array([keys.get(at, key) for at, key in enumerate(found)]))


def test_unchanged_rows_follow_from_sums_of_hashes_without_the_join(workspace: Workspace, queries: list[str]) -> None:
    ctx, record = rewritten(workspace)
    by_sums = ledger(ctx, record)
    assert by_sums.counts() == {
        "candidates": 55,
        "scored": 6,
        "unchanged": 47,
        "quarantined": 2,
        "duplicates": 0,
        "overtaken": 0,
    }
    assert JOIN not in queries
    with select(ctx, record.plan, Partition.of(record)) as selected:
        staged, rejected = ([str(path) for path in staged_files(ctx, record, kind)] for kind in ("scored", "rejected"))
        Accounts(selected, record, staged, rejected)
        assert selected.term(JOIN) == by_sums.unchanged


def test_every_loss_and_doubling_of_a_rewritten_day_is_caught(workspace: Workspace, queries: list[str]) -> None:
    """The staged rows are sorted by key: u0 and u1 have changed, u50 to u53 are new."""
    ctx, record = rewritten(workspace)
    (path,) = staged_files(ctx, record, "scored")
    sound = pq.read_table(path).sort_by("id")
    planted: dict[str, tuple[Callable[[pa.Table], pa.Table], str]] = {
        "a changed row is lost": (lambda rows: rows.slice(1), "the counts of the stream"),
        "a new row is lost": (lambda rows: rows.slice(0, 5), "a difference of -1"),
        "a changed row is doubled": (lambda rows: pa.concat_tables([rows, rows.slice(0, 1)]), r"difference of \+1"),
        "a new row is doubled": (lambda rows: pa.concat_tables([rows, rows.slice(5)]), r"difference of \+1"),
        "the key of a changed row is swapped": (lambda rows: with_keys(rows, {0: "x"}), r"difference of \+1"),
        "the key of a new row is swapped": (lambda rows: with_keys(rows, {5: "x"}), "the same number, but other keys"),
        "the key of a new row is that of an unchanged one": (lambda rows: with_keys(rows, {5: "u9"}), "of -1"),
        "a changed row is lost, another doubled": (lambda rows: with_keys(rows, {0: "u1"}), r"difference of \+1"),
        "a new row is lost, a changed one doubled": (lambda rows: with_keys(rows, {5: "u0"}), "but other keys"),
        "a new row is lost, another doubled": (lambda rows: with_keys(rows, {5: "u52"}), "but other keys"),
    }
    for name, (damage, message) in planted.items():
        pq.write_table(damage(sound), path)
        with pytest.raises(LedgerImbalance, match=message):
            pytest.fail(f"{name}: {ledger(ctx, record)}")
    pq.write_table(sound, path)
    queries.clear()
    assert ledger(ctx, record).balanced


def test_withdrawn_keys_and_a_pair_that_compensates_are_left_to_the_join(
    workspace: Workspace, queries: list[str]
) -> None:
    """With the new row lost, there are as many selected keys as stored ones, but they are not the same keys."""
    rows = table(50)
    workspace.day(rows.slice(0, 49))
    workspace.run()
    workspace.day(rows.slice(1))
    ctx = workspace.context(threads=1)
    record = scored(ctx)
    found = ledger(ctx, record)
    assert (found.unchanged.rows, found.scored.rows, JOIN in queries) == (48, 1, True)
    (path,) = staged_files(ctx, record, "scored")
    pq.write_table(pq.read_table(path).slice(1), path)
    queries.clear()
    with pytest.raises(LedgerImbalance, match="difference of -1"):
        ledger(ctx, record)
    assert queries.index("committing/sums_of_selected") < queries.index(JOIN)


def test_a_day_of_which_most_rows_have_changed_is_left_to_the_join(workspace: Workspace, queries: list[str]) -> None:
    rows = table(50)
    workspace.day(rows)
    workspace.run()
    workspace.day(changed(rows, "a", dict.fromkeys(range(20), 5.0)))
    ctx = workspace.context(threads=1)
    found = ledger(ctx, scored(ctx))
    assert (found.unchanged.rows, found.scored.rows) == (30, 20)
    assert "committing/sums_of_latest" not in queries
