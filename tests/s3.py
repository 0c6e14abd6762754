"""S3 for tests: a moto server of our own on loopback, and the environment in which a client finds it."""

from __future__ import annotations

import logging
from dataclasses import dataclass

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


def quiet() -> None:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
