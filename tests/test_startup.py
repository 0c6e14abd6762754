"""The start of a process: what it imports ahead, and only that."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.workspace import Workspace

ROOT = Path(__file__).parent.parent
SCRIPT = """
import sys
from types import SimpleNamespace
from pathlib import Path
from pipeline import startup
job = SimpleNamespace(folder=Path(sys.argv[1]), quality=SimpleNamespace(enabled=sys.argv[2] == "True"))
startup.import_ahead(SimpleNamespace(job=job), scores=sys.argv[3] == "True")
import threading
[thread.join() for thread in threading.enumerate() if thread is not threading.current_thread()]
print(*sorted({"torch", "great_expectations"} & set(sys.modules)))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suite", "validates", "scores", "expected"),
    [
        (False, True, False, ""),
        (False, True, True, "torch"),
        (True, True, False, "great_expectations"),
        (True, False, False, ""),
    ],
)
def test_import_ahead_takes_what_the_job_will_need(
    workspace: Workspace, suite: bool, validates: bool, scores: bool, expected: str
) -> None:
    folder = workspace.settings.jobs / "toy"
    if suite:
        (folder / "output.json").write_text('{"expectations": []}')
    command = [sys.executable, "-c", SCRIPT, str(folder), str(validates), str(scores)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected
