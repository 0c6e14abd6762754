"""A lake with one of each trouble, in a browser: one look answers what, why, since when, who, and what to type."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pytest

from pipeline.records import now
from pipeline.report.attention import WORDS
from tests.browsing import visited
from tests.report import troubles
from tests.report.test_report import CONTRAST
from tests.workspace import Workspace

if TYPE_CHECKING:
    from playwright.sync_api import Browser


CUT_OFF = """
() => [...document.querySelectorAll('.scroll, figure')]
  .filter(e => !e.closest('details') && e.scrollWidth > e.clientWidth + 1)
  .map(e => e.getAttribute('aria-label') || e.textContent)
"""
"""Returns the tables and figures that are wider than their place."""


@pytest.fixture(scope="module")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    root = tmp_path_factory.mktemp("troubles")
    yield troubles.make(root, now().date())
    shutil.rmtree(root)


def newest(made: Workspace, job: str) -> Path:
    return max((made.lake / "reports" / f"job={job}").rglob("*.html"))


@pytest.mark.slow
def test_browser_one_look_at_the_index_answers_the_questions_of_the_one_on_call(
    troubled: Workspace, browser: Browser
) -> None:
    index = troubled.lake / "reports" / "index.html"
    with visited(browser, index.as_uri(), viewport={"width": 390, "height": 800}, color_scheme="dark") as visit:
        assert visit.errors == []
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= 390
        assert visit.page.evaluate(CONTRAST) == []
        assert "10 findings in 9 jobs, the worst first" in visit.page.inner_text("section.wrong")
        rows = [row.inner_text() for row in visit.locator("table.attention tbody tr").all()]
        assert {row.split()[0] for row in rows} == set(WORDS)
        for row in rows:
            assert "-team" in row
            assert "lakescore " in row
        (stopped,) = [row for row in rows if row.startswith("stopped")]
        assert "a_within_50: 3 rows (0.75%) (expected of a: at most 50), in validate_input" in stopped
        assert "fine" not in visit.locator("table.attention").inner_text()
        assert visit.page.evaluate(CUT_OFF) == []


@pytest.mark.slow
def test_browser_page_of_a_stopped_run_says_where_it_ended_and_shows_what_broke_the_rule(
    troubled: Workspace, browser: Browser
) -> None:
    with visited(browser, newest(troubled, "stopped").as_uri(), viewport={"width": 390, "height": 800}) as visit:
        text = visit.locator("main").inner_text()
        assert "Nothing was published: the run was stopped in validate_input." in text
        assert "99.0, 120.5, 75.0" in text
        assert " 0 MB" not in text
        assert "Previous run" in visit.locator("nav").inner_text()
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= 390
        assert visit.page.evaluate(CONTRAST) == []
        assert visit.page.evaluate(CUT_OFF) == []


@pytest.mark.slow
def test_browser_cell_of_drift_leads_to_the_distribution_of_its_column(troubled: Workspace, browser: Browser) -> None:
    """With the shares that plain SQL finds in the input."""
    index = troubled.lake / "reports" / "index.html"
    with visited(browser, index.as_uri(), viewport={"width": 1280, "height": 900}) as visit:
        figure = visit.locator("figure:has-text('Drift against the training data')").first
        cells = figure.locator("svg a")
        cells.nth(cells.count() - 4).click()  # the first of four columns, on the last day
        figure = visit.locator("figure:target")
        assert figure.locator("figcaption").inner_text().split()[0] == "a"
        assert visit.page.evaluate(CUT_OFF) == []
        figure.locator("summary").click()
        last = figure.locator("details tbody tr").last.locator("td").all_inner_texts()
    edge = float(last[0].removesuffix(" and above"))
    (path,) = (troubled.lake / "unscored" / "drifted").glob(f"ds={newest(troubled, 'drifted').parent.name[3:]}/*")
    query = "SELECT avg((a >= $edge)::INT) FROM read_parquet($path)"
    with duckdb.connect() as con:
        ((share,),) = con.sql(query, params={"edge": edge, "path": str(path)}).fetchall()
    assert float(last[1].removesuffix("%")) == pytest.approx(100 * share, abs=0.5)  # the edge is written with 3 digits
