"""A key that is erased is in no table of an export or of flags, and in no file of an export in the lake."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.care.erase import erase
from tests.publish.drop import DAYS, Drop


@pytest.fixture
def drop(tmp_path: Path) -> Drop:
    return Drop(tmp_path)


def texts(drop: Drop) -> str:
    """Returns all that is stored about exports and flags."""
    found = []
    for top in ("exports", "flags", "handed_over", "deliveries"):
        for path in sorted((drop.root / "lake" / top).rglob("*")):
            if path.suffix == ".parquet":
                found.append(str(pq.read_table(path).to_pylist()))
            elif path.is_file():
                found.append(path.read_text())
    return "".join(found)


def test_erase_removes_a_key_from_exports_in_the_lake_and_from_their_lists_of_removed_keys(drop: Drop) -> None:
    drop.job("changes = true", to="")
    drop.send({"secret": 0.5, "a": 0.5})
    drop.send({"a": 0.5}, DAYS[1])
    drop.send({"a": 0.5, "b": 0.5}, DAYS[2])
    assert texts(drop).count("secret") == 4, "in two files of the first day, its table, and what the second removed"
    done = erase(drop.lake, drop.context.job, "secret")
    assert "secret" not in texts(drop) + json.dumps(done.as_dict())
    base = drop.root / "lake/handed_over/churn/spring"
    states = [json.loads(path.read_text())["state"] for path in sorted(base.rglob("manifest.json"))]
    assert states == ["withdrawn", "withdrawn", "complete"]
    assert json.loads((base / "current.json").read_text())["state"] == "complete"


def test_erase_removes_a_key_from_flags(drop: Drop) -> None:
    drop.job("enter = 0.4", kind="flags")
    drop.send({"secret": 0.5, "a": 0.5})
    erase(drop.lake, drop.context.job, "secret")
    assert "secret" not in texts(drop)
    assert "'a'" in texts(drop)
