"""airflow: Airflow with the project's DAGs, on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.options import LakeOption, settings
from pipeline.cli.output import console


def add_to(app: typer.Typer) -> None:
    app.command()(airflow)


def airflow(
    port: Annotated[int, typer.Option(help="Of the web pages, on loopback.", min=1, max=65535)] = 8080,
    lake: LakeOption = None,
) -> None:
    """Runs Airflow with a DAG for each job until Ctrl-C. Fills an empty lake with made-up data for yesterday."""
    from pipeline import standalone

    root, out = Path.cwd(), console()
    machine = settings(lake)
    standalone.program()
    standalone.prepare(root, machine, lambda line: out.print(line, markup=False))
    out.print(f"starting Airflow, home {root / standalone.HOME}; this takes about half a minute", markup=False)
    try:
        with standalone.standalone(root, machine, port) as (process, log):
            standalone.wait_until_healthy(process, log, port)
            out.print(f"Airflow is at http://127.0.0.1:{port}, without a password; Ctrl-C ends it", markup=False)
            code = process.wait()
    finally:
        out.print("Airflow has ended; nothing is left running")
    raise typer.Exit(code)
