"""Stored rows that are paired by position: each row of the input gets what a join gives it, whatever was rewritten."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.care.erase import erase
from pipeline.care.rollback import rollback
from pipeline.database import resources
from pipeline.errors import InputChanged, LakeDamaged
from pipeline.lake.layout import Partition
from pipeline.records import Plan, RunRecord
from pipeline.scoring import stage as scoring
from pipeline.selecting import pair_search, pairing
from pipeline.selecting.pair_search import find
from pipeline.selecting.pairing import Pairs
from pipeline.selecting.plan import plan
from pipeline.selecting.views import select
from pipeline.staging import writer
from tests.workspace import DAY, Workspace, changed, table

ROWS = 400
PART = Partition("toy", DAY, "v1")
Write = Callable[[Workspace], object]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    make_small(monkeypatch)


def make_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes batches, row groups, parts and the sample small, so that few rows have many edges."""
    for module, values in (
        (
            pair_search,
            {
                "LEAST_ROWS": 1,
                "LEAST_STORED": 0.0,
                "LEAST_FOUND": 0.0,
                "BLOCK": 8,
                "TRIES": 1000,
                "SHORT": 3,
                "ROW_GROUP": 60,
            },
        ),
        (resources, {"BATCH_ROWS": 50, "VECTOR_ROWS": 50}),
        (writer, {"GROUP_ROWS": 64, "FILE_ROWS": 130}),
    ):
        for name, value in values.items():
            monkeypatch.setattr(module, name, value)


