"""The examples of models/README.md run as they stand there."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli.app import command_line

README = Path(__file__).parent.parent.parent / "models" / "README.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", README.read_text("utf-8"), re.MULTILINE | re.DOTALL))


def run_examples(section: str, languages: list[str]) -> list[str]:
    """Runs a section's examples one after another, and returns what its commands print."""
    blocks = BLOCK.findall(SECTIONS[section])
    assert [language for language, _ in blocks] == languages
    printed = []
    for language, text in blocks:
        if language == "python":
            exec(compile(text, README, "exec"), {"__name__": "__main__"})
            continue
        for line in text.splitlines():
            program, *arguments = shlex.split(line)
            result = CliRunner().invoke(command_line(), arguments)
            assert program == "lakescore"
            assert (result.exit_code, result.exception) == (0, None), line
            printed.append(result.stdout)
    return printed


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_every_example_is_run_by_a_test() -> None:
    text = Path(__file__).read_text("utf-8")
    assert [name for name, content in SECTIONS.items() if BLOCK.search(content) and f'"{name}"' not in text] == []


def test_checkpoint_of_the_readme_is_registered_and_scores(capsys: pytest.CaptureFixture[str]) -> None:
    printed = run_examples("Bring a checkpoint", ["python", "sh", "python"])
    assert all("churn" in text for text in printed)
    assert "auc 0.93" in printed[-1]
    assert re.fullmatch(r"\['(stays|leaves)'\] \[[\d.e-]+\] \[[\d.e-]+\]\n", capsys.readouterr().out)


@pytest.mark.filterwarnings("ignore")  # torch.export's own
def test_program_of_the_readme_is_registered_and_scores(capsys: pytest.CaptureFixture[str]) -> None:
    (printed,) = run_examples("Any architecture: a program", ["python", "python", "sh", "python"])
    assert printed.startswith("spend v1 is registered as production")
    assert capsys.readouterr().out == "['value', 'value_q10', 'value_q50', 'value_q90']\n"


def test_ranking_of_the_readme_is_registered() -> None:
    (printed,) = run_examples("Tasks", ["python", "sh"])
    assert printed.startswith("shelf v1 is registered")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="the extra mlflow is not installed")
@pytest.mark.filterwarnings("ignore")  # MLflow's own, about itself
def test_model_of_mlflow_of_the_readme_is_registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("GIT_PYTHON_REFRESH", "quiet")
    (printed,) = run_examples("From MLflow", ["python", "sh"])
    assert printed.startswith("churn v3 is registered")
