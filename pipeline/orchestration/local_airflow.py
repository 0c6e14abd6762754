"""Airflow on a single machine: its environment, all its components in one process tree, and backfills.

Airflow's home is `.airflow/` in the project. Airflow is only started from here, never imported.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.context import Context
from pipeline.errors import InputError, JobError, LakescoreError, ModelNotFound, StorageUnavailable, UsageError
from pipeline.job.config import Job
from pipeline.job.loading import find_job
from pipeline.job.project import DEFAULT_JOB, job_names
from pipeline.orchestration import due
from pipeline.orchestration.tasks import PAUSED
from pipeline.packaged import resources
from pipeline.periods import Period
from pipeline.settings import Settings

HOME = ".airflow"
DAG_FILE = "batch_inference.py"
DEMO_ROWS = 100_000
STOP_S = 40
"""Seconds that Airflow has to shut down before it is killed."""


def program() -> str:
    """Returns the path of the `airflow` command, from this Python environment if possible, or raises UsageError."""
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    found = shutil.which("airflow", path=beside)
    if found is None:
        raise UsageError("Airflow is not installed here", next_step="pip install 'lakescore[airflow]'")
    return found


def environment(root: Path, settings: Settings, port: int = 8080, paused: Iterable[str] = ()) -> dict[str, str]:
    """Returns the environment for Airflow's commands; PATH and PYTHONPATH are extended.

    `paused` are the jobs whose DAGs are created paused.

    Airflow's variables that are already set win. `settings` win over `LAKESCORE_...`: they may come from an option.
    """
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
    }
    package = str(Path(__file__).parent.parent)
    places = {
        "LAKESCORE_LAKE": settings.lake if "://" in settings.lake else str(root / settings.lake),
        PAUSED: ",".join(paused),
        **({"LAKESCORE_PAGES": settings.pages} if settings.pages else {}),
        "LAKESCORE_JOBS": str(root / settings.jobs),
        "LAKESCORE_MODELS": settings.models if "://" in settings.models else str(root / settings.models),
        "PATH": os.pathsep.join([str(Path(program()).parent), os.environ.get("PATH", "")]),
        "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")])),
    }
    return {**ours, **os.environ, **places}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def prepare(root: Path, settings: Settings, say: Callable[[str], None]) -> None:
    """Creates what is missing: the DAG file, the default job and, in an empty lake, a day of data and a model."""
    shipped = resources() / "dags"
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


def jobs_to_pause(root: Path, settings: Settings, say: Callable[[str], None]) -> list[str]:
    """Returns the jobs whose first run could only fail, and says why: Airflow starts it as soon as it knows the DAG.

    A DAG that Airflow knows already is left as it is.
    """
    if (root / HOME / "airflow.db").exists():
        return []
    paused = []
    for name in job_names(settings):
        try:
            job = find_job(name, settings)
        except JobError:  # its DAG says what is wrong with it
            continue
        if (reason := _cannot_run(job, settings)) is not None:
            paused.append(job.name)
            say(f"{job.name}: {reason}, so its DAG starts paused; switch it on in the list of DAGs once that is there,")
            say("  or trigger it with a date that has input")
    return paused


def _cannot_run(job: Job, settings: Settings) -> str | None:
    """Returns why the run of a job that is due now cannot succeed, or None."""
    if job.schedule.assets or not job.schedule.cron:
        return None  # nothing starts it
    ctx = Context.open(job, settings)
    try:
        ctx.manifest()
    except ModelNotFound as error:
        return error.what
    last = job.last_due(datetime.now(UTC))
    if job.policy.missing_input != "fail" or all(_has_input(ctx, each.ds) for each in (last - 1, last)):
        return None
    lacking = [ds for ds in _asked(job, settings) if not _has_input(ctx, ds)]
    newest = ctx.lake.input_days(job.patterns.values())[-1:]
    there = f"; the newest is {newest[0]}" if newest else ""
    return f"there is no input for {lacking[-1]}, which is due{there}" if lacking else None


def _has_input(ctx: Context, ds: str) -> bool:
    try:
        return all(ctx.lake.input_files(ctx.job.patterns, ds).values())
    except InputError:
        return False


def _demo_data(job: Job, settings: Settings, say: Callable[[str], None]) -> None:
    ctx = Context.open(job, settings)
    if ctx.lake.input_days(job.patterns.values()):
        return
    from pipeline.ingest.generate import generate_day

    scheduled = job.schedule.cron and not job.schedule.assets
    # The day that Airflow runs first; before the hour of the cron expression this is not the last one that is over.
    for ds in _asked(job, settings) if scheduled else [job.last_due(datetime.now(UTC)).ds]:
        generate_day(ctx.lake, ds, rows=DEMO_ROWS)
        say(f"the lake is empty: generated {DEMO_ROWS:,} rows for {ds}")
    if not ctx.registry.manifests(DEFAULT_JOB):
        from pipeline.demo import FEATURES, train

        with tempfile.TemporaryDirectory(prefix="lakescore-demo-") as folder:
            checkpoint = Path(folder) / "demo.pt"
            train(checkpoint)
            ctx.registry.register(checkpoint, name=DEFAULT_JOB, version="v1", features=FEATURES, alias="production")
        say(f"trained {DEFAULT_JOB} v1 on synthetic customers")


@contextmanager
def standalone(
    root: Path, settings: Settings, port: int, paused: Iterable[str] = ()
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Runs all of Airflow while the block is active; yields its process and the path of its log.

    Raises UsageError if the port is in use.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise UsageError(f"port {port} is in use", next_step="choose another one with --port") from None
    (root / HOME).mkdir(exist_ok=True)
    log = root / HOME / "standalone.log"
    with log.open("wb") as output:
        # A separate session keeps a Ctrl-C in the terminal from Airflow's processes: `stop` signals the parent only.
        process = subprocess.Popen(  # noqa: S603 - Airflow's own command
            [program(), "standalone"],
            cwd=root,
            env=environment(root, settings, port, paused),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process, log
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would leave Airflow running
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Shuts Airflow down by SIGINT to the standalone process only, then kills the children that are left."""
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
    """Waits for Airflow's API. Raises LakescoreError if Airflow exits, StorageUnavailable after `timeout_s` seconds."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        if process.poll() is not None:
            raise LakescoreError("Airflow has exited", where=log, got=f"exit code {process.returncode}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v2/monitor/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise StorageUnavailable(f"Airflow does not answer after {timeout_s:.0f} s", where=log)


def backfill(job: Job, settings: Settings, first: Period, last: Period) -> list[str]:
    """Requests the Airflow runs that are for the days from `first` to `last`, inclusive, oldest first.

    Days that already had a run are run again, which is harmless. Returns the lines that Airflow prints. Raises
    UsageError for a job whose cron schedule is missing or has no run for some of the days, StorageUnavailable if
    Airflow's database is locked, and LakescoreError if Airflow refuses.
    """
    if job.schedule.assets or not job.schedule.cron:
        raise UsageError(
            f"{job.name} has no cron schedule, so Airflow cannot list its days",
            next_step=f'trigger single {job.grain}s: airflow dags trigger NAME --conf \'{{"date": "{first.ds}"}}\'',
        )
    begin, end = _range(job, settings, first, last)
    command = [
        *(program(), "backfill", "create", "--dag-id", job.name),
        *("--from-date", begin, "--to-date", end),
        *("--max-active-runs", "1" if job.schedule.in_order else "4", "--reprocess-behavior", "completed"),
    ]
    done = subprocess.run(  # noqa: S603 - Airflow's own command
        command, env=environment(Path.cwd(), settings), capture_output=True, text=True, check=False
    )
    if "database is locked" in done.stderr:
        raise StorageUnavailable(
            "Airflow's database is locked: SQLite allows one writer at a time",
            next_step="cancel the backfill in Airflow if it was created, then retry; PostgreSQL has no such limit",
        )
    if done.returncode != 0:
        raise LakescoreError("Airflow refused the backfill", got=done.stderr.strip()[-1000:] or done.stdout[-1000:])
    return done.stdout.splitlines()


def _range(job: Job, settings: Settings, first: Period, last: Period) -> tuple[str, str]:
    """Returns the logical dates of the first and the last run that are for these days."""
    runs: list[tuple[str, list[str]]] = _asked(job, settings, first.ds, last.ds)
    taken = {ds for _, periods in runs for ds in periods}
    if left := [period.ds for period in first.through(last) if period.ds not in taken]:
        raise UsageError(
            f"the schedule of {job.name} has no run for {', '.join(left[:3])}{' and others' if left[3:] else ''}",
            expected="a run for each day, due by now",
            got=f"cron = {job.schedule.cron!r}, timezone = {job.schedule.timezone!r}",
            next_step="run the days without --airflow, or set since_last_run = true in [schedule]",
        )
    return runs[0][0], runs[-1][0]


def _asked(job: Job, settings: Settings, *ends: str) -> Any:
    """Returns what `due.py` prints: the scheduled runs for two days and those between, or the periods of the last one.

    It imports Airflow, which creates Airflow's home, so it runs in a process of its own.
    """
    command = [sys.executable, "-m", due.__name__, str(job.folder.resolve()), *ends]
    done = subprocess.run(  # noqa: S603 - our own interpreter, and arguments that were checked
        command, env=environment(Path.cwd(), settings), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise LakescoreError("the runs of the schedule cannot be listed", got=done.stderr.strip()[-1000:])
    return json.loads(done.stdout.splitlines()[-1])
