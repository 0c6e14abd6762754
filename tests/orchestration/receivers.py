"""Receivers of test messages: a mail server and a web server on loopback."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.header import decode_header, make_header
from email.message import Message
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from aiosmtpd.controller import Controller

from tests.orchestration.airflow_project import free_port


@dataclass
class Inbox:
    port: int
    messages: list[Message] = field(default_factory=list)

    async def handle_DATA(self, _server: object, _session: object, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's
        self.messages.append(message_from_bytes(envelope.content))
        return "250 OK"

    @property
    def connection(self) -> str:
        """Airflow's connection to the server."""
        extra = {"disable_ssl": True, "disable_tls": True, "from_email": "lakescore@example.org"}
        return json.dumps({"conn_type": "smtp", "host": "127.0.0.1", "port": self.port, "extra": extra})

    def about(self, words: str) -> list[str]:
        """Returns the texts of the messages whose subject contains `words`."""
        found = [each for each in self.messages if words in str(make_header(decode_header(each["Subject"])))]
        return ["".join(_texts(each)) for each in found]


def _texts(message: Message) -> Iterator[str]:
    for part in message.walk():
        if isinstance(content := part.get_payload(decode=True), bytes):
            yield content.decode()


@contextmanager
def mail_server() -> Iterator[Inbox]:
    inbox = Inbox(free_port())
    controller = Controller(inbox, hostname="127.0.0.1", port=inbox.port)
    controller.start()
    try:
        yield inbox
    finally:
        controller.stop()


@dataclass
class Hook:
    """A web server that keeps the JSON documents posted to it."""

    url: str
    received: list[dict[str, Any]] = field(default_factory=list)


@contextmanager
def web_hook() -> Iterator[Hook]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            hook.received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            """Suppresses the log on stderr."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    hook = Hook(f"json://127.0.0.1:{server.server_port}/")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hook
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
