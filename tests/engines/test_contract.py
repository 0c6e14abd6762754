"""The contract of engines, on this machine: threads and processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.engines.contract import Engine
from pipeline.engines.processes import Processes
from pipeline.engines.threads import Threads
from pipeline.errors import WorkerLost
from tests.engines import functions
from tests.engines.cluster import ROOT, until
from tests.engines.contract import SLOTS, EngineContract


def check_that_closing_cancels(engine: Engine, folder: Path) -> None:
    names = ["first", *(f"other{number}" for number in range(6))]
    results = engine.map(functions.note_and_wait, [f"{folder}/{name}" for name in names])
    assert next(results) == (0, "first")
    results.close()  # type: ignore[attr-defined]
    begun = {path.name.partition("-")[0] for path in folder.iterdir()} - {"over"}
    assert "first" in begun
    assert len(begun) < len(names), "all tasks have begun, although only two can run at the same time"


class TestThreads(EngineContract):
    @pytest.fixture
    def engine(self, tmp_path: Path) -> Iterator[Engine]:
        with Threads(SLOTS, (tmp_path / "over").touch) as made:
            yield made

    def test_closing_cancels_tasks_that_have_not_begun(self, engine: Engine, tmp_path: Path) -> None:
        check_that_closing_cancels(engine, tmp_path)


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    with Processes(SLOTS) as made:
        yield made


class TestProcesses(EngineContract):
    @pytest.fixture
    def engine(self, processes: Processes) -> Engine:
        return processes

    def test_closing_cancels_tasks_that_have_not_begun(self, engine: Engine, tmp_path: Path) -> None:
        check_that_closing_cancels(engine, tmp_path)

    @pytest.mark.slow
    def test_closing_ends_the_processes_of_running_tasks(self, engine: Engine, tmp_path: Path) -> None:
        results = engine.map(functions.note_and_wait, [f"{tmp_path}/{name}" for name in ("first", "a", "b")])
        next(results)
        while not (running := [p for p in tmp_path.iterdir() if not p.name.startswith("first")]):
            time.sleep(0.01)
        results.close()  # type: ignore[attr-defined]
        assert not [path for path in running if Path(f"/proc/{path.name.rpartition('-')[2]}/stat").exists()]

    def test_task_whose_process_is_killed_is_run_again(self, engine: Engine, tmp_path: Path) -> None:
        tasks = [str(tmp_path / name) for name in ("a", "b")]
        (tmp_path / "a").touch()
        assert dict(engine.map(functions.killed_at_first, tasks)) == {0: "a", 1: "b"}

    @pytest.mark.slow
    def test_task_that_always_kills_its_process_is_given_up(self, engine: Engine) -> None:
        with pytest.raises(WorkerLost, match="3 attempts"):
            list(engine.map(functions.always_killed, ["a"]))

    @pytest.mark.slow
    def test_processes_end_with_the_one_that_started_them(self, tmp_path: Path) -> None:
        script, begun = tmp_path / "main.py", tmp_path / "begun"
        begun.mkdir()
        script.write_text(
            "import sys\n"
            "from pipeline.engines.processes import Processes\n"
            "from tests.engines import functions\n"
            "if __name__ == '__main__':\n"
            "    list(Processes(2).map(functions.note_and_wait, sys.argv[1:]))\n"
        )
        command = [sys.executable, str(script), f"{begun}/a", f"{begun}/b"]
        parent = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)})
        try:
            until(lambda: len(list(begun.iterdir())) == 2, "both tasks run")
        finally:
            parent.kill()
            parent.wait()
        running = [Path(f"/proc/{path.name.rpartition('-')[2]}/stat") for path in begun.iterdir()]
        until(lambda: not any(path.exists() for path in running), "the processes have ended")
