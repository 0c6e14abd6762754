"""The storage contract on Ceph's object gateway, which compares ETags without their quotes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import StorageError
from pipeline.storage import Storage
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

    def test_copy_takes_a_free_name_alone_and_leaves_the_source(self, storage: Storage) -> None:
        """Ceph (16 at least) refuses to copy a part of a multipart upload without a Content-Length."""
        self.put(storage, "attempt/a", b"rows")
        with pytest.raises(StorageError, match="refused"):
            storage.copy("attempt/a", "data/part-0")
        assert self.stored(storage) == {"attempt/a": b"rows"}

    def test_probe_of_copies_finds_those_that_overwrite_and_leaves_nothing(self, tmp_path: Path) -> None:
        storage = self.make(tmp_path)
        with pytest.raises(StorageError, match="refused"):
            storage.probe_copy()
        assert self.stored(storage) == {}
