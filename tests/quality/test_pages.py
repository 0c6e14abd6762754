"""The Data Docs work without a network, and survive runs at the same time."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.lake import Lake
from pipeline.quality import pages
from tests.browsing import visited
from tests.quality.test_input import BETWEEN, rule, suite
from tests.workspace import DAY, Workspace, changed, table

if TYPE_CHECKING:
    from playwright.sync_api import Browser

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


@pytest.mark.parametrize("scheme", ["file", "http"])
def test_browser_makes_no_request_but_for_the_page_and_its_style(
    documented: Workspace, browser: Browser, scheme: str
) -> None:
    root = documented.lake / "quality" / "docs"
    report = next(root.rglob("*-input.html")).relative_to(root).as_posix()
    with served(root) if scheme == "http" else nullcontext(root.as_uri()) as address:
        for path in ("index.html", report):
            with visited(browser, f"{address}/{path}") as page:
                assert page.locator("table").count() > 0
                assert page.errors == []
            assert set(page.requests) == {f"{address}/{path}", f"{address}/{pages.STYLE}"}


@contextmanager
def served(root: Path) -> Iterator[str]:
    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(root))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
