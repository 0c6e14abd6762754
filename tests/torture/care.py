"""Erasures, rollbacks, expiries and single stages beside the runs of the kill test, which are killed like them.

A command that was killed is repeated, at the latest at the end; then its effect must be complete.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pyarrow.parquet as pq

from pipeline.care.verify import verify
from pipeline.lake.layout import Lake, Partition
from pipeline.records import State
from tests.workspace import DAY

PROGRAM = (sys.executable, "-m", "pipeline")
KINDS = (*["erase", "rollback", "stages"] * 3, "expire")
"""What is done in a round: an expiry takes the whole day, so it comes less often."""
CHAIN = ("check", "plan", "score", "commit")
EXPIRE = ("clean", "--job", "toy", "--keep-days", "30")

EndedBy = Callable[["subprocess.Popen[bytes]", float], bool]
"""Waits so many seconds for a process, and kills it if it has not ended; tells whether it has killed it."""


@dataclass
class Care:
    lake: Lake
    environment: Mapping[str, str]
    rng: random.Random
    erased: set[str] = field(default_factory=set)
    rolled_back: set[str] = field(default_factory=set)
    left: set[tuple[str, ...]] = field(default_factory=set)
    """Commands that were killed, and not repeated yet."""
    begun: int = 0

    def choose(self, rows: dict[str, tuple[float, float]]) -> Callable[[EndedBy, float], None]:
        """Chooses what is done in a round, and returns what does it; a key that will be erased leaves the input."""
        kind = self.rng.choice(KINDS)
        complete = [record.run_id for record in self.lake.records.of_day("toy", DAY) if record.state is State.complete]
        self.begun += 1
        match kind:
            case "erase":
                key = self.rng.choice(sorted(rows))
                del rows[key]
                self.erased.add(key)
                command: tuple[str, ...] = ("erase", key, "--job", "toy", "--yes")
            case "rollback" if complete:
                run_id = self.rng.choice(complete)
                self.rolled_back.add(run_id)
                command = ("rollback", run_id)
            case "expire":
                command = EXPIRE
            case _:
                dies_in = self.rng.choice(CHAIN)
                return lambda ended_by, delay_s: self._stages(dies_in, ended_by, delay_s)
        return lambda ended_by, delay_s: self._killed(command, ended_by, delay_s)

    def _killed(self, command: tuple[str, ...], ended_by: EndedBy, delay_s: float) -> None:
        process = self._start(*command)
        if ended_by(process, delay_s) or process.returncode not in self._expected(command):
            self.left.add(command)

    def _stages(self, dies_in: str, ended_by: EndedBy, delay_s: float) -> None:
        """Runs the stages as an orchestrator does; the process of one of them is killed."""
        run_id: tuple[str, ...] = ()
        for name in CHAIN:
            with self._start("stage", name, "--job", "toy", "--date", DAY, *run_id, output=subprocess.PIPE) as process:
                if name == dies_in:
                    ended_by(process, delay_s)
                    return
                output, _ = process.communicate()
            if process.returncode:  # other runs keep changing the day
                return
            run_id = ("--run-id", json.loads(output)["run_id"])

    def repeat(self, share: float) -> None:
        """Repeats so many, 0 to 1, of the commands that were killed."""
        for command in sorted(self.left):
            if self.rng.random() < share:
                code = self._start(*command).wait(300)
                assert code in self._expected(command), f"{command}: exit code {code}"
                self.left.discard(command)

    @staticmethod
    def _expected(command: tuple[str, ...]) -> tuple[int, ...]:
        return (0, 1) if command[0] == "erase" else (0,)  # 1: there is no trace of the key, or none any more

    def _start(self, *arguments: str, output: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*PROGRAM, *arguments], env=self.environment, stdout=output, stderr=subprocess.DEVNULL)

    def traces(self) -> int:
        """Returns the number of rows of erased keys, anywhere but in the input."""
        files = [file.path for file in self.lake.storage.files("") if not file.path.startswith("unscored/")]
        return sum(self._rows(path, "id", self.erased) for path in files if path.endswith(".parquet"))

    def undone(self) -> int:
        """Returns the number of published rows of runs that were rolled back, and of such runs that say otherwise."""
        records = [record for record in self.lake.records.of_day("toy", DAY) if record.run_id in self.rolled_back]
        parts = [part.path for part in self.lake.parts(Partition("toy", DAY, "v1"))]
        rows = sum(self._rows(path, "run_id", self.rolled_back) for path in parts)
        return rows + sum(record.state is not State.rolled_back for record in records)

    def _rows(self, path: str, column: str, values: set[str]) -> int:
        with self.lake.storage.open(path) as file:
            found = pq.ParquetFile(file)
            if column not in found.schema_arrow.names:
                return 0
            return sum(value in values for value in found.read([column])[column].to_pylist())

    def findings(self) -> list[str]:
        return [f"{each.kind}: {each.where}: {each.what}" for each in verify(self.lake) if each.kind != "staging"]
