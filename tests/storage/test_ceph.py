"""The storage contract on Ceph's object gateway, which compares ETags without their quotes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import ceph
from tests.s3 import S3Server
from tests.storage import test_object_store

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not ceph.is_there(), reason="needs radosgw, ceph-mon and ceph-osd"),
]


@pytest.fixture(scope="module")
def gateway() -> Iterator[S3Server]:
    with tempfile.TemporaryDirectory(prefix="ceph") as folder, ceph.serve(Path(folder)) as server:
        yield server


class TestCeph(test_object_store.TestObjectStorage):
    @pytest.fixture(autouse=True)
    def s3(self, gateway: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> S3Server:
        for name, value in gateway.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("LAKESCORE_SCRATCH", str(tmp_path / "scratch"))
        return gateway
