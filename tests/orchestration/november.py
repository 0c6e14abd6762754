"""November 2011 of the real data, through Airflow and through the command line: both must store the same predictions.

`python -m tests.orchestration.november [DATA]` takes minutes and prints one line of JSON. Airflow uses a separate
PostgreSQL server.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import duckdb

from tests.orchestration.airflow_project import ROOT, AirflowProject, wait
from tests.orchestration.postgres import postgres
from tests.workspace import Workspace

FIRST, LAST, DAYS = "2011-11-01", "2011-11-30", 30
COMPARED = ("ds", "model_version", "customer_id", "prediction", "prob_class_0", "prob_class_1", "reason", "revision")


def main(data: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        november = root / "november.parquet"
        source = data / "online_retail" / "daily_features.parquet"
        duckdb.read_parquet(str(source)).filter(f"as_of BETWEEN '{FIRST}' AND '{LAST}'").write_parquet(str(november))
        checkpoint = root / "retail.pt"
        subprocess.run([sys.executable, "-m", "tests.retail.train", source, checkpoint], cwd=ROOT, check=True)
        places = [AirflowProject(Workspace(root / name), {"AIRFLOW__CORE__PARALLELISM": "2"}) for name in ("a", "b")]
        for place in places:
            shutil.copytree(ROOT / "tests" / "retail" / "jobs" / "retail", place.workspace.settings.jobs / "retail")
            register = ("--name", "retail", "--version", "v1", "--alias", "production")
            cli(place, "models", "register", checkpoint, *register)
            cli(place, "import", november, "--partition-by", "as_of", "--job", "retail")
        by_airflow, by_hand = places
        begun = time.monotonic()
        cli(by_hand, "backfill", "--from", FIRST, "--to", LAST, "--job", "retail")
        hand_s = time.monotonic() - begun
        with postgres() as address:
            by_airflow.extra["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = f"postgresql+psycopg2://{address}"
            airflow_s, tasks = through_airflow(by_airflow)
        rows = [predictions(place) for place in (by_airflow, by_hand)]
        return {
            "rows": len(rows[0]),
            "equal": rows[0] == rows[1],
            "tasks": tasks,
            "airflow_s": round(airflow_s),
            "command_line_s": round(hand_s),
            "amiss": json.loads(cli(by_airflow, "verify", "--json")),
        }


def cli(place: AirflowProject, *arguments: object) -> str:
    command = [sys.executable, "-m", "pipeline", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=place.workspace.root, env=place.environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def through_airflow(place: AirflowProject) -> tuple[float, int]:
    """Returns the seconds from the command to the end of the last run, and the number of tasks."""
    toml = place.workspace.settings.jobs / "retail" / "job.toml"
    toml.write_text(toml.read_text() + "[schedule]\nstart_date = 2011-01-01\n")
    place.airflow("db", "migrate")
    place.extra["AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION"] = (
        "True"  # or it would start a run for yesterday, which has no input
    )
    place.start("api-server", "scheduler", "dag-processor")
    try:
        wait(lambda: place.call("GET", "/api/v2/dags/retail"), 180)
        place.call("PATCH", "/api/v2/dags/retail", {"is_paused": False})
        begun = time.monotonic()
        cli(place, "backfill", "--airflow", "--from", FIRST, "--to", LAST, "--job", "retail")
        wait(lambda: ended(place) == DAYS, 3_000, lambda: str(place.runs("retail")))
        took_s = time.monotonic() - begun
        run_ids = [run_id for run_id in place.runs("retail") if run_id.startswith("backfill")]
        return took_s, sum(len(place.tasks(run_id, "retail")) for run_id in run_ids)
    finally:
        place.stop()


def ended(place: AirflowProject) -> int:
    runs = place.runs("retail")
    return sum(state == "success" for run_id, state in runs.items() if run_id.startswith("backfill"))


def predictions(place: AirflowProject) -> list[tuple[Any, ...]]:
    pattern = f"{place.workspace.lake}/predictions/job=retail/*/*/part-*.parquet"
    stored = duckdb.read_parquet(pattern, hive_partitioning=True)
    return stored.select(*COMPARED).order("ds, customer_id").fetchall()


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT.parent / "shared" / "data"
    found = main(folder)
    sys.stdout.write(json.dumps(found) + "\n")
    sys.exit(not found["equal"] or bool(found["amiss"]))
