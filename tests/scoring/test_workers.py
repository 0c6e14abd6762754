"""The workers: what they do while the model is loaded, and if loading fails."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Mapping
from typing import Any

import pytest

from pipeline.database import resources
from pipeline.errors import ModelError
from pipeline.flow import day as flow
from pipeline.model.registry import Registry
from pipeline.scoring import stage as scoring
from pipeline.scoring.workers import AHEAD, ModelOutputs
from tests.workspace import DAY, Workspace

BATCH = 8192
ROWS = 12 * BATCH


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "BATCH_ROWS", BATCH)


@pytest.mark.slow
@pytest.mark.usefixtures("small_batches")
def test_rows_are_read_ahead_while_the_model_is_loaded_but_not_without_end(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.day(ROWS)
    load, wait, waiting, seen = Registry.load, ModelOutputs.wait, threading.Event(), [0]
    ahead: list[int] = []

    def slow(self: Registry, *arguments: Any, **options: Any) -> Any:
        assert waiting.wait(60), "no batch is read while the model is loaded"
        ahead.append(seen[-1])
        return load(self, *arguments, **options)

    def progress(stage: str, done: int, _total: int) -> None:
        if stage == "score":
            seen.append(done)

    def wait_and_say_so(self: ModelOutputs) -> None:
        waiting.set()
        wait(self)

    monkeypatch.setattr(ModelOutputs, "wait", wait_and_say_so)
    monkeypatch.setattr(Registry, "load", slow)
    ctx = dataclasses.replace(workspace.context(threads=1), progress=progress)
    record = flow.run_day(ctx, DAY).record
    assert record is not None
    assert record.ledger is not None
    assert record.ledger.scored.rows == ROWS
    assert record.ledger.balanced
    assert ahead[0] == (AHEAD + 1) * BATCH < ROWS


@pytest.mark.usefixtures("small_batches")
def test_model_that_cannot_be_loaded_ends_the_run_with_its_own_error(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.day(ROWS)

    def broken(*_: Any, **_options: Any) -> Any:
        raise ModelError("the model cannot be loaded")

    monkeypatch.setattr(Registry, "load", broken)
    with pytest.raises(ModelError, match="cannot be loaded"):
        workspace.run()
    assert not list(workspace.lake.rglob("scored-*"))


@pytest.mark.slow
def test_stages_say_how_much_they_read_and_wrote(workspace: Workspace) -> None:
    path = workspace.day(200_000)
    record = workspace.complete()
    stages = {stage.stage: stage for stage in record.stages}
    published = sum(file.size for file in record.committed)
    assert published > 1_000_000
    read, written = stages["score"].bytes_read, stages["score"].bytes_written
    assert read is not None
    assert written is not None
    assert read > 0.9 * path.stat().st_size  # every column is key or feature
    assert published <= written < 1.5 * published
    assert all(stage.bytes_read is not None for stage in record.stages if stage.stage not in ("load", "import_quality"))


class Seen:
    """A progress callback that records what it is told, also about the workers."""

    def __init__(self) -> None:
        self.done: list[tuple[str, int]] = []
        self.busy: list[dict[str, float]] = []

    def __call__(self, stage: str, done: int, _total: int) -> None:
        self.done.append((stage, done))

    def workers(self, busy: Mapping[str, float]) -> None:
        self.busy.append(dict(busy))


def watched(workspace: Workspace) -> Seen:
    workspace.day(ROWS)
    seen = Seen()
    flow.run_day(dataclasses.replace(workspace.context(), progress=seen), DAY)
    return seen


@pytest.mark.usefixtures("small_batches")
def test_watcher_is_told_what_the_workers_do(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "SHOWN_EVERY_S", 0)
    seen = watched(workspace)
    assert ("score", ROWS) in seen.done
    assert len(seen.busy) == ROWS // BATCH
    assert set(seen.busy[-1]) == {"read", "judge", "forward", "write"}
    assert sum(seen.busy[-1].values()) == pytest.approx(1)


@pytest.mark.usefixtures("small_batches")
def test_watcher_is_not_told_of_the_workers_at_every_batch(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "SHOWN_EVERY_S", 1e6)
    assert len(watched(workspace).busy) == 1


def test_score_says_where_the_time_of_its_workers_went(workspace: Workspace) -> None:
    workspace.day(1000)
    stages = {stage.stage: stage for stage in workspace.complete().stages}
    assert set(stages["score"].busy) == {"read", "judge", "forward", "write"}
    assert sum(stages["score"].busy.values()) == pytest.approx(1)
    assert stages["load"].cpu_s > 0
