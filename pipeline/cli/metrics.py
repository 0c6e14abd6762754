"""metrics: the state of all jobs for Prometheus."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.asking import open_lake
from pipeline.cli.options import LakeOption, settings
from pipeline.cli.rows import replacing
from pipeline.flow import overview


def add_to(app: typer.Typer) -> None:
    app.command()(metrics)


def metrics(
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Replace this file, such as one of node_exporter's collector.",
        ),
    ] = None,
    lake: LakeOption = None,
) -> None:
    """Print the state of each job in the text format of OpenMetrics. Reads no predictions."""
    from pipeline.flow.metrics import as_text

    machine, now = settings(lake), datetime.now(UTC)
    opened = open_lake(machine)
    text = as_text(opened, overview.overview(machine, opened, now), now)
    if output is None:
        sys.stdout.write(text)
        return
    with replacing(output) as file:
        file.write(text.encode())
