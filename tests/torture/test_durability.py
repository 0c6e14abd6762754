"""The order of system calls: `kill -9` does not show a missing fsync, so they are recorded and looked at."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.workspace import DAY, Workspace

ROOT = Path(__file__).parent.parent.parent
CALLS = "write,pwrite64,writev,pwritev,fsync,fdatasync,link,linkat,rename,renameat,renameat2,mkdir,mkdirat"
CALL = re.compile(r"(?:\[pid +\d+\] |\d+ +)?(?P<name>\w+)\((?P<arguments>.*)\) += \d+$")
PATH = re.compile(r'"([^"]*)"|<([^>]*)>')


@pytest.fixture
def recorded(workspace: Workspace) -> list[tuple[str, list[str]]]:
    """The calls of one run that worked, each with its paths; a descriptor stands as the path that it was opened by."""
    assert shutil.which("strace"), "this test needs strace (Debian and Ubuntu: apt-get install strace)"
    workspace.day(200)
    log = workspace.root / "calls"
    traced = f"trace={CALLS}"
    command = ["strace", "-f", "-y", "-s", "0", "-e", traced, "-o", str(log), sys.executable, "-m", "pipeline"]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "LAKESCORE_MODELS": workspace.settings.models,
        "LAKESCORE_JOBS": str(workspace.settings.jobs),
    }
    arguments = ["run", "--job", "toy", "--date", DAY, "--lake", str(workspace.lake)]
    subprocess.run([*command, *arguments], env=environment, check=True, capture_output=True, timeout=240)
    calls = []
    for line in log.read_text().splitlines():
        if match := CALL.fullmatch(line.strip()):
            paths = [quoted or opened for quoted, opened in PATH.findall(match["arguments"])]
            calls.append((match["name"], [path for path in paths if path.startswith(str(workspace.lake))]))
    return [call for call in calls if call[1]]


def last(calls: list[tuple[str, list[str]]], paths: set[str], *names: str) -> int:
    """Returns the place of the last of these calls for one of the paths; -1 without any."""
    return max((at for at, (name, found) in enumerate(calls) if name in names and paths & set(found)), default=-1)


def synced(calls: list[tuple[str, list[str]]], path: str) -> bool:
    return any(name in ("fsync", "fdatasync") and path in paths for name, paths in calls)


@pytest.mark.slow
def test_each_file_is_synced_before_its_name_and_the_folder_after(recorded: list[tuple[str, list[str]]]) -> None:
    published = [
        (number, paths)
        for number, (name, paths) in enumerate(recorded)
        if name.startswith(("link", "rename")) and len(paths) == 2 and "/.probe-" not in paths[1]
    ]
    assert any("/part-" in paths[1] for _, paths in published)
    assert any("/runs/" in paths[1] for _, paths in published)
    names = {paths[1]: paths[0] for _, paths in published}
    for number, (source, target) in published:
        content = {source, names.get(source, source)}  # a staged file was synced under the name that it had before
        written = last(recorded[:number], content, "write", "pwrite64", "writev", "pwritev")
        assert written >= 0 or target.endswith("/_SUCCESS"), f"{target} was written by a call that is not recorded"
        durable = last(recorded[:number], content, "fsync", "fdatasync")
        assert written < durable, f"{target} got its name before its content"
        assert synced(recorded[number:], str(Path(target).parent)), f"the folder of {target} was not synced after it"


@pytest.mark.slow
def test_each_new_folder_is_entered_durably_before_a_part_in_it(recorded: list[tuple[str, list[str]]]) -> None:
    part = next(number for number, (name, paths) in enumerate(recorded) if "link" in name and "/part-" in paths[-1])
    made = [paths[0] for name, paths in recorded[:part] if name.startswith("mkdir") and "/predictions" in paths[0]]
    assert len(made) == 4, "predictions, job, day and version"
    for folder in made:
        assert synced(recorded, str(Path(folder).parent)), folder
    record = next(number for number, (_, paths) in enumerate(recorded[part:], part) if "/runs/" in paths[-1])
    assert synced(recorded[part:record], str(Path(recorded[part][1][-1]).parent)), "the record speaks of a durable part"
