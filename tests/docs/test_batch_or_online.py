"""The example of docs/batch-or-online.md, run for a job that has scored the same row."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.docs import snippets
from tests.workspace import Workspace

DOCUMENT = "batch-or-online.md"


def test_example_prints_the_stored_prediction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    workspace = Workspace(tmp_path)
    workspace.model(name="churn", features=("age", "visits", "spend"))
    quiet = "[quality]\nenabled = false\n[drift]\nenabled = false\n[report]\nenabled = false\n"
    workspace.job("churn", model="churn", features="", schedule=quiet)
    ((_, text),) = snippets.blocks(DOCUMENT)
    row = ast.literal_eval(next(line for line in text.splitlines() if line.startswith("row = ")).removeprefix("row = "))
    workspace.day({"id": ["a", "b"], **{name: [value, 40] for name, value in row.items()}})
    workspace.complete(job="churn")

    snippets.run_python(DOCUMENT, text, {})
    (printed,) = ast.literal_eval(capsys.readouterr().out)
    stored = workspace.stored(job="churn")[0]
    assert printed == {name: pytest.approx(stored[name], abs=1e-5) for name in printed}
