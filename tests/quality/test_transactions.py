"""A suite over real, dirty transactions, by `validate` alone: it finds the dirt that is known, as plain SQL counts it.

Data: D. Chen, S. L. Sain and K. Guo (2012), Online Retail, UCI Machine Learning Repository (CC0).
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path

import duckdb
import pytest

from pipeline.context import Context
from pipeline.ingest.importing import import_files
from pipeline.job.loading import find_job
from pipeline.quality.on_demand import validate
from pipeline.settings import Settings
from pipeline.tabular import sources

COLUMNS = ["InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID", "Country"]
KNOWN = {"cancelled": 9_288, "quantity": 10_624, "price": 2_517, "customer": 135_080, "copies": 5_268}
PLAIN = {
    "cancelled": "count_if(InvoiceNo LIKE 'C%')",
    "quantity": "count_if(Quantity <= 0)",
    "price": "count_if(UnitPrice <= 0)",
    "customer": "count_if(CustomerID IS NULL)",
    "copies": f"count(*) - (SELECT count(*) FROM (SELECT DISTINCT {', '.join(COLUMNS)} FROM lines WHERE day = d.day))",
}
JOB = """
[model]
name = "none"
[input]
path = "unscored/ds={ds}/*.parquet"
key = ["InvoiceNo", "StockCode"]
features = ["Quantity", "UnitPrice"]
[quality]
off = ["row_count", "scale", "all_default_features"]
"""


def rule(name: str, kind: str, **kwargs: object) -> dict[str, object]:
    return {"type": f"expect_{kind}", "kwargs": kwargs, "severity": "warning", "meta": {"name": name}}


SUITE = [
    rule("cancelled", "column_values_to_not_match_regex", column="InvoiceNo", regex="^C"),
    rule("quantity", "column_values_to_be_between", column="Quantity", min_value=1),
    rule("price", "column_values_to_be_between", column="UnitPrice", min_value=0, strict_min=True),
    rule("customer", "column_values_to_not_be_null", column="CustomerID"),
    rule("copies", "rows_to_be_distinct", column_list=COLUMNS),
]


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    folder = tmp_path / "jobs" / "lines"
    folder.mkdir(parents=True)
    (folder / "job.toml").write_text(JOB)
    (folder / "input.json").write_text(json.dumps({"expectations": SUITE}))
    settings = dataclasses.replace(
        Settings(), lake=str(tmp_path / "lake"), jobs=tmp_path / "jobs", models=str(tmp_path)
    )
    return Context.open(find_job("lines", settings), settings)


def plain(data: Path, days: str) -> dict[str, Counter[str]]:
    """Returns the counts of plain SQL by day."""
    terms = ", ".join(f"{term} AS {name}" for name, term in PLAIN.items())
    with duckdb.connect() as con:
        con.execute(f"CREATE TABLE lines AS SELECT *, {days} AS day FROM '{data}'")
        found = con.sql(f"SELECT day, {terms} FROM lines AS d GROUP BY day ORDER BY day").fetchall()
    return {day: Counter(dict(zip(PLAIN, counts, strict=True))) for day, *counts in found}


def validated(ctx: Context, ds: str) -> Counter[str]:
    return Counter({check.name: check.unexpected or 0 for check in validate(ctx, ds) if check.name in KNOWN})


def imported(ctx: Context, data: Path, tmp_path: Path, days: str) -> None:
    path = tmp_path / "lines.parquet"
    with duckdb.connect() as con:
        con.sql(f"SELECT *, {days} AS day FROM '{data}'").write_parquet(str(path))
    import_files(ctx.lake, ctx.job, sources.find([path], ()), partition_by="day")


@pytest.mark.parametrize(
    "days",
    [
        pytest.param("'2011-12-31'", id="all lines as one day"),
        pytest.param("strftime(InvoiceDate, '%Y-%m-%d')", id="by day", marks=pytest.mark.slow),
    ],
)
def test_validate_transactions_finds_the_known_dirt(ctx: Context, data_folder: Path, tmp_path: Path, days: str) -> None:
    data = data_folder / "online_retail" / "online_retail.parquet"
    expected = plain(data, days)
    imported(ctx, data, tmp_path, days)
    found = {ds: validated(ctx, ds) for ds in expected}
    assert found == expected
    assert dict(sum(found.values(), Counter())) == KNOWN
