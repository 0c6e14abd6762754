"""Disks that are full, and processes that file modes hold for: root is exempt from the modes of files."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

PAGE = 4096
CAPABILITIES = "-dac_override,-dac_read_search,-fowner"


@contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[Path]:
    """Mounts a disk in memory, and yields the path by which it is reached.

    As root, with sudo, or in a user namespace, whichever this machine permits; where none works a test is skipped, but
    on CI it fails.
    """
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=1777", "tmpfs", str(folder)]
    for prefix in ([], ["sudo", "-n"]):
        if shutil.which((prefix or mount)[0]) and _run([*prefix, *mount]):
            try:
                yield folder
            finally:
                _run([*prefix, "umount", "--lazy", str(folder)])
            return
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    script = f"{shlex.join(mount)} && echo mounted && exec sleep infinity"
    with subprocess.Popen([*command, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            if holder.stdout.readline() == "mounted\n":
                yield Path(f"/proc/{holder.pid}/root{folder}")
                return
        finally:
            holder.kill()
    (pytest.fail if os.environ.get("CI") else pytest.skip)("this machine lets no disk be mounted")


def fill(disk: Path, *, leave_bytes: int = 0) -> Path:
    """Writes a file that takes the whole disk but for some pages; removing it frees them."""
    ballast = disk / "ballast"
    ballast.unlink(missing_ok=True)
    with ballast.open("wb", buffering=0) as file:
        with suppress(OSError):
            while True:
                file.write(bytes(PAGE))
        file.truncate(max(0, file.tell() - leave_bytes))
    return ballast


def without_privileges() -> list[str]:
    """Returns what to put before a command so that the modes of files hold for it."""
    return ["setpriv", "--bounding-set", CAPABILITIES] if os.geteuid() == 0 else []


def _run(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
