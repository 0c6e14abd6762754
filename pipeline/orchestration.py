"""What Airflow's tasks do: which day it is, a stage in a process of its own, the end of one that is to be stopped.

Imports Airflow only inside functions, and nothing heavy: a DAG file imports this module at each parse.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import IO, Any
from zoneinfo import ZoneInfo

from pipeline.errors import JobError, QualityStop, TransientError
from pipeline.job import Job, job_names, read_job
from pipeline.job_tables import seconds
from pipeline.lake import Lake
from pipeline.records import check_day
from pipeline.settings import Settings
from pipeline.stages import NAMES

log = logging.getLogger(__name__)

GRACE_S = 60
"""How long a stage may take to end in order, before it is killed. A crash is as safe."""

ERROR = "error"
"""The XCom in which a failed task leaves what went wrong: the text, and whether bad data was the reason."""


def load_jobs(dags_folder: Path) -> Iterable[tuple[str, Job | JobError]]:
    """Yields the jobs beside the DAG file, or where LAKESCORE_JOBS points; of one that cannot be read, the error."""
    settings = machine(dags_folder)
    for name in job_names(settings):
        try:
            yield name, read_job(settings.jobs / name, settings)
        except JobError as error:
            yield name, error


def machine(dags_folder: Path) -> Settings:
    """Returns the settings; relative paths are relative to the folder above that of the DAG file."""
    root = dags_folder.parent
    found = Settings.from_environment({"LAKESCORE_JOBS": str(dags_folder / "jobs"), **os.environ})
    lake = found.lake if "://" in found.lake else str(root / found.lake)
    return Settings(lake=lake, jobs=root / found.jobs, models=str(root / found.models))


def day_of(job: Job, context: Mapping[str, Any]) -> str:
    """Returns the day of the run that a task belongs to."""
    return which_day(job, context["params"], context.get("logical_date"), context["dag_run"].run_after)


def which_day(job: Job, params: Mapping[str, Any], logical_date: datetime | None, run_after: datetime) -> str:
    """Returns the day of a run: as asked, or the last that was over in the job's time zone when the run was due.

    The data interval of a manual run is made up from the time it was asked for, and says nothing.
    """
    if params.get("date"):
        return check_day(str(params["date"]))
    zone = ZoneInfo(job.schedule.timezone)
    latest: date = run_after.astimezone(zone).date() - timedelta(days=1)
    if logical_date is not None:
        latest = min(latest, logical_date.astimezone(zone).date())
    return latest.isoformat()


def input_is_there(job: Job, settings: Settings, ds: str) -> bool:
    return all(Lake.open(settings.lake).input_files(job.input.patterns, ds).values())


def call(job: Job, settings: Settings, *arguments: str) -> tuple[int, str]:
    """Runs a command of `lakescore` in a process of its own; returns its exit code and what it prints.

    The process ends when this one does, or is interrupted.
    """
    command = [
        sys.executable,
        "-m",
        "pipeline",
        *arguments,
        "--job",
        str(job.folder.resolve()),
        "--lake",
        settings.lake,
    ]
    environment = {**os.environ, "LAKESCORE_MODELS": settings.models, "LAKESCORE_JOBS": str(settings.jobs)}
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        code = _supervised(command, environment, output)
        output.seek(0)
        return code, output.read()


def _supervised(command: list[str], environment: dict[str, str], output: IO[str]) -> int:
    """Runs a command, logs what it writes to stderr line by line, and leaves no process behind."""
    with subprocess.Popen(  # noqa: S603 - our own interpreter, and arguments that were checked
        command, env=environment, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                log.info("%s", line.rstrip())
            return process.wait()
        except BaseException:  # a time-out, or somebody's signal
            process.terminate()
            try:
                process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
            raise


def _failure(code: int, text: str, stage: str) -> Exception:
    """Returns AirflowFailException if a retry is of no use, and AirflowException if it may be.

    It may be when the error was transient, and when the process crashed or was killed.
    """
    from airflow.sdk.exceptions import AirflowException, AirflowFailException

    try:
        error = json.loads(text)
    except ValueError:
        error = {"what": f"{stage} ended with exit code {code}, without a word" if code > 0 else f"killed ({-code})"}
    details = [f"{name}: {error[name]}" for name in ("where", "expected", "got", "next_step") if error.get(name)]
    message = "\n".join([f"{stage}: {error['what']}", *details])
    lasting = "error" in error and code != TransientError.exit_code
    return AirflowFailException(message) if lasting else AirflowException(message)


def run_stage(
    job: Job, settings: Settings, name: str, ds: str, run_id: str | None, context: Mapping[str, Any]
) -> dict[str, Any]:
    """Runs a stage and returns what it hands on; an error's text is left for the message."""
    from airflow.sdk.exceptions import AirflowSkipException

    named = ["--run-id", run_id] if run_id else []
    code, text = call(job, settings, "stage", name, "--date", ds, *named, "--end-with-stdin")
    if code != 0:
        failure = _failure(code, text, name)
        context["ti"].xcom_push(key=ERROR, value={"text": str(failure), "stopped": code == QualityStop.exit_code})
        raise failure
    found: dict[str, Any] = json.loads(text)
    if found.get("state") == "skipped":
        raise AirflowSkipException(f"there is no input for {ds}, and the job says to skip such a day")
    if name in ("commit", "drift"):
        send_metrics(job, figures_of(found) if name == "commit" else drift_of(found))
    return found


