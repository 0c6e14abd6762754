"""The folder for unfinished work that lies outside the lake: nobody else may see or change it."""

from __future__ import annotations

import errno
import os
import re
import sys
from pathlib import Path

import pytest

from pipeline.errors import StorageError
from pipeline.storage import LocalStorage, give_name, open_storage
from pipeline.storage.local import private_folder

LAKE = "s3://bucket/lake"


def mode(folder: Path) -> int:
    return folder.stat().st_mode & 0o7777


def test_private_folder_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        found = private_folder(tmp_path / "a" / "b")
    finally:
        os.umask(before)
    assert found == tmp_path / "a" / "b"
    assert (mode(found), mode(found.parent) & 0o022) == (0o700, 0)


def test_private_folder_of_before_is_closed_to_others(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(mode=0o755)
    (tmp_path / "a" / "staged").write_text("kept")
    assert mode(private_folder(tmp_path / "a")) == 0o700
    assert (tmp_path / "a" / "staged").read_text() == "kept"


def test_private_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match=r"not safe from other users(?s:.)*a link(?s:.)*LAKESCORE_SCRATCH"):
        private_folder(tmp_path / "a")


def test_private_folder_that_everyone_could_replace_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(StorageError, match="everyone may write"):
        private_folder(tmp_path / "open" / "a")
    (tmp_path / "open").chmod(0o1777)  # as the system's folder for temporary files: only the owner can replace it
    assert mode(private_folder(tmp_path / "open" / "a")) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_staging_in_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who makes the folder first, under its known name, must not get the predictions."""
    monkeypatch.delenv("LAKESCORE_SCRATCH", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    planted = tmp_path / f"lakescore-{os.getuid()}"
    planted.mkdir(mode=0o777)
    os.chown(planted, 12345, 12345)
    with pytest.raises(StorageError, match=rf"where +{re.escape(str(planted))}(?s:.)*user with the id 12345"):
        _ = open_storage(LAKE).workspace
    os.chown(planted, os.geteuid(), os.getegid())
    assert mode(open_storage(LAKE).workspace.path("")) == 0o700


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Path]]:
    """The files and folders that are synced, and the names that files are given, in order."""
    found: list[tuple[str, Path]] = []
    sync, link, replace = os.fsync, os.link, Path.replace

    def synced(descriptor: int) -> None:
        found.append(("sync", Path(f"/proc/self/fd/{descriptor}").readlink()))
        sync(descriptor)

    def linked(source: Path, target: Path) -> None:
        found.append(("name", target))
        link(source, target)

    def renamed(source: Path, target: Path) -> Path:
        found.append(("name", target))
        return replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "link", linked)
    monkeypatch.setattr(Path, "replace", renamed)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_file_is_synced_before_it_gets_its_name_and_the_folder_after(
    tmp_path: Path, calls: list[tuple[str, Path]]
) -> None:
    temporary, target = tmp_path / "x.tmp", tmp_path / "x"
    temporary.write_bytes(b"rows")
    give_name(temporary, target)
    assert calls == [("sync", temporary), ("name", target), ("sync", tmp_path)]


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_create_syncs_each_folder_up_to_the_root(tmp_path: Path, calls: list[tuple[str, Path]]) -> None:
    """One of them may have been made by a process that was killed before it could."""
    finished = tmp_path / "finished"
    finished.write_bytes(b"rows")
    lake = tmp_path / "lake"
    (lake / "a" / "b").mkdir(parents=True)
    LocalStorage(lake).create("a/b/part", finished)
    assert calls[0] == ("name", lake / "a" / "b" / "part")
    assert calls[1:] == [("sync", lake / "a" / "b"), ("sync", lake / "a"), ("sync", lake)]


def test_probe_of_a_file_system_without_hard_links_names_the_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object, **__: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(StorageError, match="the file system refused"):
        LocalStorage(tmp_path).probe()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".probe")] == []
