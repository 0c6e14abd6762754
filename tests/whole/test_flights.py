"""A year of made-up flights in one CSV file: imported at once, scored, and compared with plain torch row by row."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import random
import warnings
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from torch import nn
from torch.export import Dim

from tests.calling import Cli
from tests.workspace import Workspace

YEAR, PER_DAY = 2025, 80
DAYS = ("2025-01-01", "2025-02-28", "2025-03-30", "2025-07-04", "2025-10-26", "2025-12-31")
"""The first and the last day, and those on which Europe changes its clocks, among others."""
CARRIERS = ["LH", "AF", "BA", "KL"]
AIRPORTS = ["FRA", "CDG", "LHR", "AMS", "ZRH", "NCE"]
BUCKETS, AIRCRAFT = 64, 1009
JOB = """
[model]
name = "delays"

[input]
path = "unscored/ds={ds}/*.parquet"
key = ["carrier", "flight", "origin"]
carry = ["destination"]

[policy]
max_quarantined = 0.5
"""
SIGNATURE: dict[str, Any] = {
    "features": ["carrier", "distance", "departure", "aircraft", "day", "seats", "route", "booked", "delay"],
    "inputs": {
        "carrier": {"kind": "category", "vocabulary": CARRIERS, "unknown": "index", "encode": "one_hot"},
        "distance": {"kind": "number", "null": 700, "scale": [{"mean": 900, "std": 350}]},
        "departure": {"kind": "timestamp", "convert": "cyclic", "period": "day"},
        "aircraft": {"kind": "integer", "null": -1},
        "day": {"kind": "timestamp", "convert": "cyclic", "period": "year"},
        "route": {"kind": "hash", "algorithm": "md5", "buckets": BUCKETS, "encode": "int64"},
        "booked": {
            "kind": "timestamp",
            "convert": "days",
            "origin": "2025-01-01T00:00:00Z",
            "null": "2025-06-01T00:00:00Z",
        },
        "delay": {"kind": "number", "scale": [{"clip": [0, 180]}, {"log1p": True}]},
    },
    "classes": ["late", "on time", "cancelled"],
}
FLOATS = 5 + 1 + 2 + 2 + 1 + 1 + 1


class Delays(nn.Module):
    """Hashes the aircraft's 64-bit number in itself, as training code does."""

    def __init__(self) -> None:
        super().__init__()
        self.aircraft, self.routes = nn.Embedding(AIRCRAFT, 3), nn.Embedding(BUCKETS, 4)
        self.body = nn.Sequential(nn.Linear(FLOATS + 7, 32), nn.GELU(), nn.LayerNorm(32), nn.Linear(32, 3))

    def forward(self, x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        aircraft = self.aircraft(torch.remainder(indices[:, 0], AIRCRAFT))
        found: torch.Tensor = self.body(torch.cat([x, aircraft, self.routes(indices[:, 1])], dim=1))
        return found


def network() -> Delays:
    with torch.random.fork_rng():
        torch.manual_seed(25)
        return Delays().eval()


def flights() -> list[dict[str, Any]]:
    """Returns the rows as they are, with None for what is not known; a few lack a feature that has no replacement."""
    draw = random.Random(YEAR)
    found = []
    for number in range(365 * PER_DAY):
        day = date(YEAR, 1, 1) + timedelta(days=number % 365)
        at = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(seconds=draw.randrange(86_400))
        origin, destination = draw.sample(AIRPORTS, 2)
        found.append(
            {
                "carrier": draw.choice([*CARRIERS, "U2"]),
                "flight": 100 + number // 365,
                "origin": origin,
                "destination": destination,
                "day": day,
                "departure": at,
                "distance": draw.choice([None, draw.randrange(200, 2000)]),
                "aircraft": draw.choice([None, *[draw.randrange(2**61, 2**62) for _ in range(4)]]),
                "seats": draw.choice([None, *[draw.randrange(50, 400) for _ in range(20)]]),
                "route": f"{origin}-{destination}",
                "booked": draw.choice([None, at - timedelta(minutes=draw.randrange(500_000))]),
                "delay": round(draw.expovariate(1 / 20) - 5, 1),
            }
        )
    draw.shuffle(found)
    return found


def write(rows: list[dict[str, Any]], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for row in rows:
            times = {name: f"{row[name]:%Y-%m-%d %H:%M:%S}" for name in ("departure", "booked") if row[name]}
            writer.writerow(row | times)


def turn(seconds: float, period: float) -> list[float]:
    angle = 2 * math.pi * (seconds % period) / period
    return [math.sin(angle), math.cos(angle)]


def encoded(row: dict[str, Any]) -> tuple[list[float], list[int]]:
    """Returns the numbers and the indices of a row, as training code computes them."""
    carriers = [*CARRIERS, None]
    known = row["carrier"] if row["carrier"] in CARRIERS else None
    booked = row["booked"] or datetime(YEAR, 6, 1, tzinfo=UTC)
    midnight = datetime(row["day"].year, row["day"].month, row["day"].day, tzinfo=UTC)
    numbers = [
        *[float(each == known) for each in carriers],
        ((700 if row["distance"] is None else row["distance"]) - 900) / 350,
        *turn(row["departure"].timestamp(), 86_400),
        *turn(midnight.timestamp(), 365.2425 * 86_400),
        row["seats"],
        (booked - datetime(YEAR, 1, 1, tzinfo=UTC)) / timedelta(days=1),
        math.log1p(min(max(row["delay"], 0), 180)),
    ]
    bucket = int(hashlib.md5(row["route"].encode(), usedforsecurity=False).hexdigest(), 16) % BUCKETS
    return numbers, [-1 if row["aircraft"] is None else row["aircraft"], bucket]


def scores(rows: list[dict[str, Any]]) -> list[list[float]]:
    numbers, indices = zip(*map(encoded, rows), strict=True)
    with torch.inference_mode():
        logits = network()(torch.tensor(numbers, dtype=torch.float32), torch.tensor(indices, dtype=torch.int64))
        found: list[list[float]] = torch.softmax(logits, dim=1).tolist()
    return found


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["carrier"], row["flight"], row["origin"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_year_of_flights_is_scored_as_by_plain_torch(tmp_path: Path, cli: Cli) -> None:
    workspace = Workspace(tmp_path)
    folder = workspace.settings.jobs / "delays"
    folder.mkdir(parents=True)
    (folder / "job.toml").write_text(JOB)
    dim, example = Dim("rows"), (torch.zeros(4, FLOATS), torch.zeros(4, 2, dtype=torch.int64))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about its own code
        program = torch.export.export(network(), example, dynamic_shapes=({0: dim}, {0: dim}))
        torch.export.save(program, tmp_path / "delays.pt2")
    (tmp_path / "delays.json").write_text(json.dumps(SIGNATURE))
    rows = flights()
    write(rows, tmp_path / "flights.csv")

    cli("models", "register", "delays.pt2", "--name", "delays", "--version", "v1", "--signature", "delays.json",
        "--alias", "production")  # fmt: skip
    shown = cli("import", "flights.csv", "--partition-by", "day", "--job", "delays").stdout
    assert "365 days" in shown
    assert f"{len(rows):,} rows" in shown
    for ds in DAYS:
        cli("run", "--job", "delays", "--date", ds)

    for ds in DAYS:
        of_day = [row for row in rows if row["day"].isoformat() == ds]
        assert len(of_day) == PER_DAY
        complete = [row for row in of_day if row["seats"] is not None]
        expected = dict(zip(map(key, complete), scores(complete), strict=True))
        assert len(expected) == len(complete)
        (rejected,) = (workspace.lake / "quarantine" / "job=delays" / f"ds={ds}").glob("*.parquet")
        reasons = {key(row): row["reasons"] for row in pq.read_table(rejected, partitioning=None).to_pylist()}
        assert reasons == {key(row): ["null:seats"] for row in of_day if row["seats"] is None}
        stored = workspace.stored(f"FROM predictions WHERE ds = '{ds}'", "delays")
        found = {key(row): [row[f"prob_class_{index}"] for index in range(3)] for row in stored}
        assert found.keys() == expected.keys(), ds
        worst = max(abs(a - b) for each in found for a, b in zip(found[each], expected[each], strict=True))
        assert worst < 1e-6, ds
        for row in stored:
            best = max(range(3), key=lambda index: row[f"prob_class_{index}"])
            assert row["prediction"] == SIGNATURE["classes"][best]