def figures_of(found: Mapping[str, Any]) -> dict[str, float]:
    return {
        **{f"rows.{name}": count for name, count in found["ledger"].items()},
        "rows_per_s": found["rows_per_s"],
        "peak_memory_bytes": found["peak_memory_bytes"],
    }


def drift_of(found: Mapping[str, Any]) -> dict[str, float]:
    return {name.replace("_", "."): count for name, count in found.items() if name.startswith("drift_")}


def send_metrics(job: Job, figures: Mapping[str, float]) -> None:
    """Sends a run's figures where Airflow sends its own: StatsD, Datadog or OpenTelemetry; else nowhere."""
    from airflow.sdk.observability.stats import Stats

    for figure, value in figures.items():
        Stats.gauge(f"lakescore.{figure}", value, tags={"job": job.name})


def tell(job: Job, settings: Settings, context: Mapping[str, Any]) -> dict[str, Any]:
    """Tells people how a DAG run went, through Airflow's SMTP connection and through Apprise. Never fails for them."""
    from pipeline.notify import channels, message

    ds = day_of(job, context)  # not from the task `day`, which may have failed
    ti, dag_run = context["ti"], context["dag_run"]
    states = ti.get_task_states(dag_id=ti.dag_id, run_ids=[dag_run.run_id]).get(dag_run.run_id, {})
    failed = [name for name, state in states.items() if state in ("failed", "upstream_failed")]
    last = _last(ti, [name for name in states if name != ti.task_id])
    if not failed and (last is None or last.get("state") == "skipped"):
        return {"told": "nobody: there was nothing to do"}
    lake, run_id = Lake.open(settings.lake), last.get("run_id") if last else None
    known = run_id is not None and lake.storage.head(lake.record_key(job.name, ds, run_id)) is not None
    record = lake.read_record(job.name, ds, str(run_id)) if known else None
    error: dict[str, Any] = _error(ti, failed) if failed else {"text": None, "stopped": False}
    told = message.compose(
        job, ds, record, error["text"], stopped=error["stopped"], report=message.report_of(lake, record)
    )
    ways = {**channels.apprise_channels(job.notify.apprise), **_mail(job, context)}
    sent = channels.send(lake, job, ds, run_id, told, ways if told.level in job.notify.on else {})
    return {"level": sent.level, "title": sent.title, "deliveries": [each.model_dump() for each in sent.deliveries]}


def _last(ti: Any, tasks: list[str]) -> dict[str, Any] | None:
    """Returns what the last stage that ended well has handed on."""
    handed = (ti.xcom_pull(task_ids=name) for name in reversed([name for name in (*NAMES,) if name in tasks]))
    return next((each for each in handed if isinstance(each, dict) and each.get("run_id")), None)


def _error(ti: Any, failed: list[str]) -> dict[str, Any]:
    left = (ti.xcom_pull(task_ids=name, key=ERROR) for name in failed)
    unknown = {"text": f"{', '.join(failed)} did not end well; see the log in Airflow", "stopped": False}
    return next((each for each in left if each), unknown)


def _mail(job: Job, context: Any) -> dict[str, Any]:
    from airflow.providers.smtp.notifications.smtp import SmtpNotifier

    def deliver(told: Any) -> None:
        SmtpNotifier(to=list(job.notify.mail), subject=told.title, html_content=told.html).notify(context)

    return {"mail": deliver} if job.notify.mail else {}


def deadline(job: Job) -> Any:
    """Returns the alert for a run that is late, or None."""
    from airflow.sdk import DeadlineAlert, DeadlineReference, SyncCallback  # type: ignore[attr-defined]

    if job.schedule.deadline is None:
        return None
    after = timedelta(seconds=seconds(job.schedule.deadline))
    callback = SyncCallback(
        late, {"job": job.name, "folder": str(job.folder.resolve()), "after": job.schedule.deadline}
    )
    return DeadlineAlert(reference=DeadlineReference.DAGRUN_QUEUED_AT, interval=after, callback=callback)


def late(context: Mapping[str, Any], job: str, folder: str, after: str) -> None:
    """Tells people that a run has not ended in time. Airflow calls it; the run goes on."""
    from pipeline.notify import channels, message

    settings = machine(Path(folder).parent.parent)
    found = read_job(Path(folder), settings)
    run: Mapping[str, Any] = context["dag_run"]
    ds = which_day(found, run["conf"] or {}, _moment(run["logical_date"]), _moment(run["run_after"]))
    text = f"The run {run['dag_run_id']} has not ended {after} after it was due. It goes on."
    told = message.Message("failure", f"{job} {ds}: late", (f"Day: {ds}", text))
    ways = {**channels.apprise_channels(found.notify.apprise), **_mail(found, context)}
    channels.send(Lake.open(settings.lake), found, ds, None, told, ways if "failure" in found.notify.on else {})


def _moment(text: Any) -> Any:
    return datetime.fromisoformat(text) if isinstance(text, str) else text
