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

from tests import ceph
from tests.s3 import BUCKET, S3Server, serve
from tests.torture.kills import torture
from tests.workspace import Workspace


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.torture")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--care-kills", type=int, default=100, help="beside erasures, rollbacks, expiries and stages")
    parser.add_argument("--s3-kills", type=int, default=50)
    parser.add_argument("--ceph-kills", type=int, default=50, help="on radosgw, if it is installed")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    clean = True
    for writers in (1, 3):
        clean &= kills("disk", arguments.kills // 2, writers)
    clean &= kills("disk", arguments.care_kills, 2, care=True)
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["LAKESCORE_SCRATCH"] = scratch
        with serve() as server:
            clean &= kills("S3 (moto)", arguments.s3_kills, 3, server)
        if ceph.is_there() and arguments.ceph_kills:
            with tempfile.TemporaryDirectory(prefix="ceph") as folder, ceph.serve(Path(folder)) as server:
                clean &= kills("S3 (radosgw)", arguments.ceph_kills, 3, server)
    return 0 if clean else 1


def kills(where: str, number: int, writers: int, server: S3Server | None = None, *, care: bool = False) -> bool:
    """Prints the figures of so many kills, and tells whether they are clean."""
    if not number:
        return True
    begun, url = time.monotonic(), f"s3://{BUCKET}/{uuid.uuid4().hex}" if server else None
    os.environ.update(server.environment if server else {})
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder))
        workspace.job()
        workspace.model()
        figures = torture(workspace, url or str(workspace.lake), kills=number, writers=writers, seed=number, care=care)
    line = {"kills on": where, "writers": writers, **dataclasses.asdict(figures), "s": round(time.monotonic() - begun)}
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
    return figures.clean


if __name__ == "__main__":
    sys.exit(main())
