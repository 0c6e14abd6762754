"""A Redis server for the tests of one module, empty for each test; and jobs with targets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.context import Context
from pipeline.job.loading import find_job
from pipeline.lake.layout import Lake
from pipeline.records import RunRecord
from pipeline.settings import Settings
from tests import lakes
from tests.redis_server import RedisServer, serve


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    with serve() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty server, which Lakescore finds through the environment."""
    with redis_server.client() as client:
        client.flushall()
    monkeypatch.setenv("LAKESCORE_REDIS_URL", redis_server.url)
    return redis_server.url


@dataclass
class Publisher:
    """A lake and a job `churn`, without a model: days are written as complete runs leave them."""

    root: Path
    lake: Lake

    def job(self, *targets: str) -> Context:
        """Writes the job with these lines of `[[publish]]` tables, and returns its context."""
        folder = self.root / "dags" / "jobs" / "churn"
        folder.mkdir(parents=True, exist_ok=True)
        source = f'[input]\npath = "{lakes.PATTERN}"\nkey = ["id"]\n'
        text = f'[model]\nname = "churn_model"\n{source}[report]\nenabled = false\n'
        tables = "".join(f'[[publish]]\nname = "t{number}"\n{lines}\n' for number, lines in enumerate(targets))
        (folder / "job.toml").write_text(text + tables)
        settings = Settings(lake=str(self.root / "lake"), jobs=folder.parent, models=str(self.root / "models"))
        return Context.open(find_job("churn", settings), settings)

    def day(self, ds: str, rows: int = 5, number: int = 0, **columns: Any) -> RunRecord:
        return lakes.add_day(self.lake, ds, [f"u{row}" for row in range(rows)], number=number, **columns)


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    return Publisher(tmp_path, lakes.open_lake(tmp_path / "lake"))
