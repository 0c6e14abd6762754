"""The layout of a lake: its files are found, foreign files are ignored, and damage is reported with its location."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.errors import LakeDamaged, StorageError, UsageError
from pipeline.lake.layout import Lake, Partition
from pipeline.lake.patterns import Pattern
from pipeline.records import FileInfo
from pipeline.storage import LocalStorage
from tests import lakes
from tests.workspace import DAY

TOY = Partition("toy", DAY, "v1")


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return lakes.open_lake(tmp_path / "lake")


def put(lake: Lake, *keys: str) -> None:
    for key in keys:
        path = lake.workspace.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_open_absent_folder_is_an_empty_lake_and_makes_nothing(tmp_path: Path) -> None:
    lake = Lake.open(f"file://{tmp_path}/lake")
    assert lake.workspace.root == tmp_path / "lake"
    assert lake.records.days("toy") == lake.prediction_days("toy") == lake.input_days([Pattern(lakes.PATTERN)]) == []
    assert lake.records.of_day("toy", DAY) == []
    assert lake.records.last_complete("toy", DAY) is None
    assert not (tmp_path / "lake").exists()


def test_prepare_first_use_probes_and_marks_then_leaves_it(tmp_path: Path) -> None:
    lake = Lake.open(str(tmp_path / "lake"))
    lake.prepare()
    marker = tmp_path / "lake" / "lakescore.json"
    assert json.loads(marker.read_text()) == {"format": 1}
    before = marker.stat()
    Lake.open(str(tmp_path / "lake")).prepare()
    assert marker.stat() == before
    assert sorted(path.name for path in (tmp_path / "lake").iterdir()) == [".staging", ".writing", "lakescore.json"]


def test_identity_is_made_once_and_is_that_of_the_lake_wherever_it_lies(tmp_path: Path) -> None:
    lake = lakes.open_lake(tmp_path / "lake")
    assert json.loads((tmp_path / "lake" / "lakescore.json").read_text()) == {"format": 1}, "only if it is needed"
    found = lake.identity()
    assert json.loads((tmp_path / "lake" / "lakescore.json").read_text()) == {"format": 1, "id": found}
    (tmp_path / "lake").rename(tmp_path / "moved")
    assert Lake.open(str(tmp_path / "moved")).identity() == found
    assert lakes.open_lake(tmp_path / "another").identity() != found


def test_identity_that_another_process_made_first_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake, real = lakes.open_lake(tmp_path), LocalStorage.update

    def update(storage: LocalStorage, key: str, content: bytes | Path, seen: FileInfo | None) -> bool:
        monkeypatch.setattr(LocalStorage, "update", real)
        storage.write(key, b'{"format": 1, "id": "theirs"}')
        return storage.update(key, content, seen)

    monkeypatch.setattr(LocalStorage, "update", update)
    assert lake.identity() == "theirs"


def test_copies_of_text_are_found_by_job_and_day(lake: Lake) -> None:
    put(
        lake,
        f"imported/job=toy/ds={DAY}/a.parquet",
        "imported/job=toy/ds=2026-01-02/b.parquet",
        "imported/job=x/ds=1/c",
    )
    put(lake, "imported/job=toy/other/d.parquet")
    assert lake.imported_days("toy") == [DAY, "2026-01-02"]
    assert [file.path for file in lake.imported_files("toy", DAY)] == [f"imported/job=toy/ds={DAY}/a.parquet"]


def test_prepare_probes_again_on_a_machine_that_sees_the_lake_for_the_first_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probed: list[str] = []
    monkeypatch.setattr(LocalStorage, "probe", lambda storage: probed.append(str(storage)))
    lake = Lake.open(str(tmp_path))
    for host in ("one", "one", "other", "one"):
        monkeypatch.setattr("socket.gethostname", lambda host=host: host)
        lake.prepare()
    assert len(probed) == 2


@pytest.mark.parametrize("root", ["hdfs://x", "https://x/lake", "", "file://", "s3://key:secret@bucket/lake"])
def test_open_what_is_no_storage_is_refused(root: str) -> None:
    with pytest.raises(UsageError, match=r"is not supported|root is empty|credentials"):
        Lake.open(root)


def test_open_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lake").write_text("x")
    with pytest.raises(StorageError, match="the file system refused"):
        Lake.open(str(tmp_path / "lake"))


def test_open_lake_of_a_later_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lakescore.json").write_text('{"format": 2}')
    with pytest.raises(LakeDamaged, match=r"a different format(?s:.)*lakescore\.json(?s:.)*expected +1(?s:.)*got +2"):
        Lake.open(str(tmp_path))


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '"format"', "\0"])
def test_open_lake_with_a_foreign_marker_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "lakescore.json").write_text(content)
    with pytest.raises(StorageError, match=r"lakescore\.json is not a valid marker"):
        Lake.open(str(tmp_path))


def test_input_files_are_those_of_the_day_alone(lake: Lake) -> None:
    names = ["a.parquet", "b.parquet", "c.csv", "_d.parquet", ".e.parquet", "sub/f.parquet"]
    put(lake, *(f"unscored/ds={ds}/{name}" for ds in (DAY, "2026-01-02") for name in names))
    found = lake.input_files({"unscored": Pattern(lakes.PATTERN)}, DAY)
    assert [file.path for file in found["unscored"]] == [f"unscored/ds={DAY}/{name}" for name in names[:2]]


@pytest.mark.parametrize("ds", ["", "..", "2026-01-1", "2026-02-30", "2026-01-01/..", "*", "\uff12026-01-01"])
def test_input_files_of_an_invalid_day_are_refused(lake: Lake, ds: str) -> None:
    with pytest.raises(UsageError, match="is not a day"):
        lake.input_files({"unscored": Pattern(lakes.PATTERN)}, ds)


@pytest.mark.parametrize(
    "pattern",
    [
        "unscored/ds={ds}/*.parquet",
        "unscored/{ds}.parquet",
        "other/*/day_{ds}/**/*.parquet",
        "{ds}/x.parquet",
        "backup-2020-02-02/{ds}.parquet",
    ],
)
@pytest.mark.parametrize("absolute", [False, True])
def test_input_days_are_read_from_the_paths(tmp_path: Path, pattern: str, absolute: bool) -> None:
    lake = lakes.open_lake(tmp_path / "2019-09-09" / "lake")
    pattern = f"{lake.workspace.root}/{pattern}" if absolute else pattern
    days = ["2025-12-31", "2026-01-01"]
    for ds in reversed(days):
        put(lake, pattern.replace("{ds}", ds).replace("**", "a/b").replace("*", "x"))
    assert lake.input_days([Pattern(pattern)]) == days
    put(lake, pattern.replace("{ds}", "no-day").replace("**", "a/b").replace("*", "x"))
    assert lake.input_days([Pattern(text) for text in (pattern, "nothing/{ds}", "lookup/*.parquet")]) == days


def test_parts_are_in_order_and_foreign_files_ignored(lake: Lake) -> None:
    put(lake, *(TOY.part(number) for number in (10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)))
    foreign = ["_SUCCESS", ".part-00000011.parquet", "part-11.parquet", "part-00000011.parquet.tmp", "x.parquet"]
    put(lake, *(f"{TOY.folder}/{name}" for name in foreign), f"{TOY.folder}/backup/part-00000011.parquet")
    put(lake, Partition("toy", DAY, "v10").part(0), Partition("toy2", DAY, "v1").part(0))
    assert [file.path for file in lake.parts(TOY)] == [TOY.part(number) for number in range(11)]
    assert lake.versions("toy", DAY) == ["v1", "v10"]


def test_parts_that_a_listing_misses_are_looked_up_by_name(lake: Lake) -> None:
    """ext4 does this under fast writers: N+1 is listed without N."""

    class Forgetful(LocalStorage):
        def files(self, prefix: str) -> list[FileInfo]:
            return [file for file in super().files(prefix) if not file.path.endswith("1.parquet")]

    put(lake, *(TOY.part(number) for number in range(4)))
    assert Lake(Forgetful(lake.workspace.root)).parts(TOY) == lake.parts(TOY)


@pytest.mark.parametrize("absent", [0, 1])
def test_parts_with_a_gap_are_damage(lake: Lake, absent: int) -> None:
    put(lake, *(TOY.part(number) for number in range(3) if number != absent))
    with pytest.raises(LakeDamaged, match=rf"missing from the sequence(?s:.)*part-0000000{absent}\.parquet"):
        lake.parts(TOY)
