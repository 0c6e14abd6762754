"""The example `recommendations` as docs/examples.md shows it: from the installed wheel, with a real Redis."""

from __future__ import annotations

import itertools
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.publish.redis_reader import columns_of, read
from tests.docs import transcripts
from tests.installed import Installed
from tests.redis_server import RedisServer, serve

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

BACKFILL = "lakescore backfill --job recommendations --from 2026-01-30 --to 2026-01-31"
PREFIX = "recommendations:shop"
KEYS = ("C00000", "C00008", "C02999")
RUN = re.compile(r"\d{8}T\d{9}Z-[0-9a-f]{8}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00")


def always_the_same(printed: str, shown: dict[str, str]) -> str:
    """Replaces what differs: run ids, times of deliveries, and the number of files, of which each core writes one."""
    printed = RUN.sub(lambda match: shown[match[0]], printed)
    printed = re.sub(r"\d+ files? emptied", "2 files emptied", printed)
    return TIME.sub("2026-02-01T01:00:12+00:00", printed)


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with serve() as started:
        yield started


def served(server: RedisServer) -> tuple[str, dict[str, Any]]:
    """Returns the night that readers see, and what it has for some customers."""
    import redis

    with redis.Redis.from_url(server.url) as client:
        pointer, values = read(client, PREFIX, KEYS)
        assert set(values) == set(KEYS)
        return pointer["ds"], {key: columns_of(pointer, value) for key, value in values.items()}


def test_recommendations(installed: Installed, tmp_path: Path, server: RedisServer) -> None:
    numbers = itertools.count(1)
    shown: dict[str, str] = defaultdict(lambda: f"20260201T01000{next(numbers)}000Z-3f8a21c7")
    nights: list[tuple[str, dict[str, Any]]] = []

    def lakescore(command: str) -> str:
        return installed.shell(command, tmp_path, LAKESCORE_REDIS_URL=server.url).replace(f"{tmp_path}/", "")

    def shell(command: str) -> str:
        printed = lakescore(RUN.sub(lambda match: next(run for run in shown if shown[run] == match[0]), command))
        if command == BACKFILL or "rollback" in command:
            nights.append(served(server))
        return always_the_same(printed, shown)

    printed = list(transcripts.follow("examples.md", "recommendations", shell))
    backfills = [text for command, text in printed if command == BACKFILL]
    assert "2 complete; 6,000 rows scored" in backfills[0]
    assert "2 up to date; 0 rows scored" in backfills[1]

    first, again, rolled_back = nights
    assert (first[0], again) == ("2026-01-31", first)
    assert (rolled_back[0], rolled_back[1] != first[1]) == ("2026-01-30", True)
    stored = lakescore("lakescore query \"SELECT * FROM predictions WHERE ds = '2026-01-30'\" --json")
    expected = {row["customer_id"]: row["top_items"] for row in json.loads(stored)}
    assert len(expected) == 3000
    assert {key: values["items"] for key, values in rolled_back[1].items()} == {key: expected[key] for key in KEYS}

    (recall,) = json.loads(lakescore('lakescore query "$(cat recall.sql)" --job recommendations --json'))
    assert recall["customers"] > 2900
    assert recall["recall_at_10"] > 1.5 * recall["of_popularity"] > 0
    assert_a_night_without_redis_is_scored_and_handed_on_later(installed, tmp_path, server)


def assert_a_night_without_redis_is_scored_and_handed_on_later(
    installed: Installed, folder: Path, server: RedisServer
) -> None:
    run = "lakescore run --job recommendations --date 2026-02-01"
    said = installed.shell(run, folder, expect=1)
    assert "shop: failed, the environment variable LAKESCORE_REDIS_URL is not set" in said
    assert re.search(r"scored +3,000", said)
    said = installed.shell(run, folder, expect=1, LAKESCORE_REDIS_URL="redis://127.0.0.1:1/0")
    assert "up to date" in said
    assert "shop: failed, Redis cannot be reached" in said
    assert served(server)[0] == "2026-01-30"
    said = installed.shell(run, folder, LAKESCORE_REDIS_URL=server.url)
    assert "up to date" in said
    assert served(server)[0] == "2026-02-01"
