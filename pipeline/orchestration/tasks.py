"""The work of Airflow tasks: choosing the day, running a stage in a subprocess, sending messages and metrics.

Airflow is imported only inside functions, heavy modules not at all: each parse of the DAG file imports this module.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import IO, Any

from pipeline.errors import DeliveryFailed, JobError, QualityStop, TransientError, UsageError
from pipeline.flow.stage_list import TASKS
from pipeline.job.config import Job
from pipeline.job.loading import read_job
from pipeline.job.project import job_names
from pipeline.job.schedule import seconds
from pipeline.lake.layout import Lake
from pipeline.orchestration import due
from pipeline.orchestration.due import DagRun
from pipeline.settings import Settings

log = logging.getLogger(__name__)

GRACE_S = 60
"""Seconds that a stage has to end after SIGTERM before it is killed. Killing it is just as safe."""

PAUSED = "LAKESCORE_PAUSED"
"""Variable with the names of the jobs whose DAGs are created paused, separated by commas."""
ERROR = "error"
"""Key of the XCom in which a failed task stores its error text and whether bad data was the cause."""
PAGE = "page"
"""Key of the XCom with the address of the run's page, to which the task's link leads."""


class StageFailed(SystemExit):
    """A stage has failed. Airflow logs the text of an exit as one line at ERROR, and a trace with an exception."""


class StageRefused(StageFailed):
    """A stage has failed for a reason that no retry can fix: bad data, or a model or a job that does not fit."""


def retry_policy() -> Any:
    """Returns the policy of all tasks: no retry of what no retry can fix."""
    from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule

    refused = f"{StageRefused.__module__}.{StageRefused.__qualname__}"
    return ExceptionRetryPolicy(rules=[RetryRule(exception=refused, action=RetryAction.FAIL)])


def starts_paused(job: Job) -> bool | None:
    """Tells whether the DAG is created paused: `lakescore airflow` asks for it if the first run could only fail.

    None leaves it to Airflow.
    """
    return True if job.name in os.environ.get(PAUSED, "").split(",") else None


def load_jobs(dags_folder: Path) -> Iterable[tuple[str, Job | JobError]]:
    """Yields name and job of each folder in LAKESCORE_JOBS or `jobs/`; for an invalid job, its name and error."""
    settings = machine(dags_folder)
    for name in job_names(settings):
        try:
            yield name, read_job(settings.jobs / name, settings)
        except JobError as error:
            yield name, error


def machine(dags_folder: Path) -> Settings:
    """Returns the settings of this machine. Relative paths start at the parent of the DAG folder; URLs stay."""
    root = dags_folder.parent
    found = Settings.from_environment({"LAKESCORE_JOBS": str(dags_folder / "jobs"), **os.environ})
    lake, models = (place if "://" in place else str(root / place) for place in (found.lake, found.models))
    return replace(found, lake=lake, jobs=root / found.jobs, models=models)


def periods_of(job: Job, context: Mapping[str, Any]) -> list[str]:
    """Returns the periods that the DAG run of a task is for, oldest first."""
    return [period.ds for period in due.periods_due(job, DagRun.of(context["dag_run"]), context["params"])]


def choose(job: Job, context: Mapping[str, Any]) -> list[str]:
    """Returns the periods of a DAG run. Raises StageRefused for a run that asks for something unknown."""
    try:
        return periods_of(job, context)
    except UsageError as error:
        context["ti"].xcom_push(key=ERROR, value={"text": str(error), "stopped": False})
        raise StageRefused(_in_one_line(str(error))) from None


def input_is_there(job: Job, settings: Settings, periods: Iterable[str]) -> bool:
    lake = Lake.open(settings.lake)
    return all(all(lake.input_files(job.patterns, ds).values()) for ds in periods)


def call(job: Job, settings: Settings, *arguments: str) -> tuple[int, str]:
    """Runs a `lakescore` command in a subprocess; returns its exit code and standard output.

    The subprocess ends when this process ends or is interrupted.
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
    """Runs a command, logs its stderr line by line, and returns its exit code. Leaves no process behind."""
    with subprocess.Popen(  # noqa: S603 - our own interpreter, and arguments that were checked
        command, env=environment, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                log.info("%s", line.rstrip())
            return process.wait()
        except BaseException:  # a timeout or a signal
            process.terminate()
            try:
                process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
            raise


def _error_of(code: int, text: str, stage: str) -> tuple[str, bool]:
    """Returns the error of a stage's process, one fact per line, and whether a retry may help.

    It may if the error was transient, or if the process crashed or was killed.
    """
    error = {"what": f"exit code {code} without an error message" if code > 0 else f"killed by signal {-code}"}
    with suppress(ValueError):
        document = json.loads(text)
        if isinstance(document, dict) and "error" in document:  # else a result: the process died after it
            error = document
    details = [f"{name}: {error[name]}" for name in ("where", "expected", "got", "next_step") if error.get(name)]
    lasting = "error" in error and code != TransientError.exit_code
    return "\n".join([f"{stage}: {error['what']}", *details]), not lasting


def _in_one_line(text: str) -> str:
    return "; ".join(line.strip() for line in text.splitlines())


def _show_page(settings: Settings, job: Job, ds: str, run_id: str | None, context: Mapping[str, Any]) -> None:
    """Logs where the page of a run is, and hands its address to the task's link, if it has one."""
    from pipeline.report import facts

    lake = Lake.open(settings.lake)
    if run_id and lake.storage.head(key := facts.page_key(job.name, ds, run_id)) is not None:
        log.info("the page of this run: %s", place := facts.place_of(lake, job, key))
        if job.report.address:
            context["ti"].xcom_push(key=PAGE, value=place)


def page_of(ti_key: Any) -> str | None:
    """Returns the address of the page of the run that a task instance belongs to, if it has told one."""
    from airflow.sdk.execution_time.xcom import XCom

    found: str | None = XCom.get_value(ti_key=ti_key, key=PAGE)
    return found


def run_stage(
    job: Job, settings: Settings, name: str, ds: str, run_id: str | None, context: Mapping[str, Any]
) -> dict[str, Any]:
    """Runs a stage and returns its output for the next task.

    Raises StageFailed or, if no retry can help, StageRefused; the error is also stored in the XCom ERROR, for `tell`.
    """
    from airflow.sdk.exceptions import AirflowSkipException

    named = ["--run-id", run_id] if run_id else []
    if name == "earlier":
        named = ["--since", periods_of(job, context)[0]]
    unsent = announce_by_mail(job, settings, ds, run_id, context) if name == "announce" else None
    code, text = call(job, settings, "stage", name, "--date", ds, *named, "--end-with-stdin")
    if code != 0:
        error, again = _error_of(code, text, name)
        context["ti"].xcom_push(key=ERROR, value={"text": error, "stopped": code == QualityStop.exit_code})
        _show_page(settings, job, ds, run_id, context)
        raise (StageFailed if again else StageRefused)(_in_one_line(error))
    found: dict[str, Any] = json.loads(text)
    if name == "report":
        _show_page(settings, job, ds, run_id, context)
    if found.get("state") == "skipped":
        raise AirflowSkipException(f"{found['reason']}; the job skips such days")
    if unsent is not None:
        raise _transient(unsent, context)
    if name == "publish":
        emit_lineage(job, settings, found, context)
    if name in ("commit", "drift"):
        send_metrics(job, figures_of(found) if name == "commit" else drift_of(found))
    return found


def announce_by_mail(
    job: Job, settings: Settings, ds: str, run_id: str | None, context: Mapping[str, Any]
) -> DeliveryFailed | None:
    """Tells people about deliveries through Airflow's SMTP connection; the process of the stage uses Apprise.

    Returns the error of a message that was not taken.
    """
    from pipeline.notify.announcing import announce_run

    lake = Lake.open(settings.lake)
    record = lake.records.read(job.name, ds, run_id) if run_id else lake.records.last_complete(job.name, ds)
    try:
        if record is not None:
            announce_run(lake, job, record, lambda wanted: _mail(wanted.mail, context))
    except DeliveryFailed as error:
        return error
    return None


def emit_lineage(job: Job, settings: Settings, found: Mapping[str, Any], context: Mapping[str, Any]) -> None:
    """Tells OpenLineage what the run has delivered."""
    from pipeline.orchestration.lineage import emit
    from pipeline.publish.delivery import DeliveryStore

    lake = Lake.open(settings.lake)
    emit(DeliveryStore(lake).of_run(lake.records.read(job.name, found["ds"], found["run_id"])), context["ti"])


def _transient(error: DeliveryFailed, context: Mapping[str, Any]) -> StageFailed:
    """Returns the error for Airflow, which retries the task, and stores it for `tell`."""
    context["ti"].xcom_push(key=ERROR, value={"text": str(error), "stopped": False})
    return StageFailed(_in_one_line(str(error)))


def figures_of(found: Mapping[str, Any]) -> dict[str, float]:
    return {
        **{f"rows.{name}": count for name, count in found["ledger"].items()},
        "rows_per_s": found["rows_per_s"],
        "peak_memory_bytes": found["peak_memory_bytes"],
    }


def drift_of(found: Mapping[str, Any]) -> dict[str, float]:
    return {name.replace("_", "."): count for name, count in found.items() if name.startswith("drift_")}


def send_metrics(job: Job, figures: Mapping[str, float]) -> None:
    """Sends the metrics of a run through Airflow's own exporter: StatsD, Datadog or OpenTelemetry, if configured."""
    from airflow.sdk.observability.stats import Stats

    for figure, value in figures.items():
        Stats.gauge(f"lakescore.{figure}", value, tags={"job": job.name})


def tell(job: Job, settings: Settings, context: Mapping[str, Any]) -> dict[str, Any]:
    """Sends the message about a DAG run by Airflow's SMTP connection and Apprise. A failed delivery is not fatal."""
    from pipeline.notify import channels, message
    from pipeline.publish.delivery import DeliveryStore

    ti, dag_run = context["ti"], context["dag_run"]
    ds = _told(job, DagRun.of(dag_run), context["params"])  # not from the task `day`, which may have failed
    states = ti.get_task_states(dag_id=ti.dag_id, run_ids=[dag_run.run_id]).get(dag_run.run_id, {})
    failed = [name for name, state in states.items() if state in ("failed", "upstream_failed")]
    last = _last(ti, [name for name in states if name != ti.task_id])
    if not failed and (last is None or last.get("state") == "skipped"):
        return {"told": "nobody: there was nothing to do"}
    lake, run_id = Lake.open(settings.lake), last.get("run_id") if last else None
    known = run_id is not None and lake.storage.head(lake.records.key(job.name, ds, run_id)) is not None
    record = lake.records.read(job.name, ds, str(run_id)) if known else None
    error: dict[str, Any] = _error(ti, failed) if failed else {"text": None, "stopped": False}
    told = message.compose(
        lake,
        job,
        ds,
        record,
        error["text"],
        stopped=error["stopped"],
        report=message.report_of(lake, job, record),
        deliveries=DeliveryStore(lake).of_run(record) if record else (),
    )
    ways = {**channels.apprise_channels(job.notify.apprise), **_mail(job.notify.mail, context)}
    sent = channels.send(lake, job, ds, run_id, told, ways if told.level in job.notify.on else {})
    return {"level": sent.level, "title": sent.title, "deliveries": [each.model_dump() for each in sent.deliveries]}


def _last(ti: Any, tasks: list[str]) -> dict[str, Any] | None:
    """Returns the output of the last stage that has a run id, or None."""
    handed = (ti.xcom_pull(task_ids=name) for name in reversed([name for name in TASKS if name in tasks]))
    return next((each for each in handed if isinstance(each, dict) and each.get("run_id")), None)


def _error(ti: Any, failed: list[str]) -> dict[str, Any]:
    left = (ti.xcom_pull(task_ids=name, key=ERROR) for name in failed)
    unknown = {"text": f"{', '.join(failed)} failed; see the task log in Airflow", "stopped": False}
    return next((each for each in left if each), unknown)


def _mail(addresses: Collection[str], context: Any) -> dict[str, Any]:
    from airflow.providers.smtp.notifications.smtp import SmtpNotifier

    def deliver(told: Any) -> None:
        files = [str(path) for path in told.attachments]
        SmtpNotifier(to=list(addresses), subject=told.title, html_content=told.html, files=files).notify(context)

    return {"mail": deliver} if addresses else {}


def deadline(job: Job, settings: Settings) -> Any:
    """Returns the alert for a late run, or None if the job has no deadline."""
    from airflow.sdk import DeadlineAlert, DeadlineReference, SyncCallback  # type: ignore[attr-defined]

    if job.schedule.deadline is None:
        return None
    after = timedelta(seconds=seconds(job.schedule.deadline))
    known = {"job": job.name, "folder": str(job.folder.resolve()), "after": job.schedule.deadline}
    callback = SyncCallback(late, {**known, "lake": settings.lake, "models": settings.models})
    return DeadlineAlert(reference=DeadlineReference.DAGRUN_QUEUED_AT, interval=after, callback=callback)


def late(context: Mapping[str, Any], job: str, folder: str, after: str, lake: str, models: str) -> None:
    """Sends the message that a run has missed its deadline. Called by Airflow; the run continues.

    The lake and the models are those of the DAG: the job's folder may be anywhere.
    """
    from pipeline.notify import channels, message

    settings = replace(Settings.from_environment(), lake=lake, jobs=Path(folder).parent, models=models)
    found = read_job(Path(folder), settings)
    run: Mapping[str, Any] = context["dag_run"]
    ds = _told(found, DagRun.of(run))
    text = f"Run {run['dag_run_id']} has not ended {after} after it was queued. It continues."
    told = message.Message("failure", f"{job} {ds}: late", (f"{found.grain.capitalize()}: {ds}", text))
    ways = {**channels.apprise_channels(found.notify.apprise), **_mail(found.notify.mail, context)}
    channels.send(Lake.open(settings.lake), found, ds, None, told, ways if "failure" in found.notify.on else {})


def _told(job: Job, run: DagRun, params: Mapping[str, Any] | None = None) -> str:
    """Returns the period that a message is about: the last one of the run, even if the run asks for an unknown one."""
    try:
        return due.periods_due(job, run, params)[-1].ds
    except UsageError:
        return job.last_due(run.run_after).ds
