"""The pages of validations: what they say, that no value is markup, filters without a script, and their index."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import LakeDamaged, QualityStop
from pipeline.flow import day as flow
from pipeline.lake.layout import Lake
from pipeline.report import quality_pages
from tests.browsing import visited
from tests.calling import Cli
from tests.quality.test_examine import BETWEEN, rule, suite
from tests.report.test_report import CONTRAST, WIDTHS, Outline
from tests.workspace import DAY, Workspace, changed, table

if TYPE_CHECKING:
    from playwright.sync_api import Browser

HOSTILE = "<img src=x onerror=alert(1)>"
STOPPED_DAY = "2026-01-02"
OUTSIDE = re.compile(r"""(?:src|srcset|data|action)\s*=\s*["']?\s*(?:https?:)?//|url\(\s*["']?(?:https?:)?//|@import""")


def validate_two_days(workspace: Workspace) -> None:
    """A day with a row in quarantine and a warning, and one that is stopped; hostile names and values, shown."""
    with (workspace.job() / "job.toml").open("a") as file:
        file.write("[quality]\nsamples = true\n")
    suite(
        workspace,
        rule(BETWEEN, column="a", min_value=-50, max_value=50, meta={"name": "a_range", "notes": f"size {HOSTILE}"}),
        rule("expect_column_values_to_be_in_set", "warning", column=HOSTILE, value_set=["x"], meta={"name": HOSTILE}),
        rule("expect_table_row_count_to_be_between", min_value=10, meta={"name": "enough"}),
    )
    for ds, count in ((DAY, 20), (STOPPED_DAY, 5)):
        rows = changed(table(count), "a", {0: 99.0})
        workspace.day(rows.append_column(HOSTILE, pa.array(["x"] * (count - 1) + [f"{HOSTILE}y"])), ds)
    flow.run(workspace.context(), DAY)
    with pytest.raises(QualityStop):
        flow.run(workspace.context(), STOPPED_DAY)


@pytest.fixture(scope="module")
def validated(fresh_workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    root = tmp_path_factory.mktemp("validated")
    shutil.copytree(fresh_workspace.root, root, dirs_exist_ok=True)
    workspace = Workspace(root)
    validate_two_days(workspace)
    return workspace


def pages(workspace: Workspace) -> list[Path]:
    return sorted((workspace.lake / "quality" / "docs").rglob("*.html"))


def page(workspace: Workspace, ds: str, of: str = "input") -> Path:
    (found,) = (workspace.lake / "quality" / "docs" / "job=toy" / f"ds={ds}").glob(f"*-{of}.html")
    return found


def plain(text: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<style>.*?</style>|<[^>]+>", " ", text, flags=re.DOTALL))


@pytest.mark.slow
def test_pages_are_well_formed_load_nothing_and_have_no_markup_of_others(validated: Workspace) -> None:
    assert len(pages(validated)) == 4
    for path in pages(validated):
        text = path.read_text()
        outline = Outline(text)
        assert outline.open == []
        assert not OUTSIDE.search(text), path
        assert {"script", "img"}.isdisjoint(outline.tags)
        assert not re.search(r"<[^>]*\son\w+\s*=", text), "an inline handler"
    assert "&lt;img src=x onerror=alert(1)&gt;y" in page(validated, DAY).read_text(), "an example of a value"


def test_links_of_all_pages_lead_somewhere(validated: Workspace) -> None:
    for path in pages(validated):
        links = Outline(path.read_text()).links
        assert len(links) > 1
        for link in links:
            assert (path.parent / link).is_file() or link.startswith("#"), f"{path.name}: {link}"


def test_page_shows_failed_checks_first_with_limits_examples_and_notes(validated: Workspace) -> None:
    text = plain(page(validated, DAY).read_text())
    assert "quarantined critical a_range" in text
    assert "size &lt;img" in text
    assert re.search(r"between -50 and 50 1 row \(5\.00%\) for example 99\.0", text)
    assert text.index("a_range") < text.index("key_not_null")
    assert "2 of 16 checks found something; none stops the run." in text


def test_page_of_a_stopped_day_says_first_what_stopped_it(validated: Workspace) -> None:
    text = plain(page(validated, STOPPED_DAY).read_text())
    said = "Nothing was scored: 1 critical check fails. enough: 5 (expected: at least 10 rows)"
    assert said in text
    assert text.index(said) < text.index("a_range")
    assert 'aria-label="2026-01-01: passed"' in page(validated, STOPPED_DAY).read_text(), (
        "the outcome of the day before"
    )


@pytest.mark.slow
def test_page_without_samples_has_no_value_of_a_row(workspace: Workspace) -> None:
    suite(workspace, rule("expect_column_values_to_match_regex", column="id", regex="^u", meta={"name": "form"}))
    workspace.day(changed(table(20), "id", {0: "private-person"}))
    flow.run(workspace.context(), DAY)
    files = [*pages(workspace), *(workspace.lake / "quality").rglob("*.parquet")]
    assert len(files) == 5
    assert [path for path in files if b"private-person" in path.read_bytes()] == []


def test_index_lists_each_validation_with_what_failed(validated: Workspace) -> None:
    text = plain((validated.lake / quality_pages.INDEX).read_text())
    assert re.search(r"stopped 2026-01-02 toy input 13 of 16 .*? stopped enough", text)
    assert re.search(r"warnings 2026-01-01 toy input 14 of 16 .*? quarantined a_range", text)


def test_docs_replaces_pages_of_great_expectations_and_makes_missing_ones(validated: Workspace, cli: Cli) -> None:
    missing, old = page(validated, DAY, "output"), page(validated, DAY)
    missing.unlink()
    old.write_text("<html><head></head><body>made by Great Expectations</body></html>")
    printed = cli("docs", "--lake", str(validated.lake)).stdout.strip()
    assert Path(printed) == validated.lake / quality_pages.INDEX
    assert missing.is_file()
    assert "a_range" in old.read_text()


@pytest.mark.slow
def test_history_without_limits_in_words_is_shown(workspace: Workspace) -> None:
    workspace.day(20)
    flow.run(workspace.context(), DAY)
    (path,) = (workspace.lake / "quality").rglob("*-input.parquet")
    stored = pq.read_table(path, partitioning=None)
    pq.write_table(stored.drop_columns(["expected", "description", "examples"]), path)  # as older versions wrote it
    page(workspace, DAY).unlink()
    quality_pages.write_missing(Lake.open(str(workspace.lake)))
    assert "row_count" in page(workspace, DAY).read_text()


def test_damaged_history_is_named(workspace: Workspace) -> None:
    workspace.day(20)
    flow.run(workspace.context(), DAY)
    (path,) = (workspace.lake / "quality").rglob("*-input.parquet")
    path.write_bytes(path.read_bytes()[:100])
    run_id = path.name.removesuffix("-input.parquet")
    with pytest.raises(LakeDamaged, match=path.name):
        quality_pages.write(Lake.open(str(workspace.lake)), "toy", DAY, run_id)


def test_validate_writes_its_page(workspace: Workspace, cli: Cli) -> None:
    workspace.day(20)
    cli("validate", "--job", "toy", "--date", DAY)
    assert {path.name for path in pages(workspace)} == {page(workspace, DAY).name, "index.html"}
    for path in pages(workspace):
        for link in Outline(path.read_text()).links:
            assert (path.parent / link).is_file() or link.startswith("#"), link


@pytest.mark.slow
def test_index_of_runs_at_the_same_time_lists_all(workspace: Workspace) -> None:
    workspace.day(20)
    flow.run(workspace.context(), DAY)
    lake = Lake.open(str(workspace.lake))
    rows = pq.read_table(next((workspace.lake / "quality").glob("job=*/ds=*/*-input.parquet")), partitioning=None)

    def another(number: int) -> None:
        own = pa.array([f"run{number:03d}"] * rows.num_rows)
        content = pa.BufferOutputStream()
        pq.write_table(rows.set_column(rows.schema.get_field_index("run_id"), "run_id", own), content)
        lake.storage.write(f"quality/job=toy/ds={DAY}/run{number:03d}-input.parquet", content.getvalue().to_pybytes())
        quality_pages.write(lake, "toy", DAY, f"run{number:03d}")
        quality_pages.write_index(lake)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(another, range(20)))
    index = (workspace.lake / quality_pages.INDEX).read_text()
    assert [number for number in range(20) if f"run{number:03d}" not in index] == []


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("size", WIDTHS, ids=["desktop", "phone"])
def test_browser_pages_make_no_request_can_be_read_and_fit(
    validated: Workspace, browser: Browser, size: tuple[int, int], mode: str
) -> None:
    for path in pages(validated):
        shape = {"width": size[0], "height": size[1]}
        with visited(browser, path.as_uri(), viewport=shape, color_scheme=mode) as visit:
            assert visit.errors == []
            assert [request for request in visit.requests if not request.startswith("data:")] == [visit.page.url]
            assert visit.page.evaluate("document.documentElement.scrollWidth") <= size[0]
            assert visit.page.evaluate(CONTRAST) == []


def shown(browser: Browser, path: Path, *keys: str) -> Iterator[list[str]]:
    """Yields the first words of the rows that can be seen, at first and after each label is chosen."""
    with visited(browser, path.as_uri(), java_script_enabled=False) as visit:
        rows = visit.locator("table.checks tbody tr")
        for key in ("", *keys):
            if key:
                visit.page.get_by_label(key, exact=False).first.check(force=True)
            yield [row.inner_text().split()[1] for row in rows.all() if row.is_visible()]


@pytest.mark.slow
def test_browser_filters_work_without_a_script(validated: Workspace, browser: Browser) -> None:
    everything, stopped, passed = shown(browser, page(validated, STOPPED_DAY), "stopped 1", "passed 13")
    assert everything[:2] == ["stopped", "quarantined"]
    assert stopped == ["stopped"]
    assert set(passed) == {"passed"}
    assert len(passed) == 13
    _, warnings = shown(browser, validated.lake / quality_pages.INDEX, "warnings")
    assert set(warnings) == {"warnings"}
