"""One Airflow DAG per job folder in `jobs/`. Its tasks are the stages of `lakescore`, each run in its own process.

The stages are listed in `pipeline/flow/stage_list.py`; the work of the tasks is in `pipeline/orchestration/tasks.py`.
Deployment: docs/airflow.md.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import (
    DAG,
    Asset,
    BaseOperator,
    BaseOperatorLink,
    Context,
    CronDataIntervalTimetable,
    Param,
    dag,
    get_current_context,
    task,
)

from pipeline.flow import stage_list
from pipeline.job.config import Job
from pipeline.job.schedule import seconds
from pipeline.orchestration import due, tasks

HERE = Path(__file__).resolve().parent
SETTINGS = tasks.machine(HERE)
RUNBOOK = """
Scores the rows of one day that have no current prediction, and publishes them exactly once. **{description}**

### It failed at night. What now?
1. Open the log of the red task: its last line at ERROR says what failed, where, what was expected, and what to do next.
   The line before names the page of the run, which shows more; the task links to it if a web server shows the pages.
2. **{retries} retries** have already been made, except for errors that no retry can fix (bad data, or a model or job
   that does not fit): these fail at once.
3. Fix the cause, then **clear the red task** (with downstream). It resumes and repeats no completed work.
   To start over, clear `check`. Two runs of the same day are harmless.
4. Readers never see partial results: the old predictions stay visible until the new ones are complete.

A red **validate_input** or **validate_output** means bad data, not a malfunction: `lakescore report --open` and the
pages of `lakescore docs` show the failed checks. Fix the input or the suite, then clear the task. A red **check** means
that the day has no input: contact its supplier.

### From the command line
    lakescore plan   --job {job} --date 2026-01-31     what a run would do
    lakescore run    --job {job} --date 2026-01-31     run it here, without Airflow
    lakescore status --job {job}                       the calendar of days
    lakescore runs   --job {job}                       the runs, with their reasons
    lakescore drift  --job {job} --date 2026-01-31     which columns have drifted
    lakescore quarantine list --job {job}              rejected rows by day and reason
    lakescore rollback RUN                             unpublish the predictions of a run

A red **publish** costs no prediction: the lake has them, and a target does not. Clear the task, or wait for the next
run of the {every}, once the target answers.

Trigger with a **date** to run a specific {every}; the default is the last one that is over.
Model `{model}`, owner {owner}.
"""


class RunPage(BaseOperatorLink):
    """Leads from `report`, and from a task that failed, to the page of the run, if a web server shows it."""

    name = "Page of the run"

    def get_link(self, operator: BaseOperator, *, ti_key: Any) -> str:  # noqa: ARG002 - Airflow's interface
        return tasks.page_of(ti_key) or ""


def schedule_of(job: Job) -> Any:
    if job.schedule.assets:
        return [Asset(name) for name in job.schedule.assets]
    return CronDataIntervalTimetable(job.schedule.cron, timezone=job.schedule.timezone) if job.schedule.cron else None


def make_dag(job: Job) -> DAG:  # noqa: C901 - a graph: one small function per task
    predictions = Asset(name=f"{job.name}_predictions", uri=f"lakescore://{job.name}/predictions", group="lakescore")
    plan = job.schedule
    defaults = {
        "owner": plan.owner,
        "retries": plan.retries,
        "retry_delay": timedelta(seconds=seconds(plan.retry_delay)),
        "retry_exponential_backoff": True,
        "max_retry_delay": timedelta(hours=1),
        "execution_timeout": timedelta(seconds=seconds(plan.timeout)),
        "retry_policy": tasks.retry_policy(),
    }

    @dag(
        dag_id=job.name,
        description=job.description or None,
        schedule=schedule_of(job),
        start_date=due.start_of(job),
        catchup=plan.catchup,
        is_paused_upon_creation=tasks.starts_paused(job),
        max_active_runs=1 if plan.in_order else 4,
        tags=["lakescore", *plan.tags],
        params={
            "date": Param(
                None, type=["null", "string"], description=f"{job.grain.example}; default: the last that is over"
            )
        },
        default_args=defaults,
        deadline=tasks.deadline(job, SETTINGS),
        render_template_as_native_obj=True,
        doc_md=RUNBOOK.format(
            description=job.description,
            every=job.grain,
            retries=plan.retries,
            job=job.name,
            model=job.model.name,
            owner=plan.owner,
        ),
    )
    def flow() -> None:  # noqa: C901 - as above
        @task
        def day() -> list[str]:
            return tasks.choose(job, get_current_context())

        @task.sensor(
            mode="reschedule",
            poke_interval=seconds(plan.wait_interval),
            timeout=seconds(plan.wait_timeout),
            execution_timeout=timedelta(minutes=5),
        )
        def wait_for_input(days: list[str]) -> bool:
            return tasks.input_is_there(job, SETTINGS, days)

        def run_stage(name: str, before: dict[str, Any], context: Context) -> dict[str, Any]:
            found = tasks.run_stage(job, SETTINGS, name, before["ds"], before.get("run_id"), context)
            if name == "commit":
                context["outlet_events"][predictions].extra = found
            return found

        def stage_task(name: str, before: Any, **options: Any) -> Any:
            @task(multiple_outputs=False, task_id=name, outlets=[predictions] if name == "commit" else [], **options)
            def stage(before: list[str] | dict[str, Any]) -> dict[str, Any]:
                known = before if isinstance(before, dict) else {"ds": before[-1]}
                return run_stage(name, known, get_current_context())

            output = stage(before)
            output.operator.operator_extra_links = (RunPage(),)
            return output

        @task(multiple_outputs=False, task_id="notify", retries=1)
        def tell() -> dict[str, Any]:
            return tasks.tell(job, SETTINGS, get_current_context())

        days = day()
        first, *others = [name for name in stage_list.tasks(job) if name not in ("earlier", "late_rows")]
        done = stage_task(first, days)
        begin, end = [done], []
        if plan.since_last_run:  # beside the last day: a failure of one does not hold up the others
            earlier = stage_task("earlier", days)
            begin, end = ([earlier], []) if plan.in_order else ([earlier, done], [earlier])
            if plan.in_order:
                earlier >> done
        if job.policy.missing_input == "wait":
            wait_for_input(days) >> begin
        beside: Any = None  # what is repeated until it succeeds: its failure holds up nothing else
        for name in others:
            if stage_list.find(name).repeated:
                beside = stage_task(name, done if beside is None else beside)
            else:
                done = stage_task(name, done)
        end += [beside] if beside is not None else []
        if job.lookback:  # also on a day that is skipped
            late = stage_task("late_rows", days, trigger_rule="none_failed")
            done >> late
            done = late
        # As a leaf with trigger_rule all_done, it would mark a failed run as successful.
        [*end, done] >> tell().as_teardown()

    return flow()


def make_broken(name: str, error: str) -> DAG:
    """Returns a DAG that fails each night with `error`: without it, an invalid job would go missing unnoticed."""

    @dag(dag_id=name, schedule="0 2 * * *", catchup=False, tags=["lakescore", "broken"], doc_md=f"```\n{error}\n```")
    def broken() -> None:
        @task(retries=0)
        def job_cannot_be_read() -> None:
            raise tasks.StageRefused("; ".join(error.splitlines()))

        job_cannot_be_read()

    return broken()


for job_name, found in tasks.load_jobs(HERE):
    globals()[f"dag_{job_name}"] = make_dag(found) if isinstance(found, Job) else make_broken(job_name, str(found))
