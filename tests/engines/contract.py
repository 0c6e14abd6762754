"""What every engine promises, whatever runs its tasks: one class, which the tests of each engine inherit."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.engines.contract import Engine
from pipeline.errors import QualityStop, StorageUnavailable, WorkerLost
from tests.engines import functions

SLOTS = 2


class EngineContract:
    """The fixture `engine` runs two tasks at the same time, and says that it has `slots`."""

    slots = SLOTS

    def test_map_yields_the_result_of_every_task_with_its_number(self, engine: Engine) -> None:
        assert engine.slots == self.slots
        tasks = [f"task {number}, ø \n" for number in range(7)]
        assert dict(engine.map(functions.doubled, tasks)) == {n: task * 2 for n, task in enumerate(tasks)}

    def test_map_without_tasks_yields_nothing(self, engine: Engine) -> None:
        assert list(engine.map(functions.doubled, [])) == []

    def test_error_that_stops_a_run_keeps_its_class_and_what_it_carries(self, engine: Engine) -> None:
        with pytest.raises(QualityStop, match="bad data") as raised:
            list(engine.map(functions.stopped_at_three, list("123")))
        found = raised.value
        assert (found.where, found.expected, found.next_step) == ("here", "good data", "look")
        assert found.checks == (functions.CHECK,)

    def test_error_that_may_pass_keeps_its_class(self, engine: Engine) -> None:
        with pytest.raises(StorageUnavailable) as raised:
            list(engine.map(functions.without_storage, ["a"]))
        assert raised.value.where == "a"

    def test_error_of_python_keeps_its_class(self, engine: Engine) -> None:
        with pytest.raises(ValueError, match="invalid literal"):
            list(engine.map(functions.not_a_number, ["1", "x"]))

    def test_result_comes_as_soon_as_it_is_there_and_closing_ends_the_rest(
        self, engine: Engine, tmp_path: Path
    ) -> None:
        results = engine.map(functions.note_and_wait, [f"{tmp_path}/first", f"{tmp_path}/other"])
        assert next(results) == (0, "first")
        self.cancel(results, tmp_path)
        assert list(results) == []

    @staticmethod
    def cancel(results: object, _folder: Path) -> None:
        results.close()  # type: ignore[attr-defined]


class SparkContract(EngineContract):
    @staticmethod
    def cancel(results: object, folder: Path) -> None:
        """A Python process that runs a task does not look at signals of Spark before it returns."""
        (folder / "over").touch()
        results.close()  # type: ignore[attr-defined]

    def test_task_whose_process_is_killed_is_run_again(self, engine: Engine, tmp_path: Path) -> None:
        tasks = [str(tmp_path / name) for name in ("a", "b")]
        assert dict(engine.map(functions.killed_at_first, tasks)) == {0: "a", 1: "b"}

    def test_task_that_always_kills_its_process_is_given_up(self, engine: Engine) -> None:
        with pytest.raises(WorkerLost, match="could not finish"):
            list(engine.map(functions.always_killed, ["a"]))
