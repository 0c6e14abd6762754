"""The example `recommendations` on real purchases: its script and job as they are, trained on a shop's first year.

Data: D. Chen, S. L. Sain and K. Guo (2012), Online Retail, UCI Machine Learning Repository (CC0).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from tests.calling import Cli
from tests.conftest import ROOT
from tests.workspace import Workspace

TRAINED_UNTIL, NIGHT = "2011-10-31", "2011-11-09"
"""The month that follows the night is the last that the data have: 2011-11-10 to 2011-12-09."""
PURCHASES = """
    SELECT DISTINCT CustomerID::BIGINT::VARCHAR AS customer_id, StockCode AS product, InvoiceDate::DATE AS day
    FROM read_parquet($path)
    WHERE CustomerID IS NOT NULL AND Quantity > 0 AND UnitPrice > 0 AND InvoiceNo NOT LIKE 'C%'
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_recall_of_the_following_month_is_above_popularity(cli: Cli, data_folder: Path, tmp_path: Path) -> None:
    cli("init", "--example", "recommendations")
    write_purchases(data_folder, tmp_path / "lake")
    job = tmp_path / "dags" / "jobs" / "recommendations" / "job.toml"
    job.write_text(job.read_text("utf-8").partition("[[publish]]")[0])  # tests/docs has a Redis
    subprocess.run(
        [sys.executable, "recommendations.py", TRAINED_UNTIL],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        timeout=1000,
    )
    (outcome,) = json.loads(cli("run", "--job", "recommendations", "--date", NIGHT, "--json").stdout)
    assert outcome["state"] == "complete"
    query = (tmp_path / "recall.sql").read_text("utf-8")
    (found,) = json.loads(cli("query", query, "--job", "recommendations", "--json").stdout)
    assert found["customers"] == bought_in_the_following_month(Workspace(tmp_path))
    assert found["recall_at_10"] > 1.3 * found["of_popularity"]
    assert found["of_popularity"] > 0.01


def write_purchases(data: Path, lake: Path) -> None:
    for folder in ("purchases", f"customers/ds={NIGHT}"):
        (lake / folder).mkdir(parents=True)
    with duckdb.connect() as con:
        found = con.sql(PURCHASES, params={"path": str(data / "online_retail" / "online_retail.parquet")})
        found.write_parquet(str(lake / "purchases" / "all.parquet"))
        customers = con.read_parquet(str(lake / "purchases" / "all.parquet")).filter(f"day <= DATE '{NIGHT}'")
        customers.select("customer_id").distinct().write_parquet(
            str(lake / "customers" / f"ds={NIGHT}" / "all.parquet")
        )


def bought_in_the_following_month(workspace: Workspace) -> int:
    """Returns the number of the night's customers who bought something in the 30 days after it."""
    with duckdb.connect() as con:
        con.read_parquet(f"{workspace.lake}/purchases/*.parquet").create_view("purchases")
        con.read_parquet(f"{workspace.lake}/customers/*/*.parquet").create_view("customers")
        both = con.view("customers").join(con.view("purchases"), "customer_id")
        after = both.filter(f"day > DATE '{NIGHT}' AND day <= DATE '{NIGHT}' + 30")
        return int(after.aggregate("count(DISTINCT customer_id)").fetchall()[0][0])
