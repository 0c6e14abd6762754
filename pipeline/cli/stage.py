"""stage: one stage of a day in this process, for Airflow and other orchestrators."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Annotated

import typer

from pipeline.cli.options import JOB, JobOption, LakeOption, settings
from pipeline.cli.output import emit_json
from pipeline.cli.progress import progress
from pipeline.context import Context
from pipeline.job import find_job
from pipeline.records import check_day

GRACE_S = 30


def add_to(app: typer.Typer) -> None:
    app.command()(stage)


def stage(
    name: Annotated[str, typer.Argument(help="check, a stage of the flow, or late_rows.")],
    ds: Annotated[str, typer.Option("--date", help="A day, YYYY-MM-DD.")],
    run_id: Annotated[str | None, typer.Option(help="The run, as the stage before has printed it.")] = None,
    job: JobOption = JOB,
    lake: LakeOption = None,
    *,
    end_with_stdin: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Runs one stage of a day, as far as it is not done yet, and prints as JSON what the next one needs."""
    from pipeline import stages

    if end_with_stdin:
        threading.Thread(target=_end_with_stdin, daemon=True, name="end-with-stdin").start()
    machine = settings(lake)
    with progress() as report:
        ctx = Context.open(find_job(job, machine), machine, report)
        found = stages.run_stage(ctx, name, check_day(ds), run_id)
    emit_json(found)


def _end_with_stdin() -> None:
    """Ends this process when the one that started it is gone: the pipe between them is closed then."""
    while os.read(0, 1):  # not sys.stdin: its lock, held here, would abort the interpreter's ordinary end
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os._exit(128 + signal.SIGTERM)
