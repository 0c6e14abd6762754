"""A project for Airflow tests: the DAG file, a job, a lake and a separate Airflow home."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.workspace import Workspace

ROOT = Path(__file__).parent.parent.parent
BIN = Path(sys.executable).parent
FINISHED = ("success", "failed")
SUPERVISED = 'while :; do "$0" "$1"; sleep 1; done'
"""Starts a component again when it ends, as a service manager does: a locked SQLite database ends the scheduler."""

ANSWER = """
import json, os, pathlib
def answer(value):
    pathlib.Path(os.environ["ANSWER"]).write_text(json.dumps(value))
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class AirflowProject:
    workspace: Workspace
    extra: dict[str, str] = field(default_factory=dict)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    log: str = ""
    """What the last script printed, which includes the logs of its tasks."""

    def __post_init__(self) -> None:
        self.dags.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "dags" / "batch_inference.py", self.dags)
        shutil.copy(ROOT / "dags" / ".airflowignore", self.dags)
        self.port, self.log_port = free_port(), free_port()

    @property
    def dags(self) -> Path:
        return self.workspace.root / "dags"

    @property
    def home(self) -> Path:
        return self.workspace.root / "airflow"

    def environment(self) -> dict[str, str]:
        url = f"http://127.0.0.1:{self.port}"
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")},
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.dags),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{self.home}/airflow.db?timeout=60",
            "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
            "AIRFLOW__CORE__PARALLELISM": "2",
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
            "AIRFLOW__API__BASE_URL": url,
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(self.port),
            "AIRFLOW__API__SECRET_KEY": "for-a-test",
            "AIRFLOW__API_AUTH__JWT_SECRET": "for-a-test-and-long-enough-for-hmac-sha512-at-64-bytes-or-more-please",
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(self.log_port),
            "AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK": "False",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_SEC": "2",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "ignore",
            **self.extra,
        }

    def airflow(self, *arguments: str, timeout_s: float = 180) -> str:
        done = subprocess.run(
            [str(BIN / "airflow"), *arguments],
            env=self.environment(),
            cwd=self.workspace.root,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, f"{arguments}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def python(self, script: str, *arguments: str, timeout_s: float = 240) -> Any:
        """Runs a script and returns what it gives to `answer`: by a file, as other processes write to stdout too."""
        answer = self.workspace.root / "answer.json"
        answer.unlink(missing_ok=True)
        done = subprocess.run(
            [sys.executable, "-c", ANSWER + script, *arguments],
            env=self.environment() | {"ANSWER": str(answer)},
            cwd=self.workspace.root,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
        self.log = done.stdout
        return json.loads(answer.read_text())

    # A complete Airflow

    def start(self, *components: str) -> None:
        self.home.mkdir(exist_ok=True)
        for component in components:
            log = (self.home / f"{component}.log").open("wb")
            with log:
                self.processes.append(
                    subprocess.Popen(
                        ["sh", "-c", SUPERVISED, str(BIN / "airflow"), component],
                        env=self.environment(),
                        cwd=self.workspace.root,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                )

    def stop(self) -> None:
        """Kills each component with all that it has started; nothing has to be saved."""
        for process in self.processes:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        kill_all_in(self.workspace.root)

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Calls the REST API; retries timeouts and status 500, which a locked SQLite database causes."""
        for _ in range(5):
            try:
                return self._call(method, path, body)
            except TimeoutError:
                time.sleep(1)
            except AssertionError as error:
                if ": 500 " not in str(error):
                    raise
                time.sleep(1)
        return self._call(method, path, body)

    def _call(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {self._token()}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read() or "null")
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {error.code} {error.read().decode()}") from None

    def _token(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/auth/token", timeout=30) as answer:
            return str(json.loads(answer.read())["access_token"])

    def trigger(self, dag: str = "toy", **body: Any) -> str:
        """Requests a run under an id chosen here, so that a retry after a lost response is harmless. Returns the id."""
        run_id = f"test-{uuid.uuid4()}"
        try:
            self.call("POST", f"/api/v2/dags/{dag}/dagRuns", {"logical_date": None, "dag_run_id": run_id, **body})
        except AssertionError as error:
            if ": 409 " not in str(error):  # an earlier attempt has created it
                raise
        return run_id

    def runs(self, dag: str = "toy") -> dict[str, str]:
        found = self.call("GET", f"/api/v2/dags/{dag}/dagRuns?limit=100")["dag_runs"]
        return {each["dag_run_id"]: each["state"] for each in found}

    def tasks(self, run_id: str, dag: str = "toy") -> dict[str, dict[str, Any]]:
        found = self.call("GET", f"/api/v2/dags/{dag}/dagRuns/{run_id}/taskInstances")["task_instances"]
        return {each["task_id"]: each for each in found}

    def finished(self, run_id: str, dag: str = "toy", timeout_s: float = 400) -> str:
        """Waits for the end of a run and returns its state."""
        wait(lambda: self.runs(dag).get(run_id) in FINISHED, timeout_s, lambda: f"{run_id}: {self.tasks(run_id, dag)}")
        return self.runs(dag)[run_id]


def processes_in(folder: Path) -> list[int]:
    """Returns the processes that work in a folder or below it, other than this one.

    Some of Airflow's have sessions of their own, and their titles overwrite what /proc shows of their environment.
    """
    found = []
    for path in Path("/proc").glob("[0-9]*/cwd"):
        try:
            place = path.readlink()
        except OSError:
            continue  # it has ended, or belongs to somebody else
        if place.is_relative_to(folder) and int(path.parent.name) != os.getpid():
            found.append(int(path.parent.name))
    return found


def kill_all_in(folder: Path) -> None:
    for pid in processes_in(folder):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def wait(condition: Callable[[], Any], timeout_s: float, about: Callable[[], str] = lambda: "") -> None:
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        try:
            if condition():
                return
        except (AssertionError, OSError, urllib.error.URLError):
            pass  # the server is not up yet
        time.sleep(0.5)
    raise AssertionError(f"condition not met within {timeout_s} s. {about()}")
