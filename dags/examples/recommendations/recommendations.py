"""Trains a two-tower model of what customers buy next, on purchases up to a day: recommendations.py [DAY]."""

import sys
from datetime import date, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from pipeline.model.card import Card
from pipeline.model.registry import Registry

CUSTOMERS, SHELVES, ON_SHELF, PURCHASES, SIZE = 3_000, 30, 10, 120_000, 48
SIGNATURE = {"inputs": {"recent": {"kind": "list", "length": 30}}, "task": "ranking", "top": 10}
LAST = date.fromisoformat(sys.argv[1] if len(sys.argv) > 1 else "2025-12-31")
torch.manual_seed(0)


def make_data(rng: np.random.Generator) -> None:
    """Each customer likes two shelves; three of ten purchases are what everybody buys."""
    days, names = np.arange("2025-09-01", "2026-03-01", dtype="M8[D]"), np.char.mod("C%05d", np.arange(CUSTOMERS))
    who, liked = rng.integers(0, CUSTOMERS, PURCHASES), rng.integers(0, SHELVES, (CUSTOMERS, 2))
    own = liked[who, rng.integers(0, 2, PURCHASES)] * ON_SHELF + rng.integers(0, ON_SHELF, PURCHASES)
    product = np.where(rng.random(PURCHASES) < 0.3, rng.geometric(0.05, PURCHASES) % (SHELVES * ON_SHELF), own)
    bought = {"customer_id": names[who], "product": np.char.mod("P%03d", product), "day": rng.choice(days, PURCHASES)}
    for path, columns in {"purchases": bought, **{f"customers/ds={ds}": {"customer_id": names} for ds in days}}.items():
        Path("lake", path).mkdir(parents=True)
        pq.write_table(pa.table(columns), f"lake/{path}/all.parquet")


class TwoTowers(nn.Module):
    def __init__(self, products: int) -> None:
        super().__init__()
        self.product, self.popularity = nn.Embedding(products, SIZE), nn.Parameter(torch.zeros(products))
        self.customer = nn.Sequential(nn.Linear(SIZE, SIZE), nn.ReLU(), nn.Linear(SIZE, SIZE))
        nn.init.normal_(self.product.weight, std=0.1)

    def forward(self, recent: Tensor) -> Tensor:  # (rows, 30): numbers of products, -1 for none
        known = (recent >= 0).float()
        bought = (self.product(recent.clamp(min=0).long()) * known[:, :, None]).sum(1)
        bought = bought / known.sum(1, keepdim=True).clamp(min=1).sqrt()  # (rows, SIZE)
        return nn.functional.linear(bought + self.customer(bought), self.product.weight, self.popularity)


def train(model: nn.Module, recent: Tensor, number: Tensor, file: Path) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    for batch in torch.randperm(len(number)).repeat(3).split(1024):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(recent[batch]), number[batch]).backward()
        optimizer.step()
    rows_vary = ({0: torch.export.Dim("rows")},)
    torch.export.save(torch.export.export(model.eval(), (recent[:2],), dynamic_shapes=rows_vary), file)
    print(f"recommendations v1 is trained on {len(number):,} purchases")


if not Path("lake/purchases").exists():
    make_data(np.random.default_rng(0))
con = duckdb.connect()
con.read_parquet("lake/purchases/*.parquet").create_view("purchases")
con.sql("SELECT DISTINCT customer_id FROM purchases").create_view("customers")
products = sorted({row[0] for row in con.execute("SELECT product FROM purchases WHERE day <= ?", [LAST]).fetchall()})
pq.write_table(pa.table({"product": products, "number": range(len(products))}), "lake/catalogue.parquet")
con.read_parquet("lake/catalogue.parquet").create_view("catalogue")
features = Path("dags/jobs/recommendations/features.sql").read_text("utf-8")
bought = "FROM purchases JOIN catalogue USING (product) WHERE day BETWEEN $day + 1 AND $day + 30"
months = []  # what was known of customers on a day, and what they bought in the 30 days after it
for day in [LAST - timedelta(30 * month) for month in (1, 2, 3)]:
    pairs = con.sql(features, params={"ds": day}).join(con.sql(bought, params={"day": day}), "customer_id")
    months.append(pairs.select("recent, number").order("ALL").to_arrow_table())
rows, file = pa.concat_tables(months), Path("recommendations.pt2")
recent, number = (torch.tensor(rows[name].to_pylist(), dtype=torch.float32) for name in ("recent", "number"))
train(TwoTowers(len(products)), recent, number.long(), file)
known = {"features": ["recent"], "classes": products, "examples": rows.slice(0, 256), "card": Card(signature=SIGNATURE)}
Registry(Path("models")).register(file, name="recommendations", version="v1", alias="production", **known)
