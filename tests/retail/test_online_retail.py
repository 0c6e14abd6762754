"""The real data from file to ledger, through the command line alone: nothing here asks the pipeline what it stored.

Data: D. Chen, S. L. Sain and K. Guo (2012), Online Retail, UCI Machine Learning Repository (CC0).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.conftest import ROOT

JOB = ("--job", Path(__file__).parent / "jobs" / "retail")
TIMEOUT_S = 900
"""For one command. All days take under a minute of two idle cores, and several times that where others work too."""
TESTED = ("2011-07-01", "2011-11-10")
"""First and last day of what the model is judged by; it has seen no label from later than 2011-06-30."""
DAY = "2011-07-05"
"""The day that changes after the backfill."""
CHANGED, NEW, NEW_FROM = 100, 50, 1_000_000
"""Customers whose features change, customers that are added, and what is added to the id of an old one to make them."""


class Span(NamedTuple):
    """Some days of the data, and what is known of them."""

    first: str
    last: str
    days: int
    rows: int
    tested_rows: int
    least_auc: float


class Term(NamedTuple):
    """Of a ledger, as a run record holds it."""

    rows: int
    hash_sum: int


ALL_DAYS = Span("2010-12-02", "2011-12-10", days=374, rows=970_979, tested_rows=455_707, least_auc=0.73)
TEN_DAYS = Span("2011-07-01", "2011-07-10", days=10, rows=29_831, tested_rows=29_831, least_auc=0.73)


@dataclass(frozen=True)
class Retail:
    """A lake with the job `retail` in an empty folder."""

    root: Path
    features: Path
    """The days that are imported: one Parquet file with a row for each day and customer."""

    def __post_init__(self) -> None:
        self.lake.mkdir(exist_ok=True)  # no command asks whether it is to be made

    @property
    def lake(self) -> Path:
        return self.root / "lake"

    def call(self, *arguments: object) -> Any:
        """Runs a command in a process of its own, which has more time than with `lakescore`, and returns its JSON."""
        command = [sys.executable, "-m", "pipeline", *map(str, arguments), "--json"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            command, cwd=self.root, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
        assert done.returncode == 0, f"{arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return json.loads(done.stdout)

    def backfill(self, span: Span) -> list[str]:
        """Returns the state of each day."""
        outcomes = self.call("backfill", "--from", span.first, "--to", span.last, *JOB)
        return [outcome["state"] for outcome in outcomes]

    def query(self, text: str) -> duckdb.DuckDBPyRelation:
        """Runs SQL over two views, `features` and `predictions`; the relation keeps its connection open."""
        con = duckdb.connect()
        con.read_parquet(str(self.features)).create_view("features")
        stored = self.lake / "predictions" / "job=retail" / "*" / "*" / "part-*.parquet"
        con.read_parquet(str(stored), hive_partitioning=True).create_view("predictions")
        return con.sql(text)

    def records(self, ds: str = "*") -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in sorted(self.lake.glob(f"runs/job=retail/ds={ds}/*"))]

    def files(self) -> dict[str, tuple[int, int, int]]:
        """Returns size, time of change and inode of all files and folders of the lake."""
        found = ((path, path.stat()) for path in self.lake.rglob("*"))
        return {str(path): (stat.st_size, stat.st_mtime_ns, stat.st_ino) for path, stat in found}


@pytest.fixture
def retail(features: Path, checkpoint: Path, tmp_path: Path) -> Retail:
    """A lake without input; the model is registered."""
    made = Retail(tmp_path, features)
    made.call("models", "register", checkpoint, "--name", "retail", "--version", "v1", "--alias", "production")
    return made


@pytest.mark.parametrize(
    "span",
    [
        pytest.param(TEN_DAYS, id="ten-days", marks=pytest.mark.slow),
        pytest.param(ALL_DAYS, id="all-days", marks=[pytest.mark.slow, pytest.mark.timeout(3 * TIMEOUT_S)]),
    ],
)
def test_retail_backfill_repeat_and_change_score_each_row_once(retail: Retail, span: Span) -> None:
    retail = only(retail, span)
    imported = retail.call("import", retail.features, "--partition-by", "as_of", *JOB)
    assert (len(imported), sum(day["rows"] for day in imported)) == (span.days, span.rows)

    assert retail.backfill(span) == ["complete"] * span.days
    assert_every_row_is_predicted_once(retail, span)
    assert_every_ledger_adds_up(retail, span)
    scores, labels = judged(retail)
    assert len(scores) == span.tested_rows
    assert auc(scores, labels) >= span.least_auc

    before = retail.files()
    assert retail.backfill(span) == ["up to date"] * span.days
    assert retail.files() == before

    changed, new = change(retail)
    run_id = rerun(retail)
    expected = [(customer, "changed", 1) for customer in changed] + [(customer, "new", 0) for customer in new]
    assert predicted_by(retail, run_id) == sorted(expected)
    assert_only_that_day_differs(retail, before)


def test_auc_with_ties_is_the_share_of_pairs_in_order() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 10, 200), rng.integers(0, 2, 200)
    pairs = list(product(scores[labels == 1], scores[labels == 0]))
    expected = sum(1.0 if buyer > other else 0.5 if buyer == other else 0.0 for buyer, other in pairs) / len(pairs)
    assert auc(scores, labels) == pytest.approx(expected, abs=1e-12)


def only(retail: Retail, span: Span) -> Retail:
    """Leaves the days of a span to be imported."""
    if span is ALL_DAYS:
        return retail
    path = retail.root / "some_days.parquet"
    days = duckdb.read_parquet(str(retail.features)).filter(f"as_of BETWEEN '{span.first}' AND '{span.last}'")
    days.write_parquet(str(path))
    return Retail(retail.root, path)


def assert_every_row_is_predicted_once(retail: Retail, span: Span) -> None:
    (found,) = retail.query("""
        SELECT count(*), count(DISTINCT (ds, customer_id)), count(DISTINCT run_id), list(DISTINCT (reason, revision))
        FROM predictions
        WHERE isfinite(prob_class_1) AND abs(prob_class_0 + prob_class_1 - 1) < 1e-6
    """).fetchall()
    assert found == (span.rows, span.rows, span.days, [("new", 0)])
    lost = retail.query("SELECT as_of, customer_id FROM features EXCEPT SELECT ds, customer_id FROM predictions")
    assert lost.fetchall() == []


def assert_every_ledger_adds_up(retail: Retail, span: Span) -> None:
    """The sums of hashes in the records are computed here from the imported file and from the stored predictions."""
    terms = "count(*), sum(hash(customer_id::BIGINT))"
    imported = retail.query(f"SELECT as_of::VARCHAR, {terms} FROM features GROUP BY 1 ORDER BY 1").fetchall()
    stored = retail.query(f"SELECT ds::VARCHAR, {terms} FROM predictions GROUP BY 1 ORDER BY 1").fetchall()
    records = retail.records()
    assert len(records) == span.days
    for record in records:
        candidates, *others = (Term(**term) for term in record["ledger"].values())
        assert record["state"] == "complete"
        assert candidates == (sum(term.rows for term in others), sum(term.hash_sum for term in others))
    assert [(record["ds"], *record["ledger"]["candidates"].values()) for record in records] == imported
    assert [(record["ds"], *record["ledger"]["scored"].values()) for record in records] == stored
    assert len(list(retail.lake.glob("predictions/**/_SUCCESS"))) == span.days
    assert not list(retail.lake.rglob("quarantine"))
    assert {path.name for path in retail.lake.glob(".staging/*")} <= {"probed", "locks"}


def judged(retail: Retail) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Returns the stored probabilities and the labels of the days by which the model is judged."""
    found = retail.query(f"""
        SELECT p.prob_class_1 AS score, f.buys_30d AS label
        FROM predictions AS p JOIN features AS f ON f.as_of = p.ds AND f.customer_id = p.customer_id
        WHERE p.ds BETWEEN '{TESTED[0]}' AND '{TESTED[1]}' AND f.buys_30d IS NOT NULL
    """).fetchnumpy()
    return found["score"], found["label"]


