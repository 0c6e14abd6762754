"""The examples of models/README.md run as they stand there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli.app import app

README = Path(__file__).parent.parent.parent / "models" / "README.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_readme_examples_run_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = BLOCK.findall(README.read_text("utf-8"))
    assert [language for language, _ in blocks] == ["python", "sh", "python"]
    for language, text in blocks:
        if language == "python":
            exec(compile(text, README, "exec"), {"__name__": "__main__"})
            continue
        for line in text.splitlines():
            program, *arguments = shlex.split(line)
            result = CliRunner().invoke(app, arguments)
            assert program == "lakescore"
            assert (result.exit_code, result.exception) == (0, None)
            assert "churn" in result.stdout
    assert re.fullmatch(r"\['(stays|leaves)'\] \[[\d.e-]+\] \[[\d.e-]+\]\n", capsys.readouterr().out)
