"""The real features, and the model that is trained on them once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="session")
def features(data_folder: Path) -> Path:
    return data_folder / "online_retail" / "daily_features.parquet"


@pytest.fixture(scope="session")
def checkpoint(features: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("retail") / "retail.pt"
    subprocess.run([sys.executable, "-m", "tests.retail.train", features, path], cwd=ROOT, check=True, timeout=120)
    return path