def auc(scores: NDArray[Any], labels: NDArray[Any]) -> float:
    """Returns the share of pairs of a buyer and another in which the buyer scores higher, ties counting half.

    Exact, from the ranks (Mann and Whitney 1947); equal scores share the middle of their ranks.
    """
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]  # (rows,), from 1
    buyers = int((labels == 1).sum())
    above = ranks[labels == 1].sum() - buyers * (buyers + 1) / 2
    return float(above / (buyers * (len(labels) - buyers)))


def change(retail: Retail) -> tuple[Sequence[int], Sequence[int]]:
    """Imports DAY anew, with other features for some customers and with new customers; returns the ids of both.

    Each of the four features changes for a quarter of the first. A new customer has all features of an old one.
    """
    path = retail.root / "changed.parquet"
    day = f"(SELECT *, row_number() OVER (ORDER BY customer_id) AS n FROM features WHERE as_of = '{DAY}')"
    retail.query(f"""
        SELECT * EXCLUDE n REPLACE (
            tenure_days + if(n <= {CHANGED} AND n % 4 = 0, 1, 0) AS tenure_days,
            num_purchases + if(n <= {CHANGED} AND n % 4 = 1, 1, 0) AS num_purchases,
            avg_transaction_value * if(n <= {CHANGED} AND n % 4 = 2, 1.01, 1) AS avg_transaction_value,
            days_since_last_purchase + if(n <= {CHANGED} AND n % 4 = 3, 1, 0) AS days_since_last_purchase
        ) FROM {day}
        UNION ALL
        SELECT * EXCLUDE n REPLACE (customer_id + {NEW_FROM} AS customer_id) FROM {day} WHERE n <= {NEW}
    """).write_parquet(str(path))
    retail.call("import", path, "--date", DAY, "--replace", *JOB)
    found = retail.query(f"SELECT customer_id FROM features WHERE as_of = '{DAY}' ORDER BY 1").fetchnumpy()
    ids = found["customer_id"].tolist()
    return ids[:CHANGED], [customer + NEW_FROM for customer in ids[:NEW]]


