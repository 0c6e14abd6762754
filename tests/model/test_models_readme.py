"""The examples of models/README.md run as they stand there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from tests.conftest import Lakescore

ROOT = Path(__file__).parent.parent.parent
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_readme_examples_run_in_order(tmp_path: Path, lakescore: Lakescore) -> None:
    blocks = BLOCK.findall((ROOT / "models" / "README.md").read_text("utf-8"))
    assert [language for language, _ in blocks] == ["python", "sh", "python"]
    shown = ""
    for language, text in blocks:
        if language == "python":
            done = subprocess.run(
                [sys.executable, "-c", text],
                cwd=tmp_path,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            shown = done.stdout
        else:
            for line in text.splitlines():
                program, *arguments = shlex.split(line)
                assert program == "lakescore"
                assert "churn" in lakescore(*arguments).stdout
    assert re.fullmatch(r"\['(stays|leaves)'\] \[0\.\d+\] \[0\.\d+\]\n", shown)
