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

from pipeline import run
from pipeline.care.clean import clean
from pipeline.care.rollback import rollback
from pipeline.care.verify import verify
from pipeline.context import Context
from pipeline.errors import InputChanged
from pipeline.features import fingerprints
from pipeline.lake import Lake, Partition
from pipeline.records import FileInfo, State
from pipeline.storage import LocalStorage
from tests.workspace import DAY, Workspace

EXAMPLES, STEPS = (500, 20) if os.environ.get("TORTURE") else (50, 20)
PARTITION = Partition("toy", DAY, "v1")
KEYS = st.sampled_from([f"u{number}" for number in range(6)])
VALUES = st.sampled_from([0.0, 1.0, 2.0, None])

Row = tuple[str, int]
"""A key and a revision."""


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
    numbers: ClassVar[Iterator[int]] = count()

    def __init__(self) -> None:
        super().__init__()
        root = self.workspace.root / f"lake-{next(self.numbers)}"
        self.settings = dataclasses.replace(self.workspace.settings, lake=str(root), threads=1)
        self.ctx = self.context()
        self.input: dict[str, float | None] = {}
        self.stored: dict[Row, int] = {}
        """The fingerprints of what must be there."""
        self.of_run: dict[Row, str] = {}

    def context(self) -> Context:
        found = self.workspace.context()
        return dataclasses.replace(found, lake=Lake.open(self.settings.lake))

    # What the lake should hold

    def expected(self) -> dict[Row, int]:
        """Returns the rows that a run adds to those that are stored."""
        added = {}
        for key, value in self.input.items():
            if value is None:
                continue
            print_ = int(fingerprints(np.array([[value, 1.0]], np.float32))[0])
            revisions = [revision for found, revision in self.stored if found == key]
            newest = max(revisions, default=-1)
            if not revisions or self.stored[key, newest] != print_:
                added[key, newest + 1] = print_
        return added

    def found(self) -> tuple[dict[Row, int], dict[Row, str]]:
        rows = [row for path in self.ctx.lake.workspace.root.rglob("part-*.parquet") for row in visible(path)]
        assert len({(row["id"], row["revision"]) for row in rows}) == len(rows), "a row stands twice"
        prints = {(row["id"], row["revision"]): row["fingerprint"] for row in rows}
        return prints, {(row["id"], row["revision"]): row["run_id"] for row in rows}

    def agree(self, added: dict[Row, int]) -> None:
        self.stored |= added
        found, self.of_run = self.found()
        assert found == self.stored

    # What may happen

    def put(self) -> None:
        path = self.ctx.lake.workspace.path(f"unscored/ds={DAY}/data.parquet")
        path.parent.mkdir(parents=True, exist_ok=True)
        columns = {"id": list(self.input), "a": pa.array(list(self.input.values()), pa.float64())}
        pq.write_table(pa.table({**columns, "b": [1.0] * len(self.input)}), path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)

    @rule(rows=st.dictionaries(KEYS, VALUES, min_size=1))
    def bring_in(self, rows: dict[str, float | None]) -> None:
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
        outcome = run.run_day(self.ctx, DAY)
        assert outcome.record is not None
        assert outcome.record.state is State.complete
        self.agree(added)
        assert run.run_day(self.ctx, DAY).up_to_date

    @precondition(lambda self: self.input)
    @rule(at=st.integers(1, 9), after=st.booleans())
    def crash(self, at: int, after: bool) -> None:
        added = self.expected()
        mortal = dataclasses.replace(self.ctx, lake=Lake(Mortal(self.ctx.lake.workspace.root, at, after=after)))
        try:
            run.run_day(mortal, DAY)
        except Killed:
            found, _ = self.found()
            assert self.stored.items() <= found.items() <= (self.stored | added).items()
            added = found
        self.agree(added)

    @precondition(lambda self: self.input)
    @rule(rows=st.dictionaries(KEYS, VALUES, max_size=2))
    def two_at_once(self, rows: dict[str, float | None]) -> None:
        """Both plan; perhaps the input changes; both commit, and who is behind plans again."""
        manifest = self.ctx.registry.resolve("toy", "production")
        first, second = (run.score(self.ctx, run.plan(self.ctx, manifest, DAY)) for _ in range(2))
        if rows:
            self.bring_in(rows)
        added = self.expected()
        for record in (second, first):
            try:
                run.commit(self.ctx, record)
            except InputChanged:
                assert rows
        run.run_day(self.ctx, DAY)
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
        for record in self.ctx.lake.records("toy", DAY):
            assert record.ledger is None or record.ledger.balanced


def visible(path: Path) -> list[dict[str, Any]]:
    if "predictions" not in path.parts or "rolled_back" in path.parts or ".staging" in path.parts:
        return []
    rows: list[dict[str, Any]] = pq.ParquetFile(path).read(["id", "revision", "fingerprint", "run_id"]).to_pylist()
    return rows


@pytest.mark.slow
@pytest.mark.timeout(0 if os.environ.get("TORTURE") else 900)
def test_lake_agrees_with_a_dictionary_whatever_happens(workspace: Workspace) -> None:
    Life.workspace = workspace
    case = Life.TestCase
    health = [HealthCheck.too_slow, HealthCheck.data_too_large]
    case.settings = settings(
        max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None, suppress_health_check=health
    )
    case("runTest").runTest()
