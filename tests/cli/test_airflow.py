"""`lakescore airflow`: from an empty folder to predictions and pages in a browser; no process is left at the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline.errors import UsageError
from tests.browsing import chromium
from tests.calling import Cli
from tests.orchestration.airflow_project import ROOT, free_port, kill_all_in, processes_in, wait

if TYPE_CHECKING:
    from playwright.sync_api import Page

SCHEDULED = (datetime.now(UTC) - timedelta(days=1, hours=2)).date().isoformat()
"""The day that the last run of the default job was for, which is due at 02:00."""
SHOTS = os.environ.get("LAKESCORE_TEST_SCREENSHOTS")
"""Folder for screenshots of the pages, for manual inspection; None takes none."""


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def airflow(tmp_path: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "pipeline", "airflow", "--port", str(port)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    yield process
    process.kill()
    process.wait()
    kill_all_in(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_airflow_in_an_empty_folder_scores_yesterday_shows_it_and_leaves_no_process(
    airflow: subprocess.Popen[bytes], tmp_path: Path, port: int
) -> None:
    folder = tmp_path / "lake" / "predictions" / "job=batch_inference" / f"ds={SCHEDULED}"
    log = tmp_path / ".airflow" / "standalone.log"
    wait(lambda: list(folder.glob("*/_SUCCESS")), 200, lambda: log.read_text()[-3000:])
    pages_tell_the_story(port)
    airflow.send_signal(signal.SIGINT)
    assert airflow.wait(90) == 130
    assert processes_in(tmp_path) == []


def pages_tell_the_story(port: int) -> None:
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.goto(f"http://127.0.0.1:{port}/dags/batch_inference")
        for name in ("check", "plan", "validate_input", "score", "validate_output", "commit", "notify"):
            page.get_by_text(name, exact=True).first.wait_for()
        shoot(page, "grid")
        page.get_by_role("button", name="Dag Docs").click()
        page.get_by_role("heading", name="It failed at night. What now?").wait_for()
        shoot(page, "runbook")
        page.keyboard.press("Escape")
        page.get_by_label("Graph", exact=False).first.click()
        page.get_by_test_id("rf__node-score").wait_for()
        page.wait_for_timeout(2_000)
        shoot(page, "graph")


def shoot(page: Page, name: str) -> None:
    if SHOTS:
        page.screenshot(path=f"{SHOTS}/{name}.png")


def test_airflow_that_is_not_installed_says_what_to_install_and_writes_nothing(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    assert "pip install 'lakescore[airflow]'" in cli("airflow", expect=UsageError).stderr
    assert list(tmp_path.iterdir()) == []