def rerun(retail: Retail) -> str:
    """Runs DAY again; returns the run's id."""
    (outcome,) = retail.call("run", "--date", DAY, *JOB)
    first, second = retail.records(DAY)
    assert second["run_id"] == outcome["run_id"]
    rows = first["ledger"]["scored"]["rows"]
    assert outcome["ledger"] == {
        "candidates": rows + NEW,
        "scored": CHANGED + NEW,
        "unchanged": rows - CHANGED,
        "quarantined": 0,
        "duplicates": 0,
        "overtaken": 0,
    }
    return second["run_id"]


def predicted_by(retail: Retail, run_id: str) -> list[tuple[int, str, int]]:
    """Returns key, reason and revision of each row that a run has stored, of whatever day."""
    columns = "customer_id, reason, revision"
    return retail.query(f"SELECT {columns} FROM predictions WHERE run_id = '{run_id}' ORDER BY ALL").fetchall()


def assert_only_that_day_differs(retail: Retail, before: dict[str, tuple[int, int, int]]) -> None:
    after = retail.files()
    elsewhere = {path for path in before | after if f"ds={DAY}" not in path and Path(path).is_file()}
    for index in ("reports/index.html", "quality/docs/index.html"):  # they show all days
        elsewhere.remove(str(retail.root / "lake" / index))
    assert {path: after.get(path) for path in elsewhere} == {path: before.get(path) for path in elsewhere}
    parts = [path for path in before if path.endswith(".parquet") and f"predictions/job=retail/ds={DAY}" in path]
    assert parts
    assert {path: after[path] for path in parts} == {path: before[path] for path in parts}
