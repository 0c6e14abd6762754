"""Drift, labels and injected faults over the real days: slow, and with FIGURES=1 over all 374 of them.

Data: D. Chen, S. L. Sain and K. Guo (2012), Online Retail, UCI Machine Learning Repository (CC0).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pytest

from pipeline.database.connection import connect
from pipeline.lake.layout import Lake
from pipeline.query import views
from tests.retail.test_online_retail import TIMEOUT_S, Retail
from tests.retail.train import EARLY, LATE

JOB_FOLDER = Path(__file__).parent / "jobs" / "retail"
TRAINED = (EARLY[0], LATE[1])
"""First and last day of the rows that the model was trained on: its baseline."""


class Span(NamedTuple):
    first: str
    last: str
    quiet_from: str
    """The first day whose score is held against the trailing window."""


FOUR_MONTHS = Span("2011-04-01", "2011-07-31", "2011-04-20")
ALL_DAYS = Span("2010-12-02", "2011-12-08", "2011-04-01")
SPAN = ALL_DAYS if os.environ.get("FIGURES") else FOUR_MONTHS
FAULTS = {
    "scaled": ("avg_transaction_value", "avg_transaction_value * 1.5"),
    "missing": ("num_purchases", "CASE WHEN hash(customer_id) % 5 > 0 THEN num_purchases END"),
}
"""What happens to a feature on one of the two days after the span, each on a day of its own."""


@pytest.fixture(scope="module")
def judged(features: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Retail:
    """A lake with the days of the span scored, their labels, and two days after it with faults."""
    made = Retail(tmp_path_factory.mktemp("drift"), features)
    job = made.root / "retail"
    shutil.copytree(JOB_FOLDER, job)
    text = (job / "job.toml").read_text()
    (job / "job.toml").write_text(text.replace("max_quarantined = 0.0", "max_quarantined = 0.5"))
    days = duckdb.read_parquet(str(features))
    days.filter(f"as_of BETWEEN '{TRAINED[0]}' AND '{TRAINED[1]}' AND buys_30d IS NOT NULL").write_parquet(
        str(made.root / "training.parquet")
    )
    days.filter(f"as_of BETWEEN '{SPAN.first}' AND '{SPAN.last}'").write_parquet(str(made.root / "days.parquet"))
    made.call(
        *("models", "register", checkpoint, "--name", "retail", "--version", "v1", "--alias", "production"),
        *("--baseline", "training.parquet"),
    )
    made.call("import", "days.parquet", "--partition-by", "as_of", "--job", job)
    made.call("backfill", "--from", SPAN.first, "--to", SPAN.last, "--job", job)
    made.call("labels", "import", "days.parquet", "--label", "buys_30d", "--partition-by", "as_of", "--job", job)
    for ds, (feature, changed) in zip(fault_days(), FAULTS.values(), strict=True):
        path = made.root / f"{ds}.parquet"
        query = f"SELECT * REPLACE ({changed} AS {feature}) FROM days WHERE as_of = '{ds}'"
        faulty = days.query("days", query)
        assert faulty is not None
        faulty.write_parquet(str(path))
        made.call("import", path, "--date", ds, "--job", job)
        made.call("run", "--date", ds, "--job", job)
    return made


def fault_days() -> list[str]:
    query = f"SELECT strftime('{SPAN.last}'::DATE + day::INTEGER, '%Y-%m-%d') FROM range(1, 3) AS r(day)"
    with duckdb.connect() as con:
        return [day for (day,) in con.execute(query).fetchall()]


@pytest.fixture
def ask(judged: Retail) -> Iterator[Any]:
    with connect(threads=2) as con:
        views.create(con, Lake.open(str(judged.lake)))
        yield lambda query: con.sql(query).fetchall()


pytestmark = [pytest.mark.slow, pytest.mark.timeout(3 * TIMEOUT_S)]
ALARM = "outcome IN ('warning', 'critical')"


def test_tenure_drifts_from_the_training_data_and_does_not_come_back(ask: Any) -> None:
    query = f"""
        SELECT count(*), count(*) FILTER ({ALARM}) FROM drift
        WHERE reference = 'training' AND column_name = 'tenure_days' AND ds BETWEEN '2011-06-23' AND '{SPAN.last}'
    """
    ((days, alarms),) = ask(query)
    assert days == alarms > 30


def test_score_stays_quiet_against_the_days_before(ask: Any) -> None:
    found = ask(f"""
        SELECT ds, column_name, psi FROM drift
        WHERE reference = 'trailing' AND kind IN ('score', 'class') AND {ALARM}
            AND ds BETWEEN '{SPAN.quiet_from}' AND '{SPAN.last}'
    """)
    assert found == []
    ((judged_days,),) = ask(f"""
        SELECT count(*) FROM drift
        WHERE reference = 'trailing' AND kind = 'score' AND outcome = 'ok'
            AND ds BETWEEN '{SPAN.quiet_from}' AND '{SPAN.last}'
    """)
    assert judged_days > 90


@pytest.mark.parametrize("fault", FAULTS)
def test_injected_fault_is_found_on_its_first_day(ask: Any, fault: str) -> None:
    ds = dict(zip(FAULTS, fault_days(), strict=True))[fault]
    found = ask(
        f"SELECT column_name FROM drift WHERE ds = '{ds}' AND reference = 'trailing' AND {ALARM} AND kind = 'feature'"
    )
    assert found == [(FAULTS[fault][0],)]


def test_labels_show_a_steady_auc_and_the_july_over_prediction(ask: Any) -> None:
    ((low, high, days),) = ask("SELECT min(auc), max(auc), count(*) FROM performance WHERE ds >= '2011-02-01'")
    assert days >= 120
    assert 0.70 <= low <= high <= 0.78
    months = dict(ask("SELECT ds[:7], avg(mean_score - base_rate) FROM performance GROUP BY 1"))
    assert abs(months["2011-04"]) < 0.01
    assert months["2011-07"] > 0.04
