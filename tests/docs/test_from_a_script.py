"""Every block of docs/from-a-script.md runs, in order, in a folder with a checkpoint and a CSV file per day."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from tests.calling import Cli
from tests.docs import snippets
from tests.docs.documented import DOCS
from tests.model.networks import classifier
from tests.orchestration.airflow_project import AirflowProject
from tests.workspace import Workspace

DOCUMENT = "from-a-script.md"
FEATURES = ["age", "visits", "spend"]
DAYS = ("2026-01-29", "2026-01-30")


def customers(rows: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    numbers = {"age": rng.integers(18, 90, rows), "visits": rng.poisson(4, rows), "spend": rng.lognormal(3, 1, rows)}
    return pd.DataFrame({"id": [f"{number:05}" for number in range(rows)], **numbers})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the reader has: a checkpoint, a CSV file per day, the training data, and the job of the document."""
    monkeypatch.setenv("TEAM_WEBHOOK", f"json://127.0.0.1:9/{tmp_path.name}")  # nobody answers there
    model = classifier()
    dimensions = {"input_dim": 3, "hidden_dim": 8, "output_dim": 2}
    torch.save({"model_state_dict": model.state_dict(), **dimensions}, tmp_path / "churn.pt")
    (tmp_path / "lake" / "unscored").mkdir(parents=True)
    for seed, ds in enumerate(DAYS):
        customers(200, seed).to_csv(tmp_path / "lake" / "unscored" / f"{ds}.csv", index=False)
    customers(2000, 7).to_csv(tmp_path / "training.csv", index=False)
    (job,) = (text for language, text in snippets.blocks(DOCUMENT) if language == "toml")
    (tmp_path / "dags" / "jobs" / "churn").mkdir(parents=True)
    (tmp_path / "dags" / "jobs" / "churn" / "job.toml").write_text(job)
    return tmp_path


@pytest.mark.slow
def test_every_block_runs_and_all_ways_of_scoring_agree(cli: Cli, folder: Path) -> None:
    printed: dict[str, str] = {}
    names: dict[str, Any] = {"__name__": "__main__"}
    for language, text in snippets.blocks(DOCUMENT):
        if language == "python":
            snippets.run_python(DOCUMENT, text, names)
        elif language == "sh":
            for command in snippets.commands(text):
                if command.program != "airflow":  # the test below
                    printed[command.text] = command.run(cli)

    ways = [
        names["scored"].set_index("id")["prob_class_1"].rename(index="{:05}".format),
        pd.read_csv(folder / "scored.csv", dtype={"id": str}).set_index("id")["prob_class_1"],
        names["predictions"].set_index("id")["prob_class_1"],
        names["table"].to_pandas().set_index("id")["prob_class_1"],
    ]
    matrix = torch.tensor(customers(200, 1)[FEATURES].to_numpy(), dtype=torch.float32)
    with torch.inference_mode():
        expected = torch.softmax(classifier()(matrix), 1)[:, 1].numpy()
    for found in ways:
        np.testing.assert_allclose(found.sort_index(), expected, atol=1e-5)
    (row,) = names["why"].to_dict("records")
    assert row["difference"] < 1e-4
    assert {each["feature"] for each in row["attribution"]} == set(FEATURES)
    assert names["outcome"].up_to_date  # the command before it has scored the day

    by_name = {command.split(" --")[0]: text for command, text in printed.items()}
    assert "200" in by_name["lakescore plan"]
    assert by_name["lakescore query daily_summary"].count("2026-01-30") == 1
    (unscored,) = (text for command, text in printed.items() if "ANTI JOIN" in command)
    assert "00000" in unscored
    assert "00199" in unscored
    assert "spend" in by_name["lakescore drift"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_airflow_command_of_the_document_starts_a_run_for_the_date(folder: Path) -> None:
    (command,) = (
        command.text
        for language, text in snippets.blocks(DOCUMENT)
        if language == "sh"
        for command in snippets.commands(text)
        if command.program == "airflow"
    )
    project = AirflowProject(Workspace(folder))
    project.airflow("db", "migrate")
    project.airflow("dags", "reserialize")
    project.airflow(*shlex.split(command)[1:])
    (run,) = project.python(RUNS)
    assert (run["dag_id"], run["conf"]) == ("churn", {"date": "2026-01-30"})


RUNS = """
import json
from airflow.models import DagRun
from airflow.utils.session import create_session
with create_session() as session:
    runs = [{"dag_id": run.dag_id, "conf": run.conf} for run in session.query(DagRun)]
answer(runs)
"""


def test_table_of_functions_leads_to_sections_that_exist() -> None:
    text = (DOCS / DOCUMENT).read_text("utf-8")
    headings = [line[3:] for line in text.splitlines() if line.startswith("## ")]
    anchors = {"".join(c for c in heading.lower().replace(" ", "-") if c.isalnum() or c == "-") for heading in headings}
    linked = set(re.findall(r"\]\(#([\w-]+)\)", text))
    assert linked <= anchors
    assert len(linked) == 8
