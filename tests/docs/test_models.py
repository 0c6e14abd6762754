"""docs/models.md: models of three libraries, from training to the report, by the blocks that stand there."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xgboost

from tests.calling import Cli
from tests.docs import snippets

DOCUMENT = "models.md"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # skl2onnx warns about its own code
def test_models_of_three_libraries_come_from_training_to_the_report(cli: Cli, tmp_path: Path) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    printed = ""
    for language, text in snippets.blocks(DOCUMENT):
        if language == "python":
            snippets.run_python(DOCUMENT, text, names)
        elif language == "sh":
            printed += "".join(command.run(cli) for command in snippets.commands(text))
    table, numbers = names["table"], names["numbers"]
    expected = {
        "leaves": names["leaves"].predict(xgboost.DMatrix(table, enable_categorical=True)),
        "spend": names["spend"].predict(table),
        "forest": names["forest"].predict_proba(numbers)[:, 1],
    }
    for job, scores in expected.items():
        column = "value" if job == "spend" else "prob_class_1"
        found = stored(cli, job, column)
        np.testing.assert_allclose(found, scores, rtol=1e-6, atol=1e-6)
        assert list((tmp_path / "lake" / "reports").rglob(f"*{job}*"))
    assert "exact Shapley values" in printed


def stored(cli: Cli, job: str, column: str) -> Any:
    query = f"SELECT {column} FROM predictions WHERE job = '{job}' ORDER BY customer"
    return pd.read_csv(StringIO(cli("query", query, "--job", job, "--format", "csv").stdout))[column].to_numpy()