@pytest.fixture(scope="module")
def scored_once(fresh_workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        found = fresh_workspace.copy_to(tmp_path_factory.mktemp("scored"))
        write(found, table(ROWS))
        found.complete()
    return found


@pytest.fixture
def scored(scored_once: Workspace, tmp_path: Path) -> Workspace:
    """A day of which all rows are stored, by two workers in several parts."""
    return scored_once.copy_to(tmp_path)


def write(workspace: Workspace, *files: pa.Table, group: int = 70) -> None:
    for old in (workspace.lake / "unscored" / f"ds={DAY}").glob("*.parquet"):
        old.unlink()
    for number, rows in enumerate(files):
        path = workspace.day(1, file=f"{number}.parquet")
        path.unlink()
        pq.write_table(rows, path, row_group_size=group)


def joined(
    workspace: Workspace, plan: Plan, pairs: Pairs | None, staged: tuple[str, ...] = (), batch_rows: int = 50
) -> list[tuple[Any, ...]]:
    """Returns what the stream sees of each row, in any order."""
    with select(workspace.context(), plan, PART, pairs=pairs) as selected:
        found: list[tuple[Any, ...]] = []
        with selected.to_score(list(staged)).to_arrow_reader(batch_rows) as batches:
            for batch in batches:
                complete = batch if pairs is None else pairs.complete(batch)
                assert pairing.POSITION not in complete.schema.names
                found += [tuple(row.values()) for row in complete.to_pylist()]
    return sorted(found, key=repr)


def both_ways(workspace: Workspace, batch_rows: int = 50) -> tuple[int, int]:
    """Checks that pairs give what the join gives; returns how many stored rows they have, and how many are joined."""
    ctx = workspace.context()
    planned = plan(ctx, DAY).plan
    pairs = find(ctx, planned, DAY)
    assert joined(workspace, planned, pairs, batch_rows=batch_rows) == joined(workspace, planned, None)
    if pairs is None:
        return 0, 0
    return sum(piece.rows for piece in pairs.pieces), sum(gap.end - gap.first for gap in pairs.gaps)


def shuffled(rows: pa.Table) -> pa.Table:
    return rows.take(np.random.default_rng(7).permutation(len(rows)))


def among(rows: pa.Table, count: int, prefix: str = "new") -> pa.Table:
    """Puts new rows at random places among others."""
    places = np.random.default_rng(count).permutation(len(rows) + count)[:count]
    order = np.full(len(rows) + count, -1)
    order[places] = len(rows) + np.arange(count)
    order[order < 0] = np.arange(len(rows))
    return pa.concat_tables([rows, new(count, prefix)]).take(order)


def thinned(rows: pa.Table, count: int) -> pa.Table:
    """Leaves out rows at random places."""
    return rows.take(np.sort(np.random.default_rng(count).permutation(len(rows))[count:]))


def new(count: int, prefix: str = "new") -> pa.Table:
    rows = table(count)
    return rows.set_column(0, "id", pa.array([f"{prefix}{number}" for number in range(count)]))


@pytest.mark.parametrize(
    ("files", "least", "most"),
    [
        ([table(ROWS)], ROWS, ROWS),
        ([new(3), table(ROWS)], ROWS, ROWS),
        ([pa.concat_tables([new(3), table(ROWS)])], ROWS, ROWS),
        ([table(ROWS).slice(200), table(ROWS).slice(0, 200)], ROWS, ROWS),
        ([changed(table(ROWS), "a", {0: 9.0, 100: 9.0, 399: 9.0})], ROWS, ROWS),
        ([table(ROWS).slice(0, 90), new(20), table(ROWS).slice(91)], ROWS - 20, ROWS - 1),
        ([pa.concat_tables([table(ROWS).slice(0, 90), new(1), table(ROWS).slice(90)])], ROWS - 20, ROWS),
        ([table(ROWS).slice(100, 150)], 140, 150),
        ([among(table(ROWS), 100)], ROWS - 20, ROWS),
        ([among(table(ROWS).slice(0, 250), 300), among(table(ROWS).slice(250), 10, "other")], ROWS - 20, ROWS),
        ([thinned(table(ROWS), 30)], ROWS - 100, ROWS - 30),
        ([among(thinned(table(ROWS), 30), 50)], ROWS - 100, ROWS - 30),
        ([table(ROWS).take(list(reversed(range(ROWS))))], 1, 100),
        ([shuffled(table(ROWS))], 1, 100),
        ([new(50)], 0, 0),
    ],
    ids=[
        "same", "a file before", "shifted", "files in another order", "changed", "one removed, a file between",
        "one inserted", "most removed", "new ones among them", "many among them", "some removed",
        "some removed, new ones among them", "reversed", "shuffled", "other keys",
    ],
)  # fmt: skip
def test_rewritten_rows_get_what_a_join_gives_them(
    scored: Workspace, files: list[pa.Table], least: int, most: int
) -> None:
    for group in (70, 1000):
        write(scored, *files, group=group)
        paired, rest = both_ways(scored)
        assert least <= paired <= most
        assert paired + rest in (0, ROWS)


def test_rows_of_parts_that_alternate_in_the_input_are_paired(workspace: Workspace) -> None:
    rows = table(ROWS)
    third = np.arange(ROWS) % 3 == 0
    write(workspace, rows.filter(pa.array(third)))
    workspace.complete()
    write(workspace, rows)
    workspace.complete()
    for group in (70, 1000):
        write(workspace, changed(rows, "a", {0: 9.0, 7: 9.0}), group=group)
        paired, rest = both_ways(workspace, batch_rows=7)
        assert paired + rest == ROWS
        assert paired >= ROWS - 100


EDITS = st.lists(
    st.tuples(
        st.sampled_from(["insert", "remove", "change", "move", "reverse", "copy", "no key", "among", "thin"]),
        st.integers(0, ROWS - 1),
        st.integers(1, 60),
    ),
    max_size=5,
)


def edited(rows: pa.Table, edits: list[tuple[str, int, int]]) -> pa.Table:
    for number, (kind, place, count) in enumerate(edits):
        if not len(rows):
            break
        at = min(place, len(rows) - 1)
        before, piece, after = rows.slice(0, at), rows.slice(at, count), rows.slice(at + count)
        ids = pa.array([f"new{number}-{each}" for each in range(len(piece))])
        pieces = {
            "insert": [before, piece.set_column(0, "id", ids), piece, after],
            "remove": [before, after],
            "change": [before, piece.set_column(1, "a", pa.array(np.full(len(piece), 0.5))), after],
            "move": [piece, before, after],
            "reverse": [before, piece.take(list(reversed(range(len(piece))))), after],
            "copy": [before, piece, after, piece],
            "among": [before, among(piece, count, f"new{number}-"), after],
            "thin": [before, thinned(piece, count // 3), after],
            "no key": [before, piece.set_column(0, "id", pa.nulls(len(piece), pa.string())), after],
        }
        rows = pa.concat_tables(pieces[kind])
    return rows


@pytest.fixture(scope="module")
def history(fresh_workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A day with rows of three revisions, withdrawn keys that are marked, and rejected rows between them."""
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        found = fresh_workspace.copy_to(tmp_path_factory.mktemp("history"))
        found.job(policy='withdrawn = "mark"\nnull_features = "quarantine"')
        rows = changed(table(ROWS), "b", {40: None, 41: None, 300: None})
        write(found, rows.slice(0, 350))
        found.complete()
        write(found, changed(rows.slice(10), "a", dict.fromkeys(range(100, 220), 4.0)))
        found.complete()
        write(found, changed(rows, "a", {5: 7.0, 150: 8.0}))
        found.complete()
        yield found


@pytest.mark.slow
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=EDITS, cuts=st.sets(st.integers(1, ROWS - 1), max_size=2), group=st.sampled_from([33, 70, 1000]))
def test_any_edits_of_a_day_with_revisions_give_what_a_join_gives(
    history: Workspace, edits: list[tuple[str, int, int]], cuts: set[int], group: int
) -> None:
    rows = edited(table(ROWS), edits)
    if not len(rows):
        return
    edges = [0, *sorted(cut for cut in cuts if cut < len(rows)), len(rows)]
    write(history, *(rows.slice(low, high - low) for low, high in pairwise(edges)), group=group)
    both_ways(history)


@pytest.mark.slow
def test_runs_both_ways_publish_the_same_rows(
    history: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edits = [("insert", 30, 20), ("change", 120, 40), ("remove", 250, 9), ("reverse", 320, 30)]
    found = []
    for name in ("pairs", "join"):
        made = history.copy_to(tmp_path / name)
        write(made, edited(table(ROWS), edits))
        monkeypatch.setattr(pair_search, "LEAST_ROWS", 1 if name == "pairs" else 10_000)
        record = made.complete()
        columns = "id, prediction, reason, fingerprint, revision"
        rows = made.stored(f"SELECT {columns} FROM predictions ORDER BY id, revision")
        found.append((outcome(record), rows))
    assert found[0] == found[1]
    assert found[0][0]["dispositions"]["reason.new"] == 23  # three of them were rejected before


def outcome(record: RunRecord) -> dict[str, Any]:
    kept = ("state", "dispositions", "ledger", "withdrawn", "marked", "statistics", "carried_left")
    return record.model_dump(include=set(kept))


KEYS: dict[str, list[pa.Array]] = {
    "text": [pa.array([f"ü{number}" for number in range(ROWS)])],
    "integer": [pa.array(range(ROWS), pa.int32())],
    "unsigned": [pa.array(range(2**63, 2**63 + ROWS), pa.uint64())],
    "date": [pa.array([date(2020, 1, 1) + timedelta(days=number) for number in range(ROWS)])],
    "time": [pa.array(range(ROWS), pa.timestamp("us"))],
    "instant": [pa.array(range(ROWS), pa.timestamp("us", "UTC"))],
    "two": [pa.array([number // 7 for number in range(ROWS)]), pa.array([f"{number % 7}" for number in range(ROWS)])],
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KEYS)
def test_keys_of_any_type_are_found(workspace: Workspace, kind: str) -> None:
    names = ["id", "x"][: len(KEYS[kind])]
    path = workspace.job() / "job.toml"
    text = path.read_text()
    assert 'key = ["id"]' in text
    path.write_text(text.replace('key = ["id"]', f"key = {names}".replace("'", '"')))
    rows = table(ROWS).drop_columns(["id"])
    for name, column in zip(names, KEYS[kind], strict=True):
        rows = rows.append_column(name, column)
    write(workspace, rows)
    workspace.complete()
    write(workspace, new_first(rows))
    paired, _ = both_ways(workspace)
    assert ROWS - 10 <= paired < ROWS


def new_first(rows: pa.Table) -> pa.Table:
    """Returns the rows with the first ten at the end, one of them changed: none of these is where it was."""
    return pa.concat_tables([rows.slice(10), changed(rows.slice(0, 10).take(list(reversed(range(10)))), "a", {3: 9.0})])


@pytest.mark.parametrize("case", ["carried", "select", "repeated", "file_row_number", "another model", "few"])
def test_what_pairs_do_not_cover_is_joined(scored: Workspace, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    rows = table(ROWS)
    if case == "carried":
        scored.job(reads='carry = ["b"]')
    elif case == "select":
        job = scored.job() / "job.toml"
        text = job.read_text().replace('path = "unscored/ds={ds}/*.parquet"', 'select = "rows.sql"')
        job.write_text(text + '\n[input.sources]\norders = "unscored/ds={ds}/*.parquet"\n')
        (job.parent / "rows.sql").write_text("FROM orders")
    elif case == "repeated":
        rows = pa.concat_tables([rows, rows.slice(0, 1)])
    elif case == "file_row_number":
        rows = rows.append_column("file_row_number", pa.array(range(ROWS)))
    elif case == "few":
        monkeypatch.setattr(pair_search, "LEAST_ROWS", ROWS + 1)
    write(scored, rows)
    ctx = scored.context()
    planned = plan(ctx, DAY).plan
    if case == "another model":
        planned = planned.model_copy(update={"other_models": planned.base})
    assert find(ctx, planned, DAY) is None


@pytest.mark.slow
def test_a_shuffled_day_is_given_up_after_few_tries(scored: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_search, "TRIES", 10)
    seen: list[int] = []
    see = pair_search._Search.see

    def counted(self: Any, batch: pa.RecordBatch) -> bool:
        seen.append(len(batch))
        return see(self, batch)

    monkeypatch.setattr(pair_search._Search, "see", counted)
    write(scored, shuffled(table(ROWS)))
    ctx = scored.context()
    assert find(ctx, plan(ctx, DAY).plan, DAY) is None
    assert sum(seen) < ROWS


def test_input_that_changes_after_the_search_is_refused(scored: Workspace) -> None:
    write(scored, table(ROWS))
    ctx = scored.context()
    planned = plan(ctx, DAY).plan
    pairs = find(ctx, planned, DAY)
    assert pairs is not None
    write(scored, shuffled(table(ROWS)))
    with pytest.raises(InputChanged, match="while it was read"):
        joined(scored, planned, pairs)


def test_a_part_that_is_there_twice_is_refused_as_by_the_join(scored: Workspace) -> None:
    parts = sorted(scored.lake.rglob("part-*.parquet"))
    copy = parts[0].with_name(f"part-{len(parts):08}.parquet")
    copy.write_bytes(parts[0].read_bytes())
    write(scored, table(ROWS))
    with pytest.raises(LakeDamaged, match="repeat the key and revision"):
        scored.run()


@pytest.mark.slow
def test_rows_are_paired_after_an_erasure_and_a_rollback(scored: Workspace) -> None:
    write(scored, changed(table(ROWS), "a", dict.fromkeys(range(0, 200, 2), 3.0)))
    second = scored.complete()
    assert both_ways(scored)[0] >= ROWS - 20
    erase(scored.context().lake, scored.context().job, "u77")
    assert both_ways(scored)[0] >= ROWS - 20
    rollback(scored.context().lake, second.run_id)
    paired, rest = both_ways(scored)
    assert paired + rest == ROWS - 1
    assert paired >= ROWS - 20


def test_rows_that_a_run_has_staged_before_are_not_scored_again(scored: Workspace) -> None:
    rows = changed(table(ROWS), "a", dict.fromkeys(range(100), 3.0))
    write(scored, rows)
    ctx = scored.context()
    record = plan(ctx, DAY)
    first = scoring.score(ctx, record)
    again = scoring.score(ctx, record)
    assert first.fields["dispositions"]["scored"] == again.fields["dispositions"]["scored"] == 100
