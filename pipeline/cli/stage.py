"""stage: run a single stage of a day, for Airflow and other orchestrators."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Annotated

import typer

from pipeline.cli.asking import Missing
from pipeline.cli.options import JOB, JobOption, LakeOption, open_context
from pipeline.cli.output import emit_json
from pipeline.cli.progress import progress

GRACE_S = 30


def add_to(app: typer.Typer) -> None:
    app.command()(stage)


def stage(
    name: Annotated[str, typer.Argument(help="Stage to run, such as check, plan or score.")],
    ds: Annotated[str, typer.Option("--date", help="Day, YYYY-MM-DD.")],
    run_id: Annotated[str | None, typer.Option(help="Run id, as printed by the previous stage.")] = None,
    since: Annotated[str | None, typer.Option(help="First day of the stage `earlier`.")] = None,
    job: JobOption = JOB,
    lake: LakeOption = None,
    *,
    end_with_stdin: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Run a single stage of a day, unless it is done, and print what the next stage needs as JSON."""
    from pipeline.flow import single_stage

    if end_with_stdin:
        threading.Thread(target=_end_with_stdin, daemon=True, name="end-with-stdin").start()
    with progress() as report:
        ctx = open_context(job, lake, report, Missing.make)
        found = single_stage.run_task(ctx, name, ctx.job.period(ds).ds, run_id, since)
    emit_json(found)


def _end_with_stdin() -> None:
    """Ends this process when its parent has exited, which closes the pipe on stdin."""
    while os.read(0, 1):  # not sys.stdin: this thread would hold its lock and abort the interpreter's shutdown
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os._exit(128 + signal.SIGTERM)
