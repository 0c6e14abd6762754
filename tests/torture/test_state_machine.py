"""Import, run, crash, concurrent run, change, rollback, clean and verify in any order, against a dictionary."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from pipeline.care.clean import clean
from pipeline.care.rollback import rollback
from pipeline.care.verify import verify
from pipeline.context import Context
from pipeline.errors import InputChanged
from pipeline.flow import day as flow
from pipeline.lake.layout import Lake, Partition
from pipeline.model.matrix import fingerprints
from pipeline.query.running import run_query
from pipeline.records import FileInfo, State
from pipeline.storage import LocalStorage
from tests.stages import commit, scored
from tests.workspace import DAY, Workspace

EXAMPLES, STEPS = (500, 20) if os.environ.get("TORTURE") else (50, 20)
PARTITION = Partition("toy", DAY, "v1")
KEYS = st.sampled_from([f"u{number}" for number in range(6)])
VALUES = st.tuples(st.sampled_from([0.0, 1.0, 2.0, None]), st.sampled_from("xy"))
WITHDRAWN = 0
"""Fingerprint of the row that marks a withdrawn key."""
POLICY = 'withdrawn = "mark"\ncarried_change = "publish"'

Row = tuple[str, int]
"""A key and a revision."""
Value = tuple[float | None, str]
"""A feature and a carried value."""
Stored = tuple[int, str]
"""A fingerprint and a carried value."""


class Killed(BaseException):
    pass


class Mortal(LocalStorage):
    """Dies at a call that writes, before or after it took effect, and stays dead."""

    def __init__(self, root: Path, at: int, *, after: bool) -> None:
        super().__init__(root)
        self.left, self.after = at, after

    def _write(self, real: Any, *arguments: Any) -> Any:
        self.left -= 1
        if self.left > 0:
            return real(*arguments)
        if self.left == 0 and self.after:
            real(*arguments)
        raise Killed

    def write(self, key: str, content: bytes) -> None:
        self._write(super().write, key, content)

    def create(self, key: str, finished: Path) -> FileInfo:
        found: FileInfo = self._write(super().create, key, finished)
        return found

    def delete(self, key: str) -> None:
        self._write(super().delete, key)


class Life(RuleBasedStateMachine):
    workspace: ClassVar[Workspace]
    marks: ClassVar[bool]
    """Whether the job marks withdrawn keys and publishes carried values that change alone."""
    numbers: ClassVar[Iterator[int]] = count()

    def __init__(self) -> None:
        super().__init__()
        root = self.workspace.root / f"lake-{next(self.numbers)}"
        self.settings = dataclasses.replace(self.workspace.settings, lake=str(root), threads=1)
        self.ctx = self.context()
        self.ctx.lake.prepare()
        self.input: dict[str, Value] = {}
        self.stored: dict[Row, Stored] = {}
        """What must be there."""
        self.of_run: dict[Row, str] = {}

    def context(self) -> Context:
        found = self.workspace.context()
        return dataclasses.replace(found, lake=Lake.open(self.settings.lake))

    # What the lake should hold

    def expected(self) -> dict[Row, Stored]:
        """Returns the rows that a run adds to those that are stored."""
        added: dict[Row, Stored] = {}
        newest = self.newest()
        for key, (value, carried) in self.input.items():
            if value is None:
                continue
            print_ = int(fingerprints(np.array([[value, 1.0]], np.float32))[0])
            revision, (before, carried_before) = newest.get(key, (-1, (WITHDRAWN, "")))
            if before != print_ or (self.marks and carried_before != carried):
                added[key, revision + 1] = print_, carried
        if self.marks:
            for key, (revision, (before, carried)) in newest.items():
                if key not in self.input and before != WITHDRAWN:
                    added[key, revision + 1] = WITHDRAWN, carried
        return added

    def newest(self) -> dict[str, tuple[int, Stored]]:
        """Returns the newest stored revision of each key, and its content."""
        return {key: (revision, self.stored[key, revision]) for key, revision in sorted(self.stored)}

    def found(self) -> tuple[dict[Row, Stored], dict[Row, str]]:
        rows = [row for path in self.ctx.lake.workspace.root.rglob("part-*.parquet") for row in visible(path)]
        assert len({(row["id"], row["revision"]) for row in rows}) == len(rows), "a row stands twice"
        prints = {(row["id"], row["revision"]): (row["fingerprint"], row["c"]) for row in rows}
        return prints, {(row["id"], row["revision"]): row["run_id"] for row in rows}

    def agree(self, added: dict[Row, Stored]) -> None:
        self.stored |= added
        found, self.of_run = self.found()
        assert found == self.stored

    # What may happen

    def put(self) -> None:
        path = self.ctx.lake.workspace.path(f"unscored/ds={DAY}/data.parquet")
        path.parent.mkdir(parents=True, exist_ok=True)
        columns = {"id": list(self.input), "a": pa.array([value for value, _ in self.input.values()], pa.float64())}
        columns |= {"b": [1.0] * len(self.input), "c": [carried for _, carried in self.input.values()]}
        pq.write_table(pa.table(columns), path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)

    @rule(rows=st.dictionaries(KEYS, VALUES, min_size=1))
    def bring_in(self, rows: dict[str, Value]) -> None:
        self.input |= rows
        self.put()

    @precondition(lambda self: len(self.input) > 1)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        del self.input[data.draw(st.sampled_from(sorted(self.input)))]
        self.put()

    @precondition(lambda self: self.input)
    @rule()
    def run_it(self) -> None:
        added = self.expected()
        outcome = flow.run_day(self.ctx, DAY)
        assert outcome.record is not None
        assert outcome.record.state is State.complete
        self.agree(added)
        assert flow.run_day(self.ctx, DAY).up_to_date
        if self.stored:  # otherwise the view has no column of a key
            self.agree_with_the_view()

    def agree_with_the_view(self) -> None:
        query = "SELECT id, revision, c FROM predictions"
        with run_query(self.ctx.lake, query) as result, result.stream() as (_, batches):
            shown = {row["id"]: (row["revision"], row["c"]) for batch in batches for row in batch.to_pylist()}
        current = self.newest().items()
        assert shown == {key: (revision, c) for key, (revision, (print_, c)) in current if print_ != WITHDRAWN}

    @precondition(lambda self: self.input)
    @rule(at=st.integers(1, 9), after=st.booleans())
    def crash(self, at: int, after: bool) -> None:
        added = self.expected()
        mortal = dataclasses.replace(self.ctx, lake=Lake(Mortal(self.ctx.lake.workspace.root, at, after=after)))
        try:
            flow.run_day(mortal, DAY)
        except Killed:
            found, _ = self.found()
            assert self.stored.items() <= found.items() <= (self.stored | added).items()
            added = found
        self.agree(added)

    @precondition(lambda self: self.input)
    @rule(rows=st.dictionaries(KEYS, VALUES, max_size=2))
    def two_at_once(self, rows: dict[str, Value]) -> None:
        """Both plan; perhaps the input changes; both commit, and who is behind plans again."""
        first, second = (scored(self.ctx) for _ in range(2))
        if rows:
            self.bring_in(rows)
        added = self.expected()
        for record in (second, first):
            try:
                commit(self.ctx, record)
            except InputChanged:
                assert rows
        flow.run_day(self.ctx, DAY)
        self.agree(added)

    @precondition(lambda self: self.stored)
    @rule(data=st.data())
    def take_back(self, data: st.DataObject) -> None:
        run_id = data.draw(st.sampled_from(sorted(set(self.of_run.values()))))
        rollback(self.ctx.lake, run_id)
        for row in [row for row, owner in self.of_run.items() if owner == run_id]:
            del self.stored[row]
        self.agree({})
        assert self.ctx.lake.storage.head(PARTITION.success) is None

    @rule()
    def clear_away(self) -> None:
        clean(self.ctx.lake, older_than_days=0)
        self.agree({})

    @rule()
    def look(self) -> None:
        assert [finding for finding in verify(self.ctx.lake) if finding.kind != "staging"] == []
        for record in self.ctx.lake.records.of_day("toy", DAY):
            assert record.ledger is None or record.ledger.balanced


def visible(path: Path) -> list[dict[str, Any]]:
    if "predictions" not in path.parts or "rolled_back" in path.parts or ".staging" in path.parts:
        return []
    rows: list[dict[str, Any]] = pq.ParquetFile(path).read(["id", "revision", "fingerprint", "c", "run_id"]).to_pylist()
    return rows


@pytest.mark.slow
@pytest.mark.timeout(0 if os.environ.get("TORTURE") else 900)
@pytest.mark.parametrize("marks", [False, True], ids=["", "marks and carried values"])
def test_lake_agrees_with_a_dictionary_whatever_happens(workspace: Workspace, *, marks: bool) -> None:
    Life.workspace, Life.marks = workspace, marks
    workspace.job(reads='carry = ["c"]', policy=POLICY if marks else "")
    case = Life.TestCase
    health = [HealthCheck.too_slow, HealthCheck.data_too_large]
    case.settings = settings(
        max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None, suppress_health_check=health
    )
    case("runTest").runTest()
