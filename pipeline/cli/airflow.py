"""airflow: run Airflow with the project's DAGs on this machine."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.options import LakeOption, settings
from pipeline.cli.output import console
from pipeline.lake.layout import Lake


def add_to(app: typer.Typer) -> None:
    app.command()(airflow)


def airflow(
    port: Annotated[int, typer.Option(help="Port of the web interface, on loopback.", min=1, max=65535)] = 8080,
    lake: LakeOption = None,
) -> None:
    """Run Airflow with one DAG per job until Ctrl-C. Fills an empty lake with made-up data for yesterday."""
    from pipeline.orchestration import local_airflow, page_server

    root, out = Path.cwd(), console()
    machine = settings(lake)
    local_airflow.program()

    def say(line: str) -> None:
        out.print(line, markup=False)

    local_airflow.prepare(root, machine, say)
    paused = local_airflow.jobs_to_pause(root, machine, say)
    out.print(f"starting Airflow, home {root / local_airflow.HOME}; this takes about half a minute", markup=False)
    try:
        with (
            nullcontext(machine.pages) if machine.pages else page_server.serve(Lake.open(machine.lake)) as pages,
            local_airflow.standalone(root, replace(machine, pages=pages), port, paused) as (process, log),
        ):
            local_airflow.wait_until_healthy(process, log, port)
            say(f"Airflow is at http://127.0.0.1:{port}, without a password; press Ctrl-C to stop it")
            say(f"the pages of the lake are at {pages}: a red task, and `report`, link to the page of the run")
            say("there is one DAG per job: the run for the last period that is due starts by itself; its tasks are the")
            say("  stages of the run, and Dag Docs, a button of the DAG, says what to do about a red one")
            code = process.wait()
    finally:
        out.print("Airflow has stopped; no process is left running")
    raise typer.Exit(code)
