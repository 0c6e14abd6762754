"""Pages in a headless Chromium, as people see them: what they load, and what their scripts complain of."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page


@dataclass
class Visit:
    page: Page
    requests: list[str] = field(default_factory=list)
    """The address of each request, the page's own first."""
    errors: list[str] = field(default_factory=list)
    """What the console was told, and what a script raised."""

    def locator(self, selector: str) -> Locator:
        return self.page.locator(selector)


@contextmanager
def chromium() -> Iterator[Browser]:
    """The machine's own Chromium. Skips where there is none, but fails on CI."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no chromium (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield started
        started.close()


@contextmanager
def visited(browser: Browser, address: str, **context: Any) -> Iterator[Visit]:
    """Opens a page; `context` are Playwright's options, such as `viewport` and `color_scheme`."""
    with browser.new_context(**context) as fresh:
        page = fresh.new_page()
        visit = Visit(page)
        page.on("request", lambda request: visit.requests.append(request.url))
        page.on("console", lambda message: visit.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: visit.errors.append(str(error)))
        page.goto(address)
        page.wait_for_load_state("networkidle")
        yield visit
