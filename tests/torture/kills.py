"""Kills real `lakescore run` processes at random moments, while a reader polls, and looks at what is left.

Each round changes the input (new rows, changed rows), starts the writers, and kills each with SIGKILL: a third of them
at any moment of their life, a third after their plan is written, a third when they commit. The last run is let through.
Beside them something may take rows back (`care.py`), which is killed at any moment.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Self

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.database.connection import connect, read_parquet
from pipeline.lake.layout import Lake, Partition
from pipeline.model.matrix import fingerprints
from pipeline.records import State
from tests.torture.care import Care
from tests.workspace import DAY, Workspace

ROOT = Path(__file__).parent.parent.parent
PARTITION = Partition("toy", DAY, "v1")
ROWS = 5000
MOMENTS = {"start": 1.5, "planned": 0.5, "scored": 0.15}
"""From when on, and how long at most, as a share of a whole run."""


@dataclass
class Figures:
    kills: int = 0
    ended_before: int = 0
    """Runs that had finished when they were to be killed."""
    polls: int = 0
    torn: list[str] = field(default_factory=list)
    doubled: int = 0
    lost: int = 0
    wrong: int = 0
    runs: int = 0
    complete: int = 0
    unbalanced: int = 0
    parts: int = 0
    revisions: int = 0
    care: int = 0
    """Erasures, rollbacks, expiries and chains of single stages beside the runs."""
    traces: int = 0
    """Rows of erased keys."""
    undone: int = 0
    """Rows of runs that were rolled back."""
    findings: list[str] = field(default_factory=list)
    """Findings of `verify` at the end."""

    @property
    def clean(self) -> bool:
        wrong = self.torn or self.doubled or self.lost or self.wrong or self.unbalanced
        return not (wrong or self.traces or self.undone or self.findings)


def torture(workspace: Workspace, url: str, *, kills: int, writers: int, seed: int = 0, care: bool = False) -> Figures:
    """Kills at least so many processes over one partition of a lake, and returns what was seen.

    With `care`, something takes rows back beside the writers of each round.
    """
    rng = random.Random(seed)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "LAKESCORE_LAKE": url,
        "LAKESCORE_MODELS": workspace.settings.models,
        "LAKESCORE_JOBS": str(workspace.settings.jobs),
        "LAKESCORE_THREADS": "2",
    }
    lake, figures = Lake.open(url), Figures()
    beside, numbers = Care(lake, environment, rng), count(ROWS)
    rows = {f"u{number}": (rng.random(), rng.random()) for number in range(ROWS)}
    put_input(lake, workspace.root, rows)
    usual_s = timed(environment)
    with Reader(url, figures):
        while figures.kills < kills:
            change(rows, rng, numbers)
            takes_back = [beside.choose(rows)] if care else []
            put_input(lake, workspace.root, rows)
            started = [(start(environment), rng.choice(list(MOMENTS))) for _ in range(writers)]
            threads = [
                threading.Thread(target=end, args=(lake, process, moment, rng.random() * usual_s, figures))
                for process, moment in started
            ]
            ended_by, delay_s = partial(is_killed, figures), rng.random() * usual_s
            threads += [threading.Thread(target=work, args=(ended_by, delay_s)) for work in takes_back]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            beside.repeat(0.5)
        beside.repeat(1)
        assert start(environment).wait(300) == 0, "the run that nobody kills"
    judge(lake, rows, figures, gaps=care)
    figures.care, figures.traces, figures.undone = beside.begun, beside.traces(), beside.undone()
    figures.findings = beside.findings()
    return figures


def start(environment: dict[str, str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "pipeline", "run", "--job", "toy", "--date", DAY, "--json"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def timed(environment: dict[str, str]) -> float:
    begun = time.monotonic()
    assert start(environment).wait(120) == 0
    return time.monotonic() - begun


def end(lake: Lake, process: subprocess.Popen[bytes], moment: str, delay_s: float, figures: Figures) -> None:
    """Kills a process after a while, counted from its start, or from the moment at which its record has a state."""
    while moment != "start" and process.poll() is None and not reached(lake, process.pid, moment):
        time.sleep(0.005)
    is_killed(figures, process, delay_s * MOMENTS[moment])


def is_killed(figures: Figures, process: subprocess.Popen[bytes], delay_s: float) -> bool:
    """Kills a process after a while; tells whether it had not ended before."""
    try:
        process.wait(delay_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        figures.kills += 1
        return True
    figures.ended_before += 1
    return False


def reached(lake: Lake, pid: int, state: str) -> bool:
    records = islice(lake.records.iter_day("toy", DAY), 4)
    return any(record.pid == pid and record.state in (state, State.scored) for record in records)


def change(rows: dict[str, tuple[float, float]], rng: random.Random, numbers: Iterator[int]) -> None:
    for key in rng.sample(sorted(rows), 50):
        rows[key] = (rng.random(), rows[key][1])
    for _ in range(20):
        rows[f"u{next(numbers)}"] = (rng.random(), rng.random())


def put_input(lake: Lake, folder: Path, rows: dict[str, tuple[float, float]]) -> None:
    a, b = zip(*rows.values(), strict=True)
    made = lake.workspace.path("input.parquet") if lake.is_local else folder / "input.parquet"
    made.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"id": list(rows), "a": a, "b": b}), made)
    lake.storage.replace(f"unscored/ds={DAY}/data.parquet", made)
    made.unlink()


class Reader(threading.Thread):
    """Reads every page of every part again and again, as a foreign reader would: a listing, then the files."""

    def __init__(self, url: str, figures: Figures) -> None:
        super().__init__(daemon=True)
        self.lake, self.figures, self.over = Lake.open(url), figures, threading.Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.join()

    def run(self) -> None:
        while not self.over.wait(0.05):
            try:
                self.poll()
            except Exception as error:  # noqa: BLE001 - whatever it is, a reader must not see it
                self.figures.torn.append(f"{type(error).__name__}: {error}"[:300])
            self.figures.polls += 1

    def poll(self) -> None:
        names = [file.path for file in self.lake.storage.files(PARTITION.folder) if file.path.endswith(".parquet")]
        pieces = []
        for name in names:
            with self.lake.storage.open(name) as file:
                pieces.append(pq.read_table(file, columns=["id", "revision", "prediction_proba"]))
        if pieces:
            rows = pa.concat_tables(pieces)
            twice = "SELECT count(*) - count(DISTINCT (id, revision)) FROM rows"
            with duckdb.connect() as con:
                con.register("rows", rows)
                self.figures.doubled += con.sql(twice).fetchall()[0][0]


def judge(lake: Lake, rows: dict[str, tuple[float, float]], figures: Figures, *, gaps: bool) -> None:
    """Compares the lake with what was put in: each key once, with the newest input.

    Revisions have no gap, unless there may be `gaps`, as a rollback leaves them.
    """
    with connect() as con:
        lake.storage.attach(con)
        parts = lake.parts(PARTITION)
        stored = read_parquet(con, [lake.storage.where(file.path) for file in parts])
        found = stored.select("id, revision, fingerprint").order("id, revision").fetchall()
    by_key: dict[str, list[tuple[int, int]]] = {}
    for key, revision, fingerprint in found:
        by_key.setdefault(key, []).append((revision, fingerprint))
    expected = dict(zip(rows, fingerprints(np.array(list(rows.values()), np.float32)).tolist(), strict=True))
    figures.lost = len(set(expected) - set(by_key))
    figures.doubled += sum(len(each) - len({number for number, _ in each}) for each in by_key.values())
    figures.wrong = sum(by_key[key][-1][1] != print_ for key, print_ in expected.items() if key in by_key)
    if not gaps:
        figures.wrong += sum([number for number, _ in each] != list(range(len(each))) for each in by_key.values())
    records = lake.records.of_day("toy", DAY)
    figures.runs, figures.parts, figures.revisions = len(records), len(parts), len(found) - len(by_key)
    figures.complete = sum(record.state is State.complete for record in records)
    figures.unbalanced = sum(record.ledger is not None and not record.ledger.balanced for record in records)
