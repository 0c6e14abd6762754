"""The Data Docs work without a network, and survive runs at the same time."""

from __future__ import annotations

import http.server
import re
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.lake import Lake
from pipeline.quality import pages
from tests.conftest import ON_CI
from tests.quality.test_input import BETWEEN, rule, suite
from tests.workspace import DAY, Workspace, changed, table

EXTERNAL = re.compile(
    r"""(?:src|srcset|data|action)\s*=\s*["']?\s*(?:https?:)?//|url\(\s*["']?(?:https?:)?//|@import"""
)


@pytest.fixture
def documented(workspace: Workspace) -> Workspace:
    suite(
        workspace,
        rule(BETWEEN, column="a", max_value=50, meta={"name": "a_range"}),
        rule("expect_column_values_to_be_finite", column="b", meta={"name": "b_finite"}),
        rule("expect_rows_to_be_distinct", "warning", column_list=["a"], meta={"name": "a_once"}),
    )
    workspace.day(changed(table(20), "id", {0: "private-person"}))
    workspace.run()
    workspace.day(changed(changed(table(20), "a", {0: 99.0}), "id", {0: "private-person"}))
    workspace.run()
    return workspace


def test_pages_refer_to_nothing_elsewhere_and_hold_no_value_of_a_row(documented: Workspace) -> None:
    found = sorted((documented.lake / "quality" / "docs").rglob("*.html"))
    assert len(found) == 3
    for path in found:
        text = path.read_text()
        assert not EXTERNAL.search(text), path
        assert "<script" not in text
        assert "private-person" not in text
    index = documented.lake / "quality" / "docs" / "index.html"
    assert re.search(r"quarantined</span> critical a_range", index.read_text())
    for link in re.findall(r'href="([^"]+)"', index.read_text()):
        assert (index.parent / link).is_file(), link


def test_index_of_runs_at_the_same_time_lists_all(documented: Workspace) -> None:
    lake = Lake.open(str(documented.lake))
    rows = pq.read_table(next((documented.lake / "quality").glob("job=*/ds=*/*-input.parquet")), partitioning=None)

    def another(number: int) -> None:
        own = pa.array([f"run{number:03d}"] * rows.num_rows)
        content = pa.BufferOutputStream()
        pq.write_table(rows.set_column(rows.schema.get_field_index("run_id"), "run_id", own), content)
        lake.storage.write(f"quality/job=toy/ds={DAY}/run{number:03d}-input.parquet", content.getvalue().to_pybytes())
        pages.build_index(lake)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(another, range(20)))
    index = (documented.lake / "quality" / "docs" / "index.html").read_text()
    assert [number for number in range(20) if f"run{number:03d}" not in index] == []


class _Recorded(http.server.SimpleHTTPRequestHandler):
    paths: list[str] = []

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        self.paths.append(self.path)
        super().do_GET()


def test_browser_makes_no_request_but_for_the_page_and_its_style(documented: Workspace, tmp_path: Path) -> None:
    """Chromium writes all that its network stack does into a log."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        if ON_CI:
            pytest.fail("no chromium: apt-get install chromium")
        pytest.skip("no chromium")
    root = documented.lake / "quality" / "docs"
    handler = partial(_Recorded, directory=str(root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        page = next(root.rglob("*-input.html")).relative_to(root)
        hosts: set[str] = set()
        for number, path in enumerate(("index.html", page.as_posix())):
            log = tmp_path / f"net{number}.json"
            options = [
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-background-networking",
                "--no-first-run",
            ]
            options += ["--disable-component-update", "--disable-sync", "--disable-default-apps", "--dump-dom"]
            command = [chromium, *options, f"--user-data-dir={tmp_path / 'profile'}", f"--log-net-log={log}"]
            done = subprocess.run(
                [*command, f"{address}/{path}"], capture_output=True, text=True, timeout=120, check=True
            )
            assert "table" in done.stdout
            found = re.findall(r'"url":"(https?://[^"/]+)', log.read_text())
            hosts |= {url for url in found if "127.0.0.1" not in url}
        server.shutdown()
    ours = {f"/{pages.STYLE}", "/index.html", f"/{page.as_posix()}", "/favicon.ico"}
    assert set(_Recorded.paths) <= ours
    assert f"/{pages.STYLE}" in _Recorded.paths
    assert hosts == set()
