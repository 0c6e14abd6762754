"""Airflow on this machine alone: its environment, all its parts as one process tree, and backfills through it.

Airflow's home is `.airflow/` in the project. Airflow itself is never imported here, only started.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from datetime import time as clock
from pathlib import Path
from zoneinfo import ZoneInfo

from pipeline import queries
from pipeline.context import Context
from pipeline.errors import LakescoreError, StorageUnavailable, UsageError
from pipeline.job import DEFAULT_JOB, Job, find_job, job_names
from pipeline.settings import Settings

HOME = ".airflow"
DAG_FILE = "batch_inference.py"
DEMO_ROWS = 100_000
STOP_S = 40
"""How long Airflow may take to end in order."""


def program() -> str:
    """Returns Airflow's command, that of our own environment first. Raises UsageError if there is none."""
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    found = shutil.which("airflow", path=beside)
    if found is None:
        raise UsageError("Airflow is not installed here", next_step="pip install 'lakescore[airflow]'")
    return found


def environment(root: Path, settings: Settings, port: int = 8080) -> dict[str, str]:
    """Returns the environment for Airflow's commands; a variable that is set already wins."""
    url = f"http://127.0.0.1:{port}"
    ours = {
        "AIRFLOW_HOME": str(root / HOME),
        "AIRFLOW__CORE__DAGS_FOLDER": str(root / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{root / HOME}/airflow.db?timeout=60",  # writers wait
        "AIRFLOW__CORE__PARALLELISM": str(max(2, os.cpu_count() or 2)),
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
        "AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK": "False",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "LAKESCORE_LAKE": settings.lake if "://" in settings.lake else str(root / settings.lake),
        "LAKESCORE_JOBS": str(root / settings.jobs),
        "LAKESCORE_MODELS": settings.models if "://" in settings.models else str(root / settings.models),
    }
    package = str(Path(__file__).parent.parent)
    places = {
        "PATH": os.pathsep.join([str(Path(program()).parent), os.environ.get("PATH", "")]),
        "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")])),
    }
    return {**ours, **os.environ, **places}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def prepare(root: Path, settings: Settings, say: Callable[[str], None]) -> None:
    """Makes sure that there is something to run: the DAG file, a job, and, in an empty lake, a day and a model."""
    shipped = queries.resources() / "dags"
    target = root / "dags" / DAG_FILE
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(shipped / DAG_FILE, target)
        say(f"wrote {target}")
    if not job_names(settings):
        shutil.copytree(shipped / "jobs" / DEFAULT_JOB, settings.jobs / DEFAULT_JOB)
        say(f"wrote the job {DEFAULT_JOB}")
    if DEFAULT_JOB in job_names(settings):
        _demo_data(find_job(DEFAULT_JOB, settings), settings, say)


def _demo_data(job: Job, settings: Settings, say: Callable[[str], None]) -> None:
    ctx = Context.open(job, settings)
    if ctx.lake.input_days(job.input.patterns.values()):
        return
    from pipeline.ingest.generate import generate_day

    ds = job.yesterday(datetime.now(UTC))
    generate_day(ctx.lake, ds, rows=DEMO_ROWS)
    say(f"the lake is empty: made up {DEMO_ROWS:,} rows for {ds}")
    if not (Path(settings.models) / DEFAULT_JOB).exists():
        from pipeline.demo import FEATURES, train
        from pipeline.model.registry import Registry

        checkpoint = Path(settings.models) / "demo.pt"
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        train(checkpoint)
        registry = Registry(Path(settings.models))
        registry.register(checkpoint, name=DEFAULT_JOB, version="v1", features=FEATURES, alias="production")
        checkpoint.unlink()
        say(f"trained {DEFAULT_JOB} v1 on made-up customers")


@contextmanager
def standalone(root: Path, settings: Settings, port: int) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Starts all of Airflow, and ends it with the block; yields its process and its log.

    Raises UsageError if the port is taken.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise UsageError(f"port {port} is taken", next_step="name another: --port") from None
    (root / HOME).mkdir(exist_ok=True)
    log = root / HOME / "standalone.log"
    with log.open("wb") as output:
        # A session of its own: Ctrl-C in a terminal must reach the standalone process alone, not its children.
        process = subprocess.Popen(  # noqa: S603 - Airflow's own command
            [program(), "standalone"],
            cwd=root,
            env=environment(root, settings, port),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process, log
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would leave Airflow behind
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ends Airflow: in order, by SIGINT to the standalone process alone, and then whatever is left of its children."""
    import psutil

    children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    _, left = psutil.wait_procs(children, timeout=5)
    for child in left:
        child.kill()
    psutil.wait_procs(left, timeout=5)


def wait_until_healthy(process: subprocess.Popen[bytes], log: Path, port: int, timeout_s: float = 180) -> None:
    """Raises LakescoreError if Airflow ends, StorageUnavailable if it does not answer in time."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        if process.poll() is not None:
            raise LakescoreError("Airflow has ended", where=log, got=f"exit code {process.returncode}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v2/monitor/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise StorageUnavailable(f"Airflow does not answer after {timeout_s:.0f} s", where=log)


def backfill(job: Job, settings: Settings, first: str, last: str) -> list[str]:
    """Asks Airflow for a run of each day from `first` to `last`, the last one included, oldest first.

    Days that have had a run are run again, which is harmless. Returns what Airflow says. Raises UsageError for a job
    without a schedule, and LakescoreError if Airflow refuses.
    """
    if job.schedule.assets or not job.schedule.cron:
        raise UsageError(
            f"{job.name} has no cron schedule, so Airflow knows no days of it",
            next_step='trigger single days: airflow dags trigger NAME --conf \'{"date": "2026-01-31"}\'',
        )
    zone = ZoneInfo(job.schedule.timezone)
    begin, end = (
        datetime.combine(datetime.fromisoformat(ds), at, zone) for ds, at in ((first, clock.min), (last, LATE))
    )
    command = [
        *(program(), "backfill", "create", "--dag-id", job.name),
        *("--from-date", begin.isoformat(), "--to-date", end.isoformat()),
        *("--max-active-runs", "1" if job.schedule.in_order else "4", "--reprocess-behavior", "completed"),
    ]
    done = subprocess.run(  # noqa: S603 - Airflow's own command
        command, env=environment(Path.cwd(), settings), capture_output=True, text=True, check=False
    )
    if "database is locked" in done.stderr:
        raise StorageUnavailable(
            "Airflow's database had no time, as SQLite has with several writers",
            next_step="cancel the backfill in Airflow if it was begun, then ask again; PostgreSQL does not do this",
        )
    if done.returncode != 0:
        raise LakescoreError("Airflow refused the backfill", got=done.stderr.strip()[-1000:] or done.stdout[-1000:])
    return done.stdout.splitlines()


LATE = clock(23, 59)
"""The end of a backfill: a bare date would mean its midnight, and drop the day."""
