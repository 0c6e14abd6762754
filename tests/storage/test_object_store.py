"""The storage contract on S3: a moto server on loopback, and boto3 to bypass the storage under test."""

from __future__ import annotations

import io
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import boto3
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import CommitUnknown, StorageError, StorageUnavailable, UsageError
from pipeline.storage import Storage, open_storage
from pipeline.storage.object_store import ObjectStorage
from pipeline.storage.reading import SharedFile
from tests.s3 import BUCKET, SECRET
from tests.storage.test_contract import StorageContract

RACER = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from pipeline.storage import open_storage

folder, racer = Path(sys.argv[1]), sys.argv[2]
storage, own = open_storage((folder / "url").read_text()), folder / f"{racer}.tmp"
own.write_text(racer)
(folder / f"{racer}.ready").touch()
while not (folder / "go").exists():
    time.sleep(0.001)
for number in range(int(sys.argv[3])):
    try:
        storage.create(f"race/part-{number:08d}", own)
    except FileExistsError:
        continue
    print(number)
"""
pytestmark = pytest.mark.usefixtures("s3")


class TestObjectStorage(StorageContract):
    racers: ClassVar[int] = 4
    racer: ClassVar[str] = RACER

    def make(self, folder: Path) -> Storage:
        url = folder / "url"
        if not url.exists():
            url.write_text(f"s3://{BUCKET}/{uuid.uuid4().hex}/lake")
        return open_storage(url.read_text())

    def put(self, storage: Storage, key: str, content: bytes) -> None:
        boto3.client("s3").put_object(Bucket=BUCKET, Key=self.prefix(storage) + key, Body=content)

    def stored(self, storage: Storage) -> dict[str, bytes]:
        bucket, prefix = boto3.resource("s3").Bucket(BUCKET), self.prefix(storage)
        return {
            found.key.removeprefix(prefix): found.get()["Body"].read() for found in bucket.objects.filter(Prefix=prefix)
        }

    def prefix(self, storage: Storage) -> str:
        return str(storage).removeprefix(f"s3://{BUCKET}/") + "/"

    def test_glob_of_a_url_gives_urls(self, storage: Storage) -> None:
        self.put(storage, "in/a.parquet", b"x")
        (found,), _ = storage.glob(f"{storage}/in/*.parquet")
        assert found.path == f"{storage}/in/a.parquet"
        assert storage.read(found.path) == b"x"

    def test_workspace_is_a_disk_and_the_same_each_time(
        self, storage: Storage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("LAKESCORE_SCRATCH", str(tmp_path / "scratch"))
        again = open_storage(str(storage))
        assert again.workspace.root == open_storage(str(storage)).workspace.root
        assert again.workspace.root.is_relative_to(tmp_path / "scratch")


def test_open_secret_in_a_url_is_refused() -> None:
    with pytest.raises(UsageError, match="credentials"):
        open_storage("s3://key:secret@bucket/lake")


@pytest.mark.parametrize(
    "call", [lambda s: s.write("a", b"x"), lambda s: s.read("a"), lambda s: s.files("a")], ids=["write", "read", "list"]
)
def test_refusal_names_neither_key_nor_secret(call: Callable[[Storage], object]) -> None:
    with pytest.raises(StorageError, match="NoSuchBucket") as caught:
        call(ObjectStorage("s3://no-such-bucket/lake"))
    assert SECRET not in str(caught.value)
    assert "testing" not in str(caught.value)


def test_no_answer_to_a_read_is_transient_and_to_a_create_unknown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nothing listens on this port
    storage = ObjectStorage(f"s3://{BUCKET}/lake", retry_config={"max_retries": 0})
    source = tmp_path / "source"
    source.write_bytes(b"x")
    with pytest.raises(StorageUnavailable):
        storage.read("a")
    with pytest.raises(CommitUnknown):
        storage.create("a", source)


@pytest.mark.parametrize("length", [700, 200_000])
def test_threads_that_share_a_file_each_read_where_they_have_sought(tmp_path: Path, length: int) -> None:
    """DuckDB's threads read through one handle: here another thread seeks and reads between a seek and its read."""
    content = bytes(range(256)) * 2048  # half a MB
    storage = open_storage(f"s3://{BUCKET}/{uuid.uuid4().hex}/lake")
    assert isinstance(storage, ObjectStorage)
    (tmp_path / "file").write_bytes(content)
    info = storage.create("file", tmp_path / "file")
    shared = SharedFile(storage, info.model_copy(update={"path": storage.where("file")}))

    def elsewhere() -> bytes:
        shared.seek(300_001)
        return shared.read(700)

    shared.seek(5)
    with ThreadPoolExecutor(1) as other:
        assert other.submit(elsewhere).result() == content[300_001:300_701]
        assert shared.read(length) == content[5 : 5 + length]
        assert other.submit(shared.read, 10).result() == content[5 + length : 15 + length]  # one after the other
    assert shared.seek(-20, io.SEEK_END) == len(content) - 20
    assert [shared.read(15), shared.read(), shared.read(1)] == [content[-20:-5], content[-5:], b""]


def test_duckdb_reads_row_groups_with_several_threads(tmp_path: Path) -> None:
    """Each thread reads row groups of its own through the handle that all of them share."""
    rows = pa.table({"id": [f"u{number}" for number in range(100_000)], "value": range(100_000)})
    pq.write_table(rows, tmp_path / "file.parquet", row_group_size=5_000)
    storage = open_storage(f"s3://{BUCKET}/{uuid.uuid4().hex}/lake")
    storage.create("file.parquet", tmp_path / "file.parquet")
    for _ in range(5):
        with duckdb.connect(config={"threads": 4}) as con:
            storage.attach(con)
            read = con.read_parquet(storage.where("file.parquet"))
            assert read.aggregate("count(DISTINCT id), sum(value)").fetchall() == [(100_000, 4_999_950_000)]
