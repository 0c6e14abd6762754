"""A program that publishes two days in turn, in children that it kills at random moments. Prints what it has done.

python tests/publish/killed_writer.py JOB_FOLDER LAKE ROUNDS SEED
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import redis  # noqa: F401 - imported once, not in each child

from pipeline.context import Context
from pipeline.job.loading import find_job
from pipeline.publish.delivery import DeliveryStore
from pipeline.publish.stage import deliver_all
from pipeline.settings import Settings

DAYS = ("2026-01-01", "2026-01-02")


def main(folder: Path, lake: str, rounds: int, seed: int) -> None:
    settings = Settings(lake=lake, jobs=folder.parent, threads=1)
    ctx = Context.open(find_job(str(folder), settings), settings)
    chance, takes, done = random.Random(seed), 0.0, Counter[str]()
    for number in range(rounds):
        ds = DAYS[number % 2]
        started = time.monotonic()
        child = os.fork()
        if child == 0:
            record = ctx.lake.records.last_complete("churn", ds)
            assert record is not None
            os._exit(1 if deliver_all(ctx, record, replace_newer=True).error else 0)
        if number < 2:  # how long it takes
            ended = os.waitpid(child, 0)[1]
            takes = time.monotonic() - started
        else:
            time.sleep(chance.uniform(0, takes))
            os.kill(child, signal.SIGKILL)
            ended = os.waitpid(child, 0)[1]
        done["killed" if os.WIFSIGNALED(ended) else f"exit {os.waitstatus_to_exitcode(ended)}"] += 1
        done.update(f"{each.ds} {each.state}" for each in DeliveryStore(ctx.lake).of("churn"))
    sys.stdout.write(json.dumps(done))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
