"""Run records are changed only by compare-and-swap, so concurrent changes are not lost."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from pipeline.errors import CommitConflict, CommitUnknown, LakeDamaged, RunEnded, UsageError
from pipeline.lake.layout import Lake, Partition
from pipeline.lake.record_store import NEXT, OPEN
from pipeline.records import Addition, FileInfo, RunRecord, StageReport, State
from pipeline.storage import LocalStorage
from tests import lakes
from tests.workspace import DAY

TOY = Partition("toy", DAY, "v1")
FINAL = (State.overtaken, State.superseded, State.stopped, State.rolled_back)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return lakes.open_lake(tmp_path / "lake")


def put(lake: Lake, *keys: str) -> None:
    for key in keys:
        lake.storage.write(key, b"")


def warned(text: str) -> Addition:
    return Addition(warnings=(text,))


def test_records_are_newest_first_and_as_they_were_written(lake: Lake) -> None:
    first = lakes.add_run(lake, TOY, number=0)
    failed = lakes.add_run(lake, TOY, number=1, state=State.failed)
    put(lake, f"runs/job=toy/ds={DAY}/.{failed.run_id}.json.0.tmp", f"runs/job=toy/ds={DAY}/notes.txt")
    assert lake.records.of_day("toy", DAY) == [failed, first]
    assert lake.records.read("toy", DAY, first.run_id) == first
    assert lake.records.last_complete("toy", DAY) == first
    assert lake.records.days("toy") == [DAY]


def test_last_complete_is_the_one_that_finished_last(lake: Lake) -> None:
    slow, quick = lakes.add_run(lake, TOY, number=0), lakes.add_run(lake, TOY, number=1)
    assert quick.finished_at is not None
    lakes.put_record(lake, slow.with_(finished_at=lakes.clock(DAY, 9)))
    found = lake.records.last_complete("toy", DAY)
    assert found is not None
    assert found.run_id == slow.run_id


def test_run_exists_if_it_has_a_record_of_its_job_and_day(lake: Lake) -> None:
    record = lakes.add_run(lake, TOY)
    assert lake.records.exists("toy", DAY, record.run_id)
    assert not lake.records.exists("toy", "2026-01-02", record.run_id)
    assert not lake.records.exists("toy", DAY, "x")


def test_read_record_that_is_not_there_is_a_usage_error(lake: Lake) -> None:
    with pytest.raises(UsageError, match="no run is called 'x'"):
        lake.records.read("toy", DAY, "x")


@pytest.mark.parametrize("run_id", ["", "../x", "a/b", ".x", "a\n"])
def test_read_record_by_what_is_no_name_is_refused(lake: Lake, run_id: str) -> None:
    with pytest.raises(UsageError, match="cannot be used as a name"):
        lake.records.read("toy", DAY, run_id)


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ('"state": "complete"', '"state": "lost"', "state"),
        ('"rows": 0', '"rows": "many"', "plan.candidates.rows"),
        ("{", "", "the whole file"),
    ],
    ids=["unknown state", "no number", "no JSON"],
)
def test_record_that_is_damaged_names_file_and_field(lake: Lake, old: str, new: str, where: str) -> None:
    record = lakes.add_run(lake, TOY)
    path = lake.workspace.path(lake.records.key("toy", DAY, record.run_id))
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(LakeDamaged, match="a run record cannot be read") as caught:
        lake.records.of_day("toy", DAY)
    assert caught.value.where == f"{path}, {where}"


def test_record_with_fields_of_a_later_version_is_read(lake: Lake) -> None:
    record = lakes.add_run(lake, TOY)
    path = lake.workspace.path(lake.records.key("toy", DAY, record.run_id))
    document = json.loads(path.read_text())
    document["later"] = document["plan"]["later"] = document["stages"][0]["later"] = {"x": 1}
    path.write_text(json.dumps(document))
    assert lake.records.read("toy", DAY, record.run_id) == record


@pytest.mark.parametrize("text", ['"format": 2', '"format": "1"'])
def test_record_of_another_format_is_not_read(lake: Lake, text: str) -> None:
    record = lakes.add_run(lake, TOY)
    path = lake.workspace.path(lake.records.key("toy", DAY, record.run_id))
    path.write_text(path.read_text().replace('"format": 1', text))
    with pytest.raises(LakeDamaged, match=r"an unknown format(?s:.)*use the version of Lakescore that"):
        lake.records.read("toy", DAY, record.run_id)


def test_record_in_the_place_of_another_is_not_read(lake: Lake) -> None:
    """Copied by hand, it would make rows of one day count as those of another."""
    record = lakes.add_run(lake, TOY)
    path = lake.workspace.path(lake.records.key("toy", DAY, record.run_id))
    for copy in (path.with_name("other.json"), path.parent.with_name("ds=2026-03-03") / path.name):
        copy.parent.mkdir(exist_ok=True)
        copy.write_text(path.read_text())
        with pytest.raises(LakeDamaged, match="does not lie in its place") as caught:
            lake.records.of_day("toy", copy.parent.name.removeprefix("ds="))
        assert (caught.value.where, caught.value.expected) == (str(copy), str(path))
        copy.unlink()


# Changes


def test_create_run_with_an_id_that_is_taken_is_a_conflict(lake: Lake) -> None:
    record = lakes.add_run(lake, TOY)
    with pytest.raises(CommitConflict, match=f"run {record.run_id} already has a record"):
        lake.records.create(record.with_(state=State.planned))
    assert lake.records.read("toy", DAY, record.run_id) == record


def test_change_that_lost_the_race_is_applied_to_the_newer_record(lake: Lake) -> None:
    record = lakes.add_run(lake, TOY)
    seen: list[tuple[str, ...]] = []

    def change(stored: RunRecord) -> RunRecord:
        seen.append(stored.warnings)
        if len(seen) == 1:
            Lake(lake.storage).records.add(record, warned("faster"))
        return stored.with_(warnings=(*stored.warnings, "slower"))

    done = lake.records.change(record, change)
    assert seen == [(), ("faster",)]
    assert done.warnings == ("faster", "slower")
    assert lake.records.read("toy", DAY, record.run_id) == done


def test_changes_of_many_threads_are_all_kept(lake: Lake) -> None:
    record = lakes.add_run(lake, TOY)
    texts = [f"warning {number}" for number in range(12)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda text: Lake(lake.storage).records.add(record, warned(text)), texts))
    assert sorted(lake.records.read("toy", DAY, record.run_id).warnings) == sorted(texts)


def test_change_that_loses_every_race_is_a_conflict(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    record = lakes.add_run(lake, TOY)
    monkeypatch.setattr(type(lake.storage), "update", lambda *_: False)
    with pytest.raises(CommitConflict, match="keeps changing"):
        lake.records.add(record, warned("late"))


def test_change_whose_answer_was_lost_is_made_once(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    record, real, answers = lakes.add_run(lake, TOY), LocalStorage.update, iter([False])

    def write_and_lose_the_answer(storage: LocalStorage, key: str, content: bytes, seen: FileInfo | None) -> bool:
        done = real(storage, key, content, seen)
        if not next(answers, True):
            raise CommitUnknown("no answer")
        return done

    monkeypatch.setattr(LocalStorage, "update", write_and_lose_the_answer)
    assert lake.records.add(record, warned("once")).warnings == ("once",)
    assert lake.records.read("toy", DAY, record.run_id).warnings == ("once",)


def test_change_that_changes_nothing_writes_nothing(lake: Lake) -> None:
    record = lakes.add_run(lake, TOY)
    key = lake.records.key("toy", DAY, record.run_id)
    before = lake.storage.head(key)
    assert lake.records.change(record, lambda stored: stored) == record
    assert lake.storage.head(key) == before


@pytest.mark.parametrize(
    ("before", "after"),
    [
        *((final, state) for final, state in product(FINAL, State) if state not in (final, State.rolled_back)),
        *((State.complete, state) for state in (*OPEN, State.failed, State.stopped)),
        *((State.planned, state) for state in (State.complete, State.overtaken)),
    ],
)
def test_change_to_a_state_that_may_not_follow_is_refused(lake: Lake, before: State, after: State) -> None:
    record = lakes.add_run(lake, TOY, state=before)
    with pytest.raises(RunEnded, match=f"has ended as {before}; it cannot become {after}"):
        lake.records.change(record, lambda stored: stored.with_(state=after))
    assert lake.records.read("toy", DAY, record.run_id).state is before


def test_states_that_may_follow_are_told_for_each_state() -> None:
    assert set(NEXT) == set(State)
    assert all(state in followers and State.rolled_back in followers for state, followers in NEXT.items())


@pytest.mark.parametrize("state", [state for state in State if state not in OPEN])
def test_end_of_a_run_that_has_ended_leaves_it_as_it_is(lake: Lake, state: State) -> None:
    record = lakes.add_run(lake, TOY, state=state)
    assert lake.records.end(record, State.failed, "too late") == record


def test_end_of_a_run_at_work_says_why(lake: Lake) -> None:
    record = lakes.add_run(lake, TOY, state=State.scored)
    ended = lake.records.end(record, State.failed, "no space left")
    assert (ended.state, ended.error) == (State.failed, "no space left")
    assert ended.finished_at is not None


def test_addition_made_twice_adds_nothing_the_second_time(lake: Lake) -> None:
    record = lakes.add_run(lake, TOY)
    report = StageReport(stage="drift", wall_s=1.0, cpu_s=1.0)
    addition = Addition(stages=(report,), warnings=("age has drifted",), peak_memory_bytes=1)
    once = lake.records.add(record, addition)
    assert lake.records.add(once, addition) == once
    assert [stage.stage for stage in once.stages] == ["score", "drift"]
    assert once.peak_memory_bytes == record.peak_memory_bytes  # the peak over all processes


def test_addition_replaces_the_warnings_of_an_earlier_attempt(lake: Lake) -> None:
    record = lakes.add_run(lake, TOY)
    once = lake.records.add(record, Addition(warnings=("no page: x", "no drift: x")))
    pattern = re.compile("^no drift")
    again = lake.records.add(once, replace(warned("no drift: y"), replaced_warnings=pattern))
    assert again.warnings == ("no page: x", "no drift: y")
