"""A PostgreSQL server (Debian's) for one test, in a separate folder, on loopback."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.orchestration.airflow_project import free_port


def _program(name: str) -> str:
    places = os.pathsep.join([os.environ["PATH"], *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin")))])
    found = shutil.which(name, path=places)
    if found is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no {name} (Debian: apt-get install postgresql)")
    return found


@contextmanager
def postgres() -> Iterator[str]:
    """Yields `user@host:port/database`. Under root, which the server refuses, it runs as the user postgres.

    It does not use pytest's temporary folder, which every new pytest process makes accessible to its owner only.
    """
    with tempfile.TemporaryDirectory(prefix="lakescore-postgres-") as folder:
        yield from _serve(Path(folder))


def _serve(folder: Path) -> Iterator[str]:
    root = os.geteuid() == 0
    user = "postgres" if root else None
    port = free_port()
    if root:
        shutil.chown(folder, "postgres")

    def call(*command: str) -> None:
        subprocess.run(command, user=user, cwd=folder, check=True, capture_output=True, timeout=60)

    call(_program("initdb"), "-D", str(folder / "data"), "-U", "airflow", "-A", "trust", "-N")
    options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories='' -c fsync=off"
    call(_program("pg_ctl"), "-D", str(folder / "data"), "-w", "-l", str(folder / "log"), "-o", options, "start")
    try:
        call(_program("createdb"), "-h", "127.0.0.1", "-p", str(port), "-U", "airflow", "airflow")
        yield f"airflow@127.0.0.1:{port}/airflow"
    finally:
        call(_program("pg_ctl"), "-D", str(folder / "data"), "-m", "immediate", "stop")
