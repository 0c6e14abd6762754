"""S3 for tests: a moto server of our own on loopback, and the environment in which a client finds it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import boto3

BUCKET = "lakescore-test"
SECRET = "not-so-secret-key-of-tests"


@dataclass(frozen=True)
class S3Server:
    url: str

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def make_bucket(self) -> None:
        client = boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id="testing",
            aws_secret_access_key=SECRET,
        )
        client.create_bucket(Bucket=BUCKET)


@contextmanager
def serve() -> Iterator[S3Server]:
    """Runs the server in a thread of this process, with an empty bucket.

    One request at a time: moto looks for an existing object and puts the new one without a lock between, so that two
    create-only puts could both succeed, which S3 itself rules out.
    """
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app, turn = DomainDispatcherApplication(create_backend_app), threading.Lock()

    def serial(environ: Any, start_response: Any) -> Any:
        with turn:
            return app(environ, start_response)

    server = make_server("127.0.0.1", 0, serial, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    found = S3Server(f"http://127.0.0.1:{server.server_port}")
    found.make_bucket()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
