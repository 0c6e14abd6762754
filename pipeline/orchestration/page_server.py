"""A web server for the lake's pages on loopback, so that Airflow on this machine can link to them.

It serves the pages of `reports/` and `quality/docs/` and nothing else of the lake, from a disk or an object store.
"""

from __future__ import annotations

import posixpath
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from pipeline.errors import LakescoreError
from pipeline.report import facts, quality_pages

if TYPE_CHECKING:
    from pipeline.lake.layout import Lake

SERVED = (f"{facts.ROOT}/", f"{quality_pages.ROOT}/")


@contextmanager
def serve(lake: Lake) -> Iterator[str]:
    """Serves the pages of a lake while the block is active; yields the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.headers.get("Host") not in hosts:  # another site's name that resolves to this machine
                self.send_error(HTTPStatus.FORBIDDEN, explain="Pages are served under 127.0.0.1 alone.")
                return
            key = key_of(self.path)
            try:
                page = lake.storage.read(key) if key else None
            except LakescoreError as error:
                self.send_error(HTTPStatus.BAD_GATEWAY, explain=str(error))
                return
            if page is None:
                self.send_error(HTTPStatus.NOT_FOUND, explain="No page of this lake lies there.")
                return
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(page)))
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the standard library
            """Writes no line per request."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hosts = (f"127.0.0.1:{server.server_port}", f"localhost:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, name="pages", daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def key_of(target: str) -> str | None:
    """Returns the key of the page that a request asks for; None for anything that is no page of a lake."""
    key = unquote(urlsplit(target).path).lstrip("/") or facts.INDEX
    whole = posixpath.normpath(key) == key and "\\" not in key and "\0" not in key
    return key if whole and key.startswith(SERVED) and key.endswith(".html") else None
