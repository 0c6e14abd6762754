"""The example `campaign` with real purchases in place of the made-up ones: its job as it is, its training as it is.

Data: D. Chen, S. L. Sain and K. Guo (2012), Online Retail, UCI Machine Learning Repository (CC0).
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from tests.calling import Cli
from tests.workspace import Workspace

WEEKS = ("2011-09-05", "2011-09-12")
CHOSEN, HELD_OUT = 400, 0.25
INVOICES = """
    SELECT
        'C' || CustomerID::BIGINT AS customer_id,
        min(InvoiceDate)::TIMESTAMPTZ AS bought_at,
        sum(Quantity * UnitPrice) AS amount
    FROM retail
    WHERE CustomerID IS NOT NULL AND Quantity > 0 AND UnitPrice > 0 AND InvoiceNo NOT LIKE 'C%'
    GROUP BY InvoiceNo, CustomerID
"""


@pytest.mark.slow
def test_campaign_ranks_real_customers_and_keeps_their_groups(cli: Cli, tmp_path: Path, data_folder: Path) -> None:
    cli("init", "--example", "campaign")
    real_purchases(data_folder, tmp_path / "lake" / "purchases" / "invoices.parquet")
    (tmp_path / "opted_out.csv").write_text("customer_id\nC12346\nC17841\n")
    adapt(tmp_path / "campaign.py", r"datetime\(2025, 10, 6", "datetime(2011, 6, 6")
    adapt(tmp_path / "campaign.py", r"^make_data\(.*\)\n", "")
    adapt(tmp_path / "a_month_later.py", r"hash\(.*\) % 5 = 0", "FALSE")  # nobody got an offer
    adapt(tmp_path / "dags/jobs/campaign/job.toml", "top = 10_000", f"top = {CHOSEN}")
    adapt(tmp_path / "dags/jobs/campaign/job.toml", r"share = 0\.05", f"share = {HELD_OUT}")
    script(tmp_path, "campaign.py")
    cli("backfill", "--job", "campaign", "--from", WEEKS[0], "--to", WEEKS[1])
    script(tmp_path, "a_month_later.py")
    cli("labels", "import", "outcomes.parquet", "--job", "campaign", "--label", "churned", "--partition-by", "ds")
    lake = Workspace(tmp_path)
    for ds, auc in lake.ask("SELECT ds, auc FROM performance ORDER BY ds"):
        assert auc > 0.69, f"{ds}: what is known of real customers was seen to tell 0.71"
    groups = "SELECT key_text, count(DISTINCT export_group), count(DISTINCT ds) FROM exports GROUP BY key_text"
    found = lake.ask(groups)
    assert {many for _, many, _ in found} == {1}
    assert sum(weeks == len(WEEKS) for *_, weeks in found) > CHOSEN / 2
    assert "C17841" not in {key for key, *_ in found}
    ((held,),) = lake.ask("SELECT avg((export_group = 'holdout')::INTEGER) FROM exports")
    assert held == pytest.approx(HELD_OUT, abs=0.06)
    cli("report")
    page = (tmp_path / "lake" / "reports" / "index.html").read_text("utf-8")
    assert page.count("<td>may be chance</td>") == len(WEEKS), "an offer that nobody got changes nothing"


def real_purchases(data: Path, path: Path) -> None:
    path.parent.mkdir(parents=True)
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'")
        con.read_parquet(str(data / "online_retail" / "online_retail.parquet")).create_view("retail")
        con.sql(INVOICES).write_parquet(str(path))


def adapt(path: Path, old: str, new: str) -> None:
    text, times = re.subn(old, new, path.read_text("utf-8"), flags=re.MULTILINE)
    assert times, f"{path.name} has no {old}"
    path.write_text(text, "utf-8")


def script(folder: Path, name: str) -> None:
    subprocess.run([sys.executable, name], cwd=folder, check=True, timeout=600)
