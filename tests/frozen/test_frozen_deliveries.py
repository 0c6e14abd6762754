"""The content of `published_1`, predictions that were handed on, must stay readable, and later days must go on from it.

The expected values were noted when the lake was written; see README.md for the rules.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.frozen.test_frozen_lake import ask, rows, use

PUBLISHED_1 = Path(__file__).parent / "published_1"
FIRST, SECOND, TAKEN_BACK = (
    "20261127T214045288Z-755f9b8f",
    "20261127T214101592Z-02669f68",
    "20261127T214121289Z-b31ed40c",
)


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return use(Path(shutil.copytree(PUBLISHED_1, tmp_path / "lake", copy_function=shutil.copyfile)), monkeypatch)


def cases() -> list[tuple[Any, ...]]:
    return rows("SELECT ds, case_id, round(score, 4), status, since, alert FROM flags ORDER BY ALL")


OF_TWO_DAYS = [
    ("2026-03-02", "u037", 0.9075, "entered", "2026-03-02", "sent"),
    ("2026-03-03", "u001", 0.9494, "entered", "2026-03-03", "sent"),
    ("2026-03-03", "u037", None, "left", "2026-03-02", "earlier"),
]


def test_deliveries_exports_and_cases_are_as_they_were(mine: Path) -> None:
    kept = "ds, run_id, target, kind, state, rows"
    assert rows(f"SELECT {kept} FROM deliveries ORDER BY ALL") == [
        ("2026-03-02", FIRST, "spring", "export", "delivered", 18),
        ("2026-03-02", FIRST, "watched", "flags", "delivered", 1),
        ("2026-03-03", SECOND, "spring", "export", "delivered", 19),
        ("2026-03-03", SECOND, "watched", "flags", "delivered", 2),
        ("2026-03-03", TAKEN_BACK, "spring", "export", "withdrawn", 19),
        ("2026-03-03", TAKEN_BACK, "watched", "flags", "withdrawn", 3),
    ]
    assert rows("SELECT ds, export_group, count(*), sum(export_rank) FROM exports GROUP BY ALL ORDER BY ALL") == [
        ("2026-03-02", "holdout", 2, 29),
        ("2026-03-02", "target", 18, 181),
        ("2026-03-03", "holdout", 1, 14),
        ("2026-03-03", "target", 19, 196),
    ]
    assert cases() == OF_TWO_DAYS
    assert ask("verify") == []
    current = json.loads((mine / "lake" / "handed_over" / "offers" / "spring" / "current.json").read_text())
    assert current["run_id"] == SECOND


def test_next_day_goes_on_from_what_was_delivered(mine: Path) -> None:
    """A case that stays does not alert again, and the files of changes are relative to the last export."""
    assert ask("run --job offers --date 2026-03-04")[0]["state"] == "complete"
    assert cases() == [*OF_TWO_DAYS, ("2026-03-04", "u001", 0.9494, "stays", "2026-03-03", "earlier")]
    current = json.loads((mine / "lake" / "handed_over" / "offers" / "spring" / "current.json").read_text())
    assert (current["ds"], current["changes_since"]["run_id"]) == ("2026-03-04", SECOND)
