"""Data Docs: the pages of Great Expectations for each validation, and an index of our own that shows severities.

    quality/docs/index.html                                every validation, newest first, with what failed
    quality/docs/job=<job>/ds=<ds>/<run_id>-<suite>.html   what Great Expectations says
    quality/docs/assets/                                   Bootstrap's style sheet (MIT)

Runs do not share anything but the index, which each makes anew from the history, so that runs at the same time lose
nothing. As Great Expectations writes them, its pages load fifteen scripts and style sheets from elsewhere, and a
picture that counts visitors; here scripts are dropped, and the one style sheet lies beside them. No page makes a
request.
"""

from __future__ import annotations

import html
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import database, queries

if TYPE_CHECKING:
    from pipeline.lake import Lake

log = logging.getLogger(__name__)

ROOT = "quality/docs"
STYLE = "assets/bootstrap.min.css"
MOST = 100
"""Validations on the index."""
POLICY = (
    '<meta http-equiv="Content-Security-Policy" '
    "content=\"default-src 'none'; style-src 'self' file: 'unsafe-inline'; img-src data:\">"
)
OURS = "<style>.collapse{display:block!important}.navbar img{display:none}</style>"
FOREIGN = re.compile(
    r"<script\b.*?</script\s*>|<link\b[^>]*>|<img\b[^>]*\bsrc\s*=\s*[\"']?\s*(?:https?:)?//[^>]*>|<iframe\b.*?</iframe\s*>",
    re.IGNORECASE | re.DOTALL,
)
FOREIGN_STYLE = re.compile(r"url\(\s*[\"']?\s*(?:https?:)?//[^)]*\)", re.IGNORECASE)
COLOURS = {"stopped": "danger", "quarantined": "warning", "noted": "warning", "off": "secondary", "passed": "success"}


def write(lake: Lake, job: str, ds: str, run_id: str, side: str, findings: Sequence[Any]) -> None:
    """Adds the page of one validation, and makes the index anew.

    A page that cannot be rendered is logged, and no reason to stop a run: its results are in the history.
    """
    from pipeline.quality import gx_render

    try:
        page = gx_render.page(f"{job} {ds} {side}", run_id, findings)
    except Exception:  # whatever the renderers raise over an expectation they do not know
        log.exception("no page of the Data Docs for run %s", run_id)
    else:
        lake.storage.write(_page(job, ds, run_id, side), offline(page, depth=2).encode())
    build_index(lake)


def build_index(lake: Lake) -> str:
    """Makes the index anew from the history; returns where it is."""
    style = Path(__file__).parent / STYLE
    if lake.storage.head(f"{ROOT}/{STYLE}") is None:
        lake.storage.write(f"{ROOT}/{STYLE}", style.read_bytes())
    shown: list[str] | None = None
    while shown != (found := _validations(lake)):  # another run may have added one since
        lake.storage.write(f"{ROOT}/index.html", _index(lake, found).encode())
        shown = found
    return lake.storage.where(f"{ROOT}/index.html")


def offline(page: str, depth: int) -> str:
    """Returns a page that loads nothing but the style sheet, `depth` folders above it."""
    head = f'{POLICY}<link rel="stylesheet" href="{"../" * depth}{STYLE}">{OURS}</head>'
    return FOREIGN_STYLE.sub("none", FOREIGN.sub("", page)).replace("</head>", head, 1)


def _validations(lake: Lake) -> list[str]:
    found = [file.path for file in lake.storage.files("quality") if file.path.endswith(".parquet")]
    return sorted(found, key=lambda path: path.rpartition("/")[2], reverse=True)[:MOST]


def _index(lake: Lake, files: Sequence[str]) -> str:
    rows: list[Any] = []
    if files:
        with database.connection() as con:
            lake.storage.attach(con)
            database.parquet(con, [lake.storage.where(path) for path in files]).create_view("quality")
            rows = con.sql(queries.load("quality/index")).fetchall()
    body = "".join(_row(lake, *row) for row in rows)
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Data Docs</title>{POLICY}'
        f'<link rel="stylesheet" href="{STYLE}"></head><body class="container-fluid py-4"><h1>Data Docs</h1>'
        f"<p>The newest {len(rows)} validations. <code>lakescore query quality_trend</code> has the history.</p>"
        '<table class="table table-sm"><thead><tr><th>job</th><th>day</th><th>suite</th><th>run</th><th>passed</th>'
        f"<th>not passed: outcome, severity, check</th></tr></thead><tbody>{body}</tbody></table></body></html>\n"
    )


def _row(  # noqa: PLR0917 - the columns of sql/quality/index.sql
    lake: Lake, job: str, ds: str, side: str, run_id: str, passed: int, total: int, failed: list[dict[str, str]] | None
) -> str:
    page = _page(job, ds, run_id, side)
    run = html.escape(run_id)
    if lake.storage.head(page) is not None:
        run = f'<a href="{html.escape(page.removeprefix(ROOT + "/"))}">{run}</a>'
    marks = "<br>".join(
        f'<span class="badge badge-{COLOURS[check["outcome"]]}">{check["outcome"]}</span> '
        f"{html.escape(check['severity'])} {html.escape(check['name'])}"
        for check in failed or []
    )
    cells = (html.escape(job), html.escape(ds), html.escape(side), run, f"{passed} of {total}", marks)
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _page(job: str, ds: str, run_id: str, side: str) -> str:
    return f"{ROOT}/job={job}/ds={ds}/{run_id}-{side}.html"
