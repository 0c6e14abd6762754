"""`lakescore airflow`: from an empty folder to predictions, to pages in a browser, to no process at all."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browsing import chromium
from tests.conftest import Lakescore
from tests.orchestration.airflow_project import ROOT, free_port, wait

if TYPE_CHECKING:
    from playwright.sync_api import Page

YESTERDAY = (datetime.now(UTC) - timedelta(days=1)).date().isoformat()
SHOTS = os.environ.get("LAKESCORE_TEST_SCREENSHOTS")
"""A folder for pictures of the pages, for people to look at."""


def of_home(home: Path) -> list[int]:
    """Returns the processes that have this Airflow home in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"AIRFLOW_HOME={home}\0".encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


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
    for pid in of_home(tmp_path / ".airflow"):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_airflow_in_an_empty_folder_scores_yesterday_shows_it_and_leaves_no_process(
    airflow: subprocess.Popen[bytes], tmp_path: Path, port: int
) -> None:
    begun = time.monotonic()
    folder = tmp_path / "lake" / "predictions" / "job=batch_inference" / f"ds={YESTERDAY}"
    log = tmp_path / ".airflow" / "standalone.log"
    wait(lambda: list(folder.glob("*/_SUCCESS")), 200, lambda: log.read_text()[-3000:])
    took_s = time.monotonic() - begun
    logging.getLogger(__name__).info("first predictions after %.0f s, load %.1f", took_s, os.getloadavg()[0])
    pages_tell_the_story(port)
    airflow.send_signal(signal.SIGINT)
    assert airflow.wait(90) == 130
    assert of_home(tmp_path / ".airflow") == []
    assert took_s < 180  # 40 s on an idle machine of two cores


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


def test_backfill_through_airflow_of_a_job_without_cron_is_refused(lakescore: Lakescore, tmp_path: Path) -> None:
    folder = tmp_path / "dags" / "jobs" / "toy"
    folder.mkdir(parents=True)
    (folder / "job.toml").write_text(
        '[model]\nname = "toy"\n[input]\npath = "unscored/ds={ds}/*"\nkey = ["id"]\n[schedule]\ncron = ""\n'
    )
    done = lakescore("backfill", "--airflow", "--job", "toy", "--from", "2026-01-01", "--to", "2026-01-02", expect=2)
    assert "has no cron schedule" in done.stderr
