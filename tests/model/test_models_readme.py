"""The examples of models/README.md run as written."""

from __future__ import annotations

import importlib.util
import re
import shlex
from math import exp
from pathlib import Path

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from pipeline.api.scorer import Scorer
from pipeline.cli.commands import command_line

README = Path(__file__).parent.parent.parent / "models" / "README.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", README.read_text("utf-8"), re.MULTILINE | re.DOTALL))


def run_examples(section: str, languages: list[str]) -> list[str]:
    """Runs a section's examples one after another and returns the output of its commands."""
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


@pytest.mark.filterwarnings("ignore")  # torch.export warns about its own code
def test_program_of_the_readme_is_registered_and_scores(capsys: pytest.CaptureFixture[str]) -> None:
    (printed,) = run_examples("Any architecture: a program", ["python", "python", "sh", "python"])
    assert printed.startswith("spend v1 is registered as production")
    assert capsys.readouterr().out == "['value', 'value_q10', 'value_q50', 'value_q90']\n"


@pytest.mark.filterwarnings("ignore")  # torch.export warns about its own code
def test_program_of_several_inputs_and_outputs_of_the_readme_is_registered() -> None:
    clicks, stay = run_examples("Several inputs and outputs", ["python", "sh"])
    assert "task: classification of 0, 1" in clicks
    assert "task: regression" in stay
    rows = pa.table({"price": [1.0], "age": [30.0], "user": [2**60], "item": [7]})
    assert Scorer.load("stay", "v1").score(rows).column_names[-1] == "value"


@pytest.mark.filterwarnings("ignore")  # torch.export warns about its own code
def test_models_of_other_libraries_of_the_readme_are_registered_and_score() -> None:
    printed = run_examples("Models of other libraries", ["python", "python", "sh"])
    assert [text.split(" is registered")[0] for text in printed] == ["linear v1", "trees v1"]
    rows = pa.table({"age": [41.0, 52.0, 41.6], "visits": [2.0, 9.0, 4.0], "spend": [80.0, 99.0, 100.0]})
    # by hand: (age - 40) / 12 * 0.4 - (visits - 3) / 2 * 1.1 + (spend - 80) / 45 * 0.7 + 0.2; the leaves of both trees
    linear = [0.4 / 12 + 1.1 / 2 + 0.2, 4.8 / 12 - 3.3 + 13.3 / 45 + 0.2, 0.64 / 12 - 0.55 + 14 / 45 + 0.2]
    trees = [-0.1 - 0.3 - 0.2, -0.1 + 0.8 + 0.1, -0.1 + 0.8 + 0.5]
    for name, logits in (("linear", linear), ("trees", trees)):
        scores = Scorer.load(name, "v1").score(rows).column("prob_class_1").to_pylist()
        assert scores == pytest.approx([1 / (1 + exp(-logit)) for logit in logits], abs=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # skl2onnx warns about its own code
def test_onnx_model_of_the_readme_is_registered_with_its_labels() -> None:
    (printed,) = run_examples("ONNX: scikit-learn and others", ["python", "sh"])
    assert "task: classification of leaves, stays" in printed


@pytest.mark.slow
def test_trees_of_the_readme_are_registered_and_score_rows_without_a_value() -> None:
    printed = run_examples("Trees: XGBoost and LightGBM", ["python", "sh"])
    assert "task: classification of 0, 1 (by its objective binary:logistic)" in printed[0]
    assert "task: regression (by its objective regression)" in printed[1]
    rows = pa.table({"age": [40.0], "visits": [3], "spend": [None], "channel": ["web"]})
    scorer = Scorer.load("leaves", "v1")
    scorer.null_features = True
    assert scorer.score(rows).column("prediction").to_pylist() == [1]


def test_ranking_of_the_readme_is_registered() -> None:
    (printed,) = run_examples("Tasks", ["python", "sh"])
    assert printed.startswith("shelf v1 is registered")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="the extra mlflow is not installed")
@pytest.mark.filterwarnings("ignore")  # MLflow warns about its own code
def test_model_of_mlflow_of_the_readme_is_registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("GIT_PYTHON_REFRESH", "quiet")
    (printed,) = run_examples("From MLflow", ["python", "sh"])
    assert printed.startswith("churn v3 is registered")
