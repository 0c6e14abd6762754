"""A real Redis server for tests: on a free port of loopback, without a configuration file, ended by its process."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis


@dataclass
class RedisServer:
    folder: Path
    port: int
    options: tuple[str, ...] = ()
    url: str = ""
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.url = self.url or f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> Any:
        return redis.Redis.from_url(self.url, socket_timeout=20, decode_responses=True)

    def start(self) -> None:
        """Starts the server, and returns once it answers."""
        program = shutil.which("redis-server")
        assert program is not None, "redis-server is missing: apt-get install redis-server"
        plain = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", ""]
        with (self.folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen([program, *plain, *self.options], stdout=log, stderr=log)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            assert self.process.poll() is None, (self.folder / "redis.log").read_text()
            try:
                with self.client() as client:
                    if client.ping():
                        return
            except redis.ConnectionError:
                time.sleep(0.02)
            except redis.AuthenticationError:
                return
        raise AssertionError((self.folder / "redis.log").read_text())

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def serve(*options: str, port: int | None = None, url: str = "") -> Iterator[RedisServer]:
    """Runs a server with these options; `url` is how clients reach it, by default in the clear."""
    with tempfile.TemporaryDirectory(prefix="lakescore-redis-") as folder:
        server = RedisServer(Path(folder), port or free_port(), options, url)
        try:
            server.start()
            yield server
        finally:
            server.stop()
