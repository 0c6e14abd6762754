"""Lakescore as users have it: installed from its wheel, outside the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Installed:
    site: Path
    """The folder with the content of the wheel. Its dependencies are those of the tests."""

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("LAKESCORE_")}
        path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        return {**kept, "PATH": path, "PYTHONPATH": str(self.site), "COLUMNS": "120", "OMP_NUM_THREADS": "1"}

    def shell(self, command: str, folder: Path, expect: int = 0, **variables: str) -> str:
        """Runs a command line as a person types it, in a folder. Returns what it prints."""
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=folder,
            env={**self.environment, **variables},
            capture_output=True,
            text=True,
            timeout=1200,
            check=False,
        )
        assert done.returncode == expect, f"{command}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout


def install(folder: Path) -> Installed:
    """Builds the wheel and unpacks it."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(ROOT)], check=True, timeout=300)
    (wheel,) = folder.glob("lakescore-*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(folder / "site")
    made = Installed(folder / "site")
    found = made.shell("python -c 'from pipeline.packaged import resources; print(resources())'", folder)
    assert Path(found.strip()) == folder / "site" / "pipeline", f"{found} is not the wheel"
    return made
