"""`make torture`: the full figures, one JSON line each."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tempfile
import time
import uuid
from pathlib import Path

from tests.s3 import BUCKET, serve
from tests.torture.kills import torture
from tests.workspace import Workspace


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.torture")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--s3-kills", type=int, default=50)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    clean = True
    for writers in (1, 3):
        clean &= kills(None, arguments.kills // 2, writers)
    with serve() as server, tempfile.TemporaryDirectory() as scratch:
        os.environ.update(server.environment, LAKESCORE_SCRATCH=scratch)
        clean &= kills(f"s3://{BUCKET}/{uuid.uuid4().hex}", arguments.s3_kills, 3)
    return 0 if clean else 1


def kills(url: str | None, number: int, writers: int) -> bool:
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder))
        workspace.job()
        workspace.model()
        figures = torture(workspace, url or str(workspace.lake), kills=number, writers=writers, seed=number)
    kind = "s3" if url else "disk"
    line = {"kills on": kind, "writers": writers, **dataclasses.asdict(figures), "s": round(time.monotonic() - begun)}
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
    return figures.clean


if __name__ == "__main__":
    sys.exit(main())
