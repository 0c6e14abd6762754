"""Makes up a shop's purchases since 2025, trains a model on what was known in October, and registers it."""

from datetime import UTC, datetime
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn

from pipeline.model.registry import Registry

CUSTOMERS, OPTED_OUT, DAYS = 30_000, 600, 425
START, OCTOBER = np.datetime64("2025-01-01"), datetime(2025, 10, 6, tzinfo=UTC)
FEATURES = ["tenure_days", "purchases", "mean_amount", "days_since_last"]
LATER = """
    SELECT DISTINCT customer_id, TRUE AS stays FROM purchases
    WHERE bought_at >= $since AND bought_at < $since + INTERVAL 28 DAY
"""


def make_data(rng: np.random.Generator) -> None:
    """Customers come, buy at a pace of their own, and leave some day without saying so."""
    names = np.array([f"C{number:05}" for number in range(CUSTOMERS)])
    comes = rng.uniform(0, 365, CUSTOMERS)
    stays = np.minimum(rng.exponential(250, CUSTOMERS), DAYS - comes)
    counts = 1 + rng.poisson(stays * rng.gamma(2, 0.025, CUSTOMERS))
    who = np.arange(CUSTOMERS).repeat(counts)
    later = rng.random(len(who)) * stays[who]
    later[np.append(0, counts.cumsum()[:-1])] = 0  # everybody begins with a purchase
    at = START.astype("datetime64[s]") + ((comes[who] + later) * 86_400).astype("timedelta64[s]")
    Path("lake/purchases").mkdir(parents=True, exist_ok=True)
    bought_at, amount = pa.array(at, pa.timestamp("s", "UTC")), rng.lognormal(3, 0.8, len(who))
    bought = pa.table({"customer_id": names[who], "bought_at": bought_at, "amount": amount})
    pq.write_table(bought, "lake/purchases/until-february.parquet")
    opted_out = rng.choice(names, OPTED_OUT, replace=False)
    Path("opted_out.csv").write_text("\n".join(["customer_id", *sorted(opted_out)]) + "\n")


def training_rows() -> pa.Table:
    con = duckdb.connect()
    con.read_parquet("lake/purchases/*.parquet").create_view("purchases")
    features = con.sql(Path("dags/jobs/campaign/features.sql").read_text("utf-8"), params={"end": OCTOBER})
    labelled = features.join(con.sql(LATER, params={"since": OCTOBER}), "customer_id", how="left")
    return labelled.select("*, (stays IS NULL)::BIGINT AS churned").order("customer_id").to_arrow_table()


class Churn(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.BatchNorm1d(4), nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return super().forward(features.log1p())  # (rows, 2)


def train(rows: pa.Table) -> None:
    matrix = torch.tensor(np.column_stack([rows[name] for name in FEATURES]), dtype=torch.float32)  # (rows, features)
    churned = torch.tensor(rows["churned"].to_numpy())  # (rows,)
    torch.manual_seed(0)
    model = Churn()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.005)
    for _ in range(5):
        for chosen in torch.randperm(len(matrix)).split(512):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(matrix[chosen]), churned[chosen]).backward()
            optimizer.step()
    program = torch.export.export(model.eval(), (matrix[:2],), dynamic_shapes=({0: torch.export.Dim("rows")},))
    torch.export.save(program, file := Path("campaign.pt2"))
    about = {"features": FEATURES, "alias": "production", "examples": rows.slice(0, 256)}
    Registry(Path("models")).register(file, name="campaign", version="v1", **about)
    print(
        f"campaign v1 is trained on {len(rows):,} customers; {churned.float().mean():.0%} bought nothing for four weeks"
    )


make_data(np.random.default_rng(0))
train(training_rows())
