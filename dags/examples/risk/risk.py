"""Makes up three weeks of card transactions, trains a model on nine days of them, and registers it.

On each day some accounts are taken over, for up to four days: higher amounts, abroad, at night, in quick succession.
labels.parquet says which transactions those are.
"""

from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn

from pipeline.model.registry import Registry

ACCOUNTS, TRANSACTIONS, TAKEN_OVER = 4_000, 16_000, 6  # the last two: per day
DAYS = np.arange("2026-01-01", "2026-01-22", dtype="datetime64[D]")
FEATURES = ["above_usual", "abroad", "at_night", "in_last_hour"]


def write(path: str, **columns: object) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def make_data(rng: np.random.Generator) -> None:
    names = np.array([f"A{number:05}" for number in range(ACCOUNTS)])
    usual, home = rng.lognormal(3, 0.8, ACCOUNTS), rng.choice(["de", "fr", "gb", "us"], ACCOUNTS)
    write("lake/accounts/accounts.parquet", account=names, usual_amount=usual, country=home)
    taken_until, labels = np.full(ACCOUNTS, DAYS[0]), []
    for ds in DAYS:
        taken_until[rng.choice(ACCOUNTS, TAKEN_OVER)] = ds + rng.integers(1, 5, TAKEN_OVER)
        taken = np.flatnonzero(taken_until > ds).repeat(8)
        who = np.append(rng.integers(0, ACCOUNTS, TRANSACTIONS), taken)
        fraud = np.arange(len(who)) >= TRANSACTIONS
        second = np.where(fraud, rng.integers(0, 15_000, len(who)), rng.normal(54_000, 14_000, len(who)) % 86_400)
        abroad = rng.random(len(who)) < np.where(fraud, 0.6, 0.05)
        ids = np.array([f"{ds}-{number:06}" for number in range(len(who))])
        write(
            f"lake/transactions/ds={ds}/part-0.parquet",
            transaction_id=ids,
            account=names[who],
            at=ds.astype("datetime64[s]") + second.astype("timedelta64[s]"),
            amount=usual[who] * rng.lognormal(np.where(fraud, 1, 0), 0.6),
            country=np.where(abroad, "br", home[who]),
        )
        labels.append(pa.table({"transaction_id": ids, "ds": np.full(len(ids), str(ds)), "fraud": fraud.astype(int)}))
    pq.write_table(pa.concat_tables(labels), "labels.parquet")


def training_rows() -> pa.Table:
    con = duckdb.connect()
    con.read_parquet("lake/transactions/ds=2026-01-0*/*.parquet").create_view("transactions")
    con.read_parquet("lake/accounts/*.parquet").create_view("accounts")
    features = con.sql(Path("dags/jobs/risk/features.sql").read_text("utf-8"))
    labels = con.read_parquet("labels.parquet")
    return features.join(labels, "transaction_id").order("transaction_id").to_arrow_table()


def train(rows: pa.Table) -> None:
    matrix = torch.from_numpy(np.column_stack([rows[name] for name in FEATURES]).astype(np.float32))  # (rows, features)
    labels = torch.from_numpy(rows["fraud"].to_numpy())  # (rows,)
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for batch in torch.randperm(len(matrix)).repeat(3).split(1024):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(matrix[batch]), labels[batch]).backward()
        optimizer.step()
    file, rows_vary = Path("risk.pt2"), ({0: torch.export.Dim("rows")},)
    torch.export.save(torch.export.export(model.eval(), (matrix[:2],), dynamic_shapes=rows_vary), file)
    Registry(Path("models")).register(file, name="risk", version="v1", features=FEATURES, alias="production")
    print(f"risk v1 is trained on {len(rows):,} transactions, {int(labels.sum()):,} of them frauds")


make_data(np.random.default_rng(0))
train(training_rows())
