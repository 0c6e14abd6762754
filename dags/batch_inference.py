"""One Airflow DAG per job folder in `jobs/`; its tasks are the stages of `lakescore`, each in a process of its own.

What a task does is in `pipeline/orchestration.py`, what a stage does in `pipeline/`; deploying it: docs/airflow.md.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, Asset, Context, CronDataIntervalTimetable, Param, dag, get_current_context, task
from airflow.sdk.exceptions import AirflowFailException

from pipeline import orchestration, stages
from pipeline.job import Job
from pipeline.job_tables import seconds

HERE = Path(__file__).resolve().parent
SETTINGS = orchestration.machine(HERE)
RUNBOOK = """
Scores the rows of one day that have no prediction yet, and publishes them exactly once. **{description}**

### It failed at night. What now?
1. Open the red task's log: the last lines say what, where, what was expected, and the next step.
2. **{retries} retries** have been made already, unless the error is one that no retry mends (bad data, a model or a job
   that does not fit): these fail at once.
3. Mend the cause, then **clear the red task** (with downstream). It resumes: what is done is not done again.
   To begin anew, clear `check`. Two runs of one day are harmless.
4. Nothing half-done is visible to readers, whatever happened: the old predictions stand until the new are complete.

A red **validate_input** or **validate_output** is bad data, not a fault: `lakescore report --open`, and the pages that
`lakescore docs` names, say which rows. Repair the input, or the suite, then clear it. Red at **check**: there is no
input for the day; ask who delivers it.

### The same by hand
    lakescore plan   --job {job} --date 2026-01-31     what a run would do
    lakescore run    --job {job} --date 2026-01-31     do it here, without Airflow
    lakescore status --job {job}                       the calendar
    lakescore drift --job {job} --date 2026-01-31      what has moved
    lakescore quarantine list --job {job}              the rows that were rejected, and why
    lakescore rollback RUN                             take back what a run has published

Trigger with a **date** to run a certain day; without one it is yesterday. Model `{model}`, owner {owner}.
"""


def schedule_of(job: Job) -> Any:
    if job.schedule.assets:
        return [Asset(name) for name in job.schedule.assets]
    return CronDataIntervalTimetable(job.schedule.cron, timezone=job.schedule.timezone) if job.schedule.cron else None


def make_dag(job: Job) -> DAG:  # noqa: C901 - a graph: one small function a task
    predictions = Asset(name=f"{job.name}_predictions", uri=f"lakescore://{job.name}/predictions", group="lakescore")
    plan = job.schedule
    defaults = {
        "owner": plan.owner,
        "retries": plan.retries,
        "retry_delay": timedelta(seconds=seconds(plan.retry_delay)),
        "retry_exponential_backoff": True,
        "max_retry_delay": timedelta(hours=1),
        "execution_timeout": timedelta(seconds=seconds(plan.timeout)),
    }

    @dag(
        dag_id=job.name,
        description=job.description or None,
        schedule=schedule_of(job),
        start_date=datetime(plan.start_date.year, plan.start_date.month, plan.start_date.day, tzinfo=UTC),
        catchup=plan.catchup,
        max_active_runs=1 if plan.in_order else 4,
        tags=["lakescore", *plan.tags],
        params={
            "date": Param(None, type=["null", "string"], format="date", description="A day; without one, yesterday")
        },
        default_args=defaults,
        deadline=orchestration.deadline(job),
        render_template_as_native_obj=True,
        doc_md=RUNBOOK.format(
            description=job.description, retries=plan.retries, job=job.name, model=job.model.name, owner=plan.owner
        ),
    )
    def flow() -> None:  # noqa: C901 - as above
        @task
        def day() -> str:
            return orchestration.day_of(job, get_current_context())

        @task.sensor(
            mode="reschedule",
            poke_interval=seconds(plan.wait_interval),
            timeout=seconds(plan.wait_timeout),
            execution_timeout=timedelta(minutes=5),
        )
        def wait_for_input(of: str) -> bool:
            return orchestration.input_is_there(job, SETTINGS, of)

        def run_stage(name: str, before: dict[str, Any], context: Context) -> dict[str, Any]:
            found = orchestration.run_stage(job, SETTINGS, name, before["ds"], before.get("run_id"), context)
            if name == "commit":
                context["outlet_events"][predictions].extra = found
            return found

        def stage_task(name: str, before: Any) -> Any:
            @task(multiple_outputs=False, task_id=name, outlets=[predictions] if name == "commit" else [])
            def stage(before: dict[str, Any]) -> dict[str, Any]:
                return run_stage(name, before, get_current_context())

            return stage(before)

        @task(multiple_outputs=False, task_id=stages.CHECK)
        def check(of: str) -> dict[str, Any]:
            return run_stage(stages.CHECK, {"ds": of}, get_current_context())

        @task(multiple_outputs=False, task_id="notify", retries=1)
        def tell() -> dict[str, Any]:
            return orchestration.tell(job, SETTINGS, get_current_context())

        ds = day()
        done = check(ds)
        if job.policy.missing_input == "wait":
            wait_for_input(ds) >> done
        for name in stages.of(job):
            done = stage_task(name, done)
        if job.lookback:
            done = stage_task(stages.LATE_ROWS, done)
        done >> tell().as_teardown()  # a leaf with trigger_rule all_done would turn a failed run green

    return flow()


def make_broken(name: str, error: str) -> DAG:
    """Returns a DAG that is there to be seen, and fails each night: a job that silently is gone would not be missed."""

    @dag(dag_id=name, schedule="0 2 * * *", catchup=False, tags=["lakescore", "broken"], doc_md=f"```\n{error}\n```")
    def broken() -> None:
        @task(retries=0)
        def job_cannot_be_read() -> None:
            raise AirflowFailException(error)

        job_cannot_be_read()

    return broken()


for job_name, found in orchestration.load_jobs(HERE):
    globals()[f"dag_{job_name}"] = make_dag(found) if isinstance(found, Job) else make_broken(job_name, str(found))
