"""Injected faults of the storage (100 with TORTURE=1): a run succeeds or says so, and the next one mends it."""

from __future__ import annotations

import dataclasses
import os
import random

import pytest

from pipeline.care.verify import verify
from pipeline.context import Context
from pipeline.errors import InputMissing, LakeDamaged, LakescoreError
from pipeline.flow import day as flow
from pipeline.lake.layout import Lake
from pipeline.records import State
from tests.torture.faulty import FAULTS, VERBS, WRITES, FaultyStorage
from tests.workspace import DAY, Workspace, changed, table

NUMBER = 100 if os.environ.get("TORTURE") else 25
SEEN_AS_ABSENT = (LakeDamaged, InputMissing)
"""What a listing looks like that misses a name: it is not there, and the run says so."""


def faulty(workspace: Workspace, seed: int) -> tuple[Context, FaultyStorage]:
    rng = random.Random(seed)
    verb = VERBS[seed % len(VERBS)]
    faults = [fault for fault in FAULTS if (fault == "listing") == (verb in ("files", "folders", "glob"))]
    fault = rng.choice(faults if verb in WRITES or verb in ("files", "folders", "glob") else ["before"])
    storage = FaultyStorage(workspace.lake, verb, rng.randrange(1, 4), fault, rng)
    return dataclasses.replace(workspace.context(), lake=Lake(storage)), storage


def error_of(ctx: Context) -> LakescoreError | None:
    try:
        flow.run_day(ctx, DAY)
    except LakescoreError as error:
        return error
    return None


@pytest.mark.slow
def test_faults_of_the_storage_lose_and_double_nothing(workspace: Workspace) -> None:
    rows, fired = table(60), 0
    workspace.day(rows)
    for seed in range(2 * NUMBER):
        rows = changed(rows, "a", {seed % 60: float(seed)})
        workspace.day(changed(rows, "b", {0: None}) if seed % 3 == 0 else rows)
        ctx, storage = faulty(workspace, seed)
        error = error_of(ctx)
        allowed = error is None or error.transient or isinstance(error, SEEN_AS_ABSENT)
        assert allowed, f"{seed} {storage.verb} {storage.fault}: {error}"
        fired += storage.fired
        if fired >= NUMBER:
            break
    assert fired >= NUMBER
    workspace.day(rows)
    record = workspace.run().record
    assert record is not None
    assert record.state is State.complete
    found = workspace.stored("SELECT id, revision, count(*) AS n FROM predictions GROUP BY ALL HAVING n > 1")
    assert found == []
    assert len(workspace.stored("SELECT DISTINCT id FROM predictions")) == 60
    current = workspace.stored("SELECT id, max_by(fingerprint, revision) AS f FROM predictions GROUP BY id ORDER BY id")
    again = Workspace(workspace.root / "again")
    again.job()
    again.model()
    again.day(rows)
    again.run()
    assert current == again.stored("SELECT id, fingerprint AS f FROM predictions ORDER BY id"), "the newest input wins"
    ctx = workspace.context()
    assert [finding for finding in verify(ctx.lake) if finding.kind != "staging"] == []
    assert all(each.ledger is None or each.ledger.balanced for each in ctx.lake.records.of_day("toy", DAY))
