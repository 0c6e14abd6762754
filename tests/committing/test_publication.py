"""Publishing when the storage's answers are lost: each file once, and a limited number of attempts."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from pipeline.committing import publication
from pipeline.errors import CommitUnknown
from pipeline.lake.layout import Partition
from pipeline.records import State
from pipeline.staging import writer as parquet_writer
from pipeline.storage import Storage
from tests.stages import commit, scored
from tests.workspace import DAY, Workspace, table

LoseAnswers = Callable[[Iterator[str]], None]


@pytest.fixture
def lose_answers(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> LoseAnswers:
    """Loses the answers of the next puts: each "before" the file is created, or "after"; "no" loses none."""
    kind: type[Storage] = type(workspace.context().lake.storage)
    real = kind.create

    def lose(fates: Iterator[str]) -> None:
        def create(*arguments: object) -> object:
            fate = next(fates, "no")
            made = real(*arguments) if fate != "before" else None  # type: ignore[arg-type]
            if fate != "no":
                raise CommitUnknown("no telling")
            return made

        monkeypatch.setattr(kind, "create", create)

    return lose


def test_commit_lost_response_is_checked_before_the_retry(workspace: Workspace, lose_answers: LoseAnswers) -> None:
    workspace.day(50)
    ctx = workspace.context()
    record = scored(ctx)
    lose_answers(iter(["after"]))
    assert commit(ctx, record).state is State.complete
    assert len(workspace.stored()) == 50


@pytest.mark.slow
def test_commit_lost_response_for_the_rest_of_a_file_is_recognised(
    workspace: Workspace, lose_answers: LoseAnswers
) -> None:
    rows = table(50)
    workspace.day(rows.slice(0, 30))
    ctx = workspace.context()
    other = scored(ctx)
    workspace.day(rows)
    slow = scored(ctx)
    commit(ctx, other.with_(plan=other.plan.model_copy(update={"input": slow.plan.input})))
    lose_answers(iter(["after"]))
    done = commit(ctx, slow)
    assert done.state is State.complete
    assert done.ledger is not None
    assert (done.ledger.scored.rows, done.ledger.unchanged.rows) == (20, 30)
    assert len(workspace.stored()) == 50


def test_commit_answers_that_stay_lost_end_it_after_five_attempts(
    workspace: Workspace, lose_answers: LoseAnswers
) -> None:
    workspace.day(50)
    ctx = workspace.context()
    record = scored(ctx)
    fates = ["before"] * 100
    left = iter(fates)
    lose_answers(left)
    with pytest.raises(CommitUnknown):
        commit(ctx, record)
    assert len(fates) - len(list(left)) == publication.TRIES == 5
    assert not ctx.lake.parts(Partition("toy", DAY, "v1"))


@pytest.mark.slow
@pytest.mark.parametrize("what", ["a folder", "a link that leads nowhere"])
def test_commit_name_that_is_taken_but_cannot_be_seen_ends_it(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    workspace.day(50)
    ctx = workspace.context()
    record = scored(ctx)
    path = ctx.lake.workspace.path(Partition("toy", DAY, "v1").part(0))
    path.parent.mkdir(parents=True)
    path.mkdir() if what == "a folder" else path.symlink_to("nowhere")
    pauses: list[float] = []
    monkeypatch.setattr("pipeline.committing.publication.time.sleep", pauses.append)
    with pytest.raises(CommitUnknown, match=rf"taken(?s:.)*{what}"):
        commit(ctx, record)
    assert len(pauses) == publication.LOOKS - 2
    assert 2 < sum(pauses) < 5
    path.rmdir() if what == "a folder" else path.unlink()
    assert workspace.complete().state is State.complete
    assert len(workspace.stored()) == 50


def test_commit_attempts_are_counted_for_each_file(
    workspace: Workspace, lose_answers: LoseAnswers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_writer, "FILE_ROWS", 1000)
    monkeypatch.setattr(parquet_writer, "GROUP_ROWS", 500)
    monkeypatch.setattr("pipeline.database.resources.BATCH_ROWS", 300)
    monkeypatch.setattr("pipeline.database.resources.BATCH_VALUES", 600)
    workspace.day(30_000)
    ctx = workspace.context(threads=1)
    record = scored(ctx)
    lose_answers(iter([*["before"] * 4, "no", *["before"] * 3, "after", *["before"] * 4]))
    done = commit(ctx, record)
    assert done.state is State.complete
    assert len(done.committed) > 2
    assert len(workspace.stored()) == 30_000
