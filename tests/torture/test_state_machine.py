"""Imports, runs, single stages, crashes, changes, rollbacks, erasures, expiries, in any order, against a dictionary."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
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
from pipeline.care.erase import erase
from pipeline.care.expire import expire
from pipeline.care.rollback import rollback
from pipeline.care.verify import verify
from pipeline.context import Context
from pipeline.errors import InputChanged
from pipeline.flow import day as flow
from pipeline.flow.single_stage import run_task
from pipeline.lake.layout import Lake, Partition
from pipeline.lake.record_store import OPEN
from pipeline.model.matrix import fingerprints
from pipeline.query.running import run_query
from pipeline.records import FileInfo, State
from pipeline.storage import LocalStorage
from tests.lakes import put_record
from tests.stages import commit, scored
from tests.workspace import DAY, Workspace

EXAMPLES, STEPS = (500, 20) if os.environ.get("TORTURE") else (50, 20)
PARTITION = Partition("toy", DAY, "v1")
TASKS = ("check", "plan", "validate_input", "score", "validate_output", "profile", "commit", "drift", "report")
"""The stages that an orchestrator runs one by one."""
KEEP_DAYS = 1
"""The day is months ago, so it expires."""
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

    def replace(self, key: str, finished: Path) -> FileInfo:
        found: FileInfo = self._write(super().replace, key, finished)
        return found

    def delete(self, key: str) -> None:
        self._write(super().delete, key)


class Life(RuleBasedStateMachine):
    workspace: ClassVar[Workspace]
    marks: ClassVar[bool]
    """Whether the job marks withdrawn keys and publishes carried values that change alone."""
    numbers: ClassVar[Iterator[int]] = count()
    dead: ClassVar[int]
    """The id of a process that has ended."""

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
        self.task_run: str | None = None
        """The run that the single stages pass on."""
        self.erasing: set[str] = set()
        """Keys whose erasure was killed."""
        self.rolling_back: set[str] = set()
        """Runs whose rollback was killed."""
        self.expiring = False
        """Whether an expiry was killed."""

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
        rejected = {key for key, (value, _) in self.input.items() if value is None}
        if rejected:
            assert {row["id"] for row in self.ask("SELECT id FROM quarantine")} == rejected

    def agree_with_the_view(self) -> None:
        rows = self.ask("SELECT id, revision, c FROM predictions")
        shown = {row["id"]: (row["revision"], row["c"]) for row in rows}
        current = self.newest().items()
        assert shown == {key: (revision, c) for key, (revision, (print_, c)) in current if print_ != WITHDRAWN}

    def ask(self, query: str) -> list[dict[str, Any]]:
        with run_query(self.ctx.lake, query) as result, result.stream() as (_, batches):
            return [row for batch in batches for row in batch.to_pylist()]

    @precondition(lambda self: self.input)
    @rule(at=st.integers(1, 9), after=st.booleans())
    def crash(self, at: int, after: bool) -> None:
        added = self.expected()
        if self.is_killed(lambda ctx: flow.run_day(ctx, DAY), at, after=after):
            added = self.some_of(added)
        self.agree(added)

    def is_killed(self, work: Callable[[Context], object], at: int, *, after: bool) -> bool:
        """Does some work in a process that dies at its nth write; tells whether it had got so far."""
        mortal = dataclasses.replace(self.ctx, lake=Lake(Mortal(self.ctx.lake.workspace.root, at, after=after)))
        try:
            work(mortal)
        except Killed:
            for record in self.ctx.lake.records.of_day("toy", DAY):
                if record.state in OPEN and record.pid == os.getpid():
                    put_record(self.ctx.lake, record.with_(pid=self.dead))
            return True
        return False

    def some_of(self, added: dict[Row, Stored]) -> dict[Row, Stored]:
        """Returns the rows that are stored now: those of before, and any of those that were to be added."""
        found, _ = self.found()
        assert self.stored.items() <= found.items() <= (self.stored | added).items()
        return found

    # Single stages, as an orchestrator runs them: in any order, again, late, or killed

    @precondition(lambda self: self.input)
    @rule(name=st.sampled_from(TASKS), at=st.integers(1, 12), after=st.booleans())
    def stage(self, name: str, at: int, after: bool) -> None:
        added, before = self.expected(), self.task_state()
        answer: dict[str, Any] = {}

        def work(ctx: Context) -> None:
            answer.update(run_task(ctx, name, DAY, None if name == "check" else self.task_run))

        if self.is_killed(work, at if at < 9 else 10**6, after=after):
            self.agree(self.some_of(added))
            return
        self.task_run = answer["run_id"]
        if name == "commit" and before is not State.complete:
            assert answer["state"] == State.complete
        else:
            added = self.some_of(added)
        self.agree(added)

    def task_state(self) -> State | None:
        records = self.ctx.lake.records
        if self.task_run is None or not records.exists("toy", DAY, self.task_run):
            return None
        return records.read("toy", DAY, self.task_run).state

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

    @precondition(lambda self: self.input)
    @rule(what=st.sampled_from(["erase", "expire", "take back"]), data=st.data(), waits=st.booleans())
    def meanwhile(self, what: str, data: st.DataObject, waits: bool) -> None:
        """Rewrites the day between the stages of a run, which may also wait for its next process then."""
        record = scored(self.ctx)
        if waits:
            record = self.ctx.lake.records.change(record, lambda stored: stored.with_(host="", pid=0))
        if what == "erase":
            self.erase(data.draw(KEYS))
        elif what == "expire":
            if waits:  # otherwise the day is left for the next time
                self.expire()
        elif self.stored:
            self.take_back(data)
        added = self.expected()
        try:
            commit(self.ctx, record)
        except InputChanged:
            assert what
        flow.run_day(self.ctx, DAY)
        self.agree(added)

    # What rewrites the day: whole, or killed at some write; then it is repeated at some time

    @precondition(lambda self: self.stored or self.rolling_back)
    @rule(data=st.data())
    def take_back(self, data: st.DataObject) -> None:
        run_id = data.draw(st.sampled_from(sorted({*self.of_run.values(), *self.rolling_back})))
        rollback(self.ctx.lake, run_id)
        self.rolling_back.discard(run_id)
        self.remove(lambda row: self.of_run[row] == run_id)
        assert self.ctx.lake.storage.head(PARTITION.success) is None

    @precondition(lambda self: self.stored)
    @rule(data=st.data(), at=st.integers(1, 5), after=st.booleans())
    def take_back_and_die(self, data: st.DataObject, at: int, after: bool) -> None:
        run_id = data.draw(st.sampled_from(sorted(set(self.of_run.values()))))
        if self.is_killed(lambda ctx: rollback(ctx.lake, run_id), at, after=after):
            self.rolling_back.add(run_id)
        self.lose(lambda row: self.of_run[row] == run_id)

    @rule(key=KEYS)
    def erase(self, key: str) -> None:
        erase(self.ctx.lake, self.ctx.job, key)
        self.erasing.discard(key)
        self.remove(lambda row: row[0] == key)
        for path in self.ctx.lake.workspace.root.rglob("*.parquet"):
            if "unscored" not in path.parts:
                names = pq.read_schema(path).names
                assert "id" not in names or key not in pq.read_table(path, columns=["id"])["id"].to_pylist(), path

    @rule(key=KEYS, at=st.integers(1, 9), after=st.booleans())
    def erase_and_die(self, key: str, at: int, after: bool) -> None:
        if self.is_killed(lambda ctx: erase(ctx.lake, ctx.job, key), at, after=after):
            self.erasing.add(key)
        else:
            self.erasing.discard(key)
        self.lose(lambda row: row[0] == key)

    @rule()
    def expire(self) -> None:
        expire(self.ctx.lake, self.ctx.job, keep_days=KEEP_DAYS)
        self.expiring = False
        self.remove(lambda row: True)

    @rule(at=st.integers(1, 9), after=st.booleans())
    def expire_and_die(self, at: int, after: bool) -> None:
        self.expiring = self.is_killed(expire_all, at, after=after)
        self.lose(lambda row: True)

    def remove(self, gone: Callable[[Row], bool]) -> None:
        self.stored = {row: value for row, value in self.stored.items() if not gone(row)}
        self.agree({})

    def lose(self, gone: Callable[[Row], bool]) -> None:
        """Takes what is stored as it is: rows may be missing of those that were to be removed."""
        found, _ = self.found()
        assert found.items() <= self.stored.items()
        assert all(gone(row) for row in self.stored.keys() - found.keys())
        self.stored = found
        self.agree({})

    @rule()
    def clear_away(self) -> None:
        clean(self.ctx.lake, older_than_days=0)
        self.agree({})

    @rule()
    def look(self) -> None:
        interrupted = {"erasure"} if self.erasing else set()
        interrupted |= {"ledger", "lost"} if self.rolling_back or self.expiring else set()
        interrupted |= {"rollback"} if self.rolling_back else set()
        assert [each for each in verify(self.ctx.lake) if each.kind not in {"staging", *interrupted}] == []
        for record in self.ctx.lake.records.of_day("toy", DAY):
            assert record.ledger is None or record.ledger.balanced


def expire_all(ctx: Context) -> list[str]:
    return expire(ctx.lake, ctx.job, keep_days=KEEP_DAYS)


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
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        Life.dead = process.pid
    workspace.job(reads='carry = ["c"]', policy=POLICY if marks else "")
    case = Life.TestCase
    health = [HealthCheck.too_slow, HealthCheck.data_too_large]
    case.settings = settings(
        max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None, suppress_health_check=health
    )
    case("runTest").runTest()
