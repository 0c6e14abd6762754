"""The web server for the pages of a lake: it shows pages, and nothing else of the lake."""

from __future__ import annotations

import urllib.error
import urllib.request
import uuid

import pytest

from pipeline.lake.layout import Lake
from pipeline.orchestration.page_server import serve
from tests.s3 import BUCKET
from tests.workspace import Workspace

PAGES = (
    "reports/index.html",
    "reports/job=toy/ds=2026-01-01/20260101T000000000Z-00000000.html",
    "quality/docs/index.html",
)


def ask(url: str, **headers: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


@pytest.mark.parametrize("place", ["disk", pytest.param("bucket", marks=pytest.mark.slow)])
def test_pages_are_served_and_nothing_else(workspace: Workspace, place: str, request: pytest.FixtureRequest) -> None:
    if place == "bucket":
        request.getfixturevalue("s3")
    lake = Lake.open(str(workspace.lake) if place == "disk" else f"s3://{BUCKET}/{uuid.uuid4().hex}/lake")
    for key in (*PAGES, "runs/job=toy/secret.html", "reports/secret.json", "quality/secret.html"):
        lake.storage.write(key, f"<p>{key}".encode())
    with serve(lake) as address:
        for key in PAGES:
            assert ask(f"{address}/{key}") == (200, f"<p>{key}".encode())
            assert ask(f"{address}/{key.replace('=', '%3D')}?from=airflow") == (200, f"<p>{key}".encode())
        assert ask(address) == (200, b"<p>reports/index.html")
        for path in (
            "runs/job=toy/secret.html",
            "reports/../runs/job=toy/secret.html",
            "reports/%2e%2e/runs/job%3Dtoy/secret.html",
            "reports/secret.json",
            "reports//index.html",
            "quality/docs/../secret.html",
            "reports/missing.html",
            "reports",
        ):
            code, text = ask(f"{address}/{path}")
            assert (code, b"secret" in text) == (404, False), path
        assert ask(f"{address}/{PAGES[0]}", Host="rebound.example.org")[0] == 403


def test_page_that_cannot_be_read_is_an_error_of_the_server(workspace: Workspace) -> None:
    (workspace.lake / "reports").mkdir(parents=True)
    (workspace.lake / "reports" / "index.html").symlink_to("index.html")
    with serve(Lake.open(str(workspace.lake))) as address:
        assert ask(address)[0] == 502
