"""The pages: their content, escaping of every value, no requests to anywhere, and no run that fails because of them."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest

from pipeline.errors import QualityStop
from pipeline.flow import day as flow
from pipeline.lake import skips
from pipeline.lake.layout import Lake, Partition
from pipeline.lake.record_store import RecordStore
from pipeline.records import CheckResult, RunRecord, Severity, State, Statistics
from pipeline.report import facts, pages, plots, rendering, run_page, stage
from pipeline.report.quality_pages import ROOT as DOCS
from tests import lakes
from tests.browsing import visited
from tests.workspace import DAY, Workspace, changed, table

if TYPE_CHECKING:
    from playwright.sync_api import Browser

DAYS = [f"2026-01-{day:02d}" for day in range(1, 8)]
HOSTILE = "<script>alert(1)</script>\"'&$x_1$ ü"
WIDTHS = [(1280, 900), (375, 800)]


class Outline(HTMLParser):
    """Collects tags, ids and links of a page, and the tags that are still open at its end."""

    VOID = ("meta", "link", "br", "img", "input", "hr", "path", "use", "rect")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = dict(attrs)
        self.ids += [found["id"] or ""] if "id" in found else []
        self.links += [found["href"] or ""] if tag == "a" and "href" in found else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """A week of two jobs, with a day without a run, a failed day, and names that attempt script injection."""
    lake = lakes.open_lake(tmp_path / "lake")
    for number, ds in enumerate(DAYS):
        if number == 2:
            lakes.add_input(lake, ds, lakes.input_rows(["a"]))
            continue
        if number == 4:
            lakes.add_run(lake, Partition("churn", ds, "v1"), state=State.failed)
            continue
        record = lakes.add_day(lake, ds, [f"u{each}" for each in range(20 + number)])
        lakes.put_record(lake, _enriched(record, number))
    lakes.add_day(lake, DAYS[0], ["x"], job="fraud")
    return lake


def _enriched(record: RunRecord, number: int) -> RunRecord:
    check = CheckResult(
        suite="input", name=f"age_{HOSTILE}", expectation="x", severity=Severity.warning, success=False, outcome="noted"
    )
    classes = {HOSTILE: 5 + number, "other": 15}
    return record.with_(
        checks=(check,),
        statistics=Statistics(classes=classes, reasons={"new": 20}, mean_confidence=0.75),
        job_config={"input": {"path": lakes.PATTERN}},
        warnings=(HOSTILE,),
        error=HOSTILE,
        host=HOSTILE,
    )


def index_of(lake: Lake) -> str:
    return (lake.storage.read(pages.write_index(lake)) or b"").decode()


def page_of(lake: Lake, record: RunRecord) -> str:
    return (lake.storage.read(pages.write_run(lake, record)) or b"").decode()


def newest(lake: Lake, ds: str = DAYS[0]) -> RunRecord:
    return next(lake.records.iter_day("churn", ds))


# Content


def test_index_shows_each_day_of_the_calendar_with_its_state(lake: Lake) -> None:
    days = {day.ds: day.state for day in facts.job_facts(lake, "churn").days}
    expected = dict.fromkeys(DAYS, "complete") | {DAYS[2]: "missing", DAYS[4]: "failed"}
    assert days == expected
    text = index_of(lake)
    for ds, state in expected.items():
        assert f'title="{ds}: {state}"' in text


def test_index_shows_days_that_were_skipped(lake: Lake) -> None:
    later = "2026-03-31"
    skips.mark(lake, "churn", later, f"there is no input for {later}", {"unscored": ()})
    days = {day.ds: day.state for day in facts.job_facts(lake, "churn").days}
    assert days[later] == "skipped"
    assert f'title="{later}: skipped"' in index_of(lake)


def test_index_has_all_jobs_and_links_that_lead_somewhere(lake: Lake) -> None:
    for ds in DAYS:
        for job in ("churn", "fraud"):
            for record in lake.records.iter_day(job, ds):
                pages.write_run(lake, record)
    outline = Outline(index_of(lake))
    local = [link for link in outline.links if not link.startswith("#")]
    assert len(local) > 10
    root = lake.workspace.path("reports")
    for link in local:
        assert (root / link).is_file(), link
    assert {link[1:] for link in outline.links if link.startswith("#")} <= set(outline.ids)


def test_index_plots_have_their_numbers_in_a_table(lake: Lake) -> None:
    for plot in plots.of_job(facts.job_facts(lake, "churn")):
        root = ET.fromstring(str(plot.svg))
        assert root.attrib["role"] == "img"
        assert root.attrib["aria-label"] == plot.about
        assert len(plot.rows) == 5
        assert all(len(row) == len(plot.columns) for row in plot.rows)


def test_index_class_shares_and_rows_are_those_of_the_records(lake: Lake) -> None:
    by_title = {plot.title: plot for plot in plots.of_job(facts.job_facts(lake, "churn"))}
    shares = {row[0]: row[1:] for row in by_title["Class shares"].rows}
    assert shares[DAYS[5]] == pytest.approx((10 / 25, 15 / 25))
    assert [row[1] for row in by_title["Rows per day"].rows] == [20, 21, 23, 25, 26]


def test_index_of_a_window_says_what_it_leaves_out(lake: Lake) -> None:
    found = facts.job_facts(lake, "churn", 2)
    assert [day.ds for day in found.days] == DAYS[-2:]
    assert found.earlier == 4
    assert "4 earlier days" in pages.index_page(lake, [found])


def test_index_of_an_empty_lake_is_a_page(tmp_path: Path) -> None:
    assert "No job has run here yet" in index_of(lakes.open_lake(tmp_path / "lake"))


def test_index_reads_no_day_outside_its_window(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    real = RecordStore.iter_day

    def noting(self: RecordStore, job: str, ds: str) -> Any:
        asked.append(ds)
        return real(self, job, ds)

    monkeypatch.setattr(RecordStore, "iter_day", noting)
    facts.job_facts(lake, "churn", 3)
    assert set(asked) == {DAYS[4], DAYS[5], DAYS[6]}


@pytest.mark.slow
def test_index_is_rewritten_if_a_run_ends_while_it_is_made(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    real = pages.index_page
    late = iter([1])

    def page(*arguments: Any) -> str:
        if next(late, None):
            lakes.add_day(lake, "2026-01-08", ["a"])
        return real(*arguments)

    monkeypatch.setattr(pages, "index_page", page)
    assert "2026-01-08: complete" in index_of(lake)


def test_run_page_shows_ledger_checks_stages_and_files(workspace: Workspace) -> None:
    workspace.day(changed(table(50), "a", {3: None, 4: None}))
    record = workspace.complete()
    text = (workspace.lake / facts.page_of(record)).read_text()
    plain = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text))
    assert "50 candidates = 48 scored + 0 unchanged + 2 quarantined + 0 duplicates + 0 overtaken" in plain
    assert "balanced" in plain
    assert "null:a 2" in plain
    assert record.committed[0].path in plain
    assert all(stage.stage in plain for stage in record.stages)
    sizes = [rendering.size(stage.bytes_read) for stage in record.stages if stage.bytes_read is not None]
    assert sizes
    assert all(str(each) in plain for each in sizes)
    assert "The model ran on cpu in float32: 8,192 rows per batch, 2 workers (default)" in plain
    assert all(check.name in plain for check in record.checks)


def test_run_page_of_a_stopped_run_says_why(workspace: Workspace) -> None:
    folder = workspace.job()
    text = (folder / "job.toml").read_text().replace("max_quarantined = 1.0", "max_quarantined = 0.01")
    (folder / "job.toml").write_text(text)
    workspace.day(changed(table(50), "a", dict.fromkeys(range(10))))
    with pytest.raises(QualityStop):
        workspace.run()
    (record,) = workspace.context().lake.records.of_day("toy", DAY)
    text = (workspace.lake / facts.page_of(record)).read_text()
    assert "stopped" in text
    assert "10 of 50 rows" in text


def test_run_page_links_to_existing_data_docs(lake: Lake) -> None:
    record = newest(lake)
    assert DOCS not in page_of(lake, record)
    path = f"{DOCS}/job=churn/ds={record.ds}/{record.run_id}-input.html"
    lake.storage.write(path, b"<p>")
    links = Outline(page_of(lake, record)).links
    found = lake.workspace.path(facts.page_of(record)).parent / next(link for link in links if DOCS in link)
    assert found.resolve() == lake.workspace.path(path).resolve()


# Escaping


@pytest.mark.parametrize("kind", ["index", "run"])
def test_page_escapes_every_value_and_is_well_formed(lake: Lake, kind: str) -> None:
    text = index_of(lake) if kind == "index" else page_of(lake, newest(lake))
    outline = Outline(text)
    assert outline.open == []
    assert "script" not in outline.tags
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert len(outline.ids) == len(set(outline.ids))


def test_template_with_a_missing_value_raises() -> None:
    from jinja2 import UndefinedError

    with pytest.raises(UndefinedError):
        rendering.render("run.html")


# The stage


def test_report_that_fails_is_a_warning_and_fails_no_run(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> str:
        raise ZeroDivisionError("of a template")

    monkeypatch.setattr(run_page, "run_page", broken)
    workspace.day(10)
    record = workspace.complete()
    assert record.state is State.complete
    stored = workspace.context().lake.records.read("toy", DAY, record.run_id)
    assert stored.warnings == record.warnings == ("no page: ZeroDivisionError: of a template",)


@pytest.mark.slow
def test_run_makes_page_and_index_but_nothing_if_all_is_up_to_date(workspace: Workspace) -> None:
    workspace.day(10)
    ctx = workspace.context()
    flow.run(ctx, DAY)
    index = workspace.lake / facts.INDEX
    before = index.stat().st_mtime_ns
    assert len(list((workspace.lake / "reports").rglob("*.html"))) == 2
    flow.run(ctx, DAY)
    assert index.stat().st_mtime_ns == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("quality", "said"),
    [("", "All checks of all days in this window passed."), ("[quality]\nenabled = false\n", "were not validated")],
)
def test_index_without_validation_does_not_claim_that_checks_passed(
    workspace: Workspace, quality: str, said: str
) -> None:
    with (workspace.job() / "job.toml").open("a") as file:
        file.write(quality)
    workspace.day(200)
    flow.run(workspace.context(), DAY)
    assert said in (workspace.lake / facts.INDEX).read_text()


@pytest.mark.slow
def test_backfill_makes_the_index_once(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    monkeypatch.setattr(stage, "index", made.append)
    for ds in DAYS[:3]:
        workspace.day(5, ds)
    list(flow.backfill(workspace.context(), DAYS[:3]))
    assert len(made) == 1


# In a browser


@pytest.fixture
def site(lake: Lake) -> list[Path]:
    """The index and the page of one run."""
    record = newest(lake)
    return [lake.workspace.path(pages.write_index(lake)), lake.workspace.path(pages.write_run(lake, record))]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("size", WIDTHS, ids=["desktop", "phone"])
def test_browser_page_makes_no_other_request_raises_nothing_and_fits(
    site: list[Path], browser: Browser, size: tuple[int, int], mode: str
) -> None:
    for path in site:
        shape = {"width": size[0], "height": size[1]}
        with visited(browser, path.as_uri(), viewport=shape, color_scheme=mode) as visit:
            assert visit.errors == []
            assert [request for request in visit.requests if not request.startswith("data:")] == [visit.page.url]
            assert visit.page.evaluate("document.documentElement.scrollWidth") <= size[0]
            assert visit.page.evaluate(CONTRAST) == []
            background = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert background == ("rgb(255, 255, 255)" if mode == "light" else "rgb(13, 17, 23)")


@pytest.mark.slow
def test_browser_text_of_plots_can_be_read_on_a_phone(site: list[Path], browser: Browser) -> None:
    with visited(browser, site[0].as_uri(), viewport={"width": 375, "height": 800}) as visit:
        heights = visit.page.evaluate(
            "[...document.querySelectorAll('svg text')].map(t => t.getBoundingClientRect().height)"
        )
        assert len(heights) > 20
        assert min(heights) >= 9


@pytest.mark.slow
def test_browser_plots_have_names_and_tables_have_headings(site: list[Path], browser: Browser) -> None:
    for path in site:
        with visited(browser, path.as_uri()) as visit:
            unnamed = (
                "[...document.querySelectorAll('svg, [role=img]')].filter(e => !e.getAttribute('aria-label')).length"
            )
            assert visit.page.evaluate(unnamed) == 0
            bare = "[...document.querySelectorAll('table')].filter(t => !t.querySelector('th[scope]')).length"
            assert visit.page.evaluate(bare) == 0
            assert visit.page.evaluate("document.documentElement.lang") == "en"
            assert visit.locator("h1").count() == 1


CONTRAST = """
() => {
  const parse = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => {
    const part = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const behind = e => {
    for (; e; e = e.parentElement) {
      const found = parse(getComputedStyle(e).backgroundColor);
      if (found.length === 3 || found[3] > 0) return found;
    }
    return [255, 255, 255];
  };
  const bad = [];
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.getClientRects().length || e.matches('.skip')) continue;
    const style = getComputedStyle(e);
    const colour = parse(e.namespaceURI.endsWith('svg') ? style.fill : style.color);
    const [a, b] = [light(colour), light(behind(e))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) bad.push(`${e.tagName} ${e.textContent.trim().slice(0, 20)} ${ratio}`);
  }
  return bad;
}
"""
"""Returns the elements whose text has a contrast below 4.5 to 1 against its background (WCAG AA)."""
