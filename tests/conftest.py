"""Fixtures for all tests."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import hypothesis
import pytest

from tests.browsing import chromium
from tests.calling import Cli, caller
from tests.installed import Installed, install
from tests.s3 import S3Server, serve
from tests.workspace import Workspace

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).parent.parent
DATA = Path(os.environ.get("LAKESCORE_TEST_DATA", ROOT.parent / "shared" / "data"))
ON_CI = bool(os.environ.get("CI"))

# The workers of pytest-xdist share the cores already. Torch reads this when it is imported: its threads would wait for
# each other busily, and take several times the processor time of the tests themselves.
os.environ["OMP_NUM_THREADS"] = "1"

# Two workers share two cores, so an example's time says nothing; on CI the same examples each time.
hypothesis.settings.register_profile("lakescore", deadline=None, derandomize=ON_CI)
hypothesis.settings.load_profile("lakescore")


def pytest_collection_finish() -> None:
    """Imported modules and collected tests stay: the garbage collector need not look at them again and again."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()


class Lakescore(Protocol):
    def __call__(self, *arguments: object, expect: int = 0) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the person or the machine that runs the tests reaches them, or the processes that they start."""
    for name in os.environ:
        if name.startswith("LAKESCORE_") or name in {"FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "CLICOLOR_FORCE"}:
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture(autouse=True)
def no_power_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process nothing waits for the disk: only a power cut would show the difference.

    What is synced, and before what, is tested in a process of its own: `torture/test_durability.py`.
    """
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def lakescore(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lakescore:
    """The command line in a process of its own, in an empty folder (`tmp_path`); `expect` is its exit code.

    Where the process does not matter, `cli` does the same and starts none.
    """
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def call(*arguments: object, expect: int = 0) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pipeline", *map(str, arguments)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == expect, f"{arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return call


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The command line in this process, in an empty folder (`tmp_path`)."""
    monkeypatch.chdir(tmp_path)
    return caller(monkeypatch)


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The command line and the package from the wheel, without the checkout."""
    return install(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The real data sets, which lie beside the repository: without them a test is skipped, but on CI it fails."""
    if not DATA.is_dir():
        message = f"no real data in {DATA}; LAKESCORE_TEST_DATA names their folder"
        if ON_CI:
            pytest.fail(message)
        pytest.skip(message)
    return DATA


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium. Of the module: while it runs, this thread has an event loop, which others may not stand."""
    with chromium() as started:
        yield started


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A moto server, with an empty bucket."""
    with serve() as server:
        yield server


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> S3Server:
    """S3, found through the environment by this process and those that it starts."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LAKESCORE_SCRATCH", str(tmp_path / "scratch"))
    return s3_server


@pytest.fixture(scope="session")
def fresh_workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """What `workspace` is a copy of: registering a model takes longer than most tests."""
    made = Workspace(tmp_path_factory.mktemp("fresh"))
    made.job()
    made.model()
    return made


@pytest.fixture
def workspace(fresh_workspace: Workspace, tmp_path: Path) -> Workspace:
    """A lake without input, a job `toy` and its model."""
    shutil.copytree(fresh_workspace.root, tmp_path, dirs_exist_ok=True)
    return Workspace(tmp_path)
