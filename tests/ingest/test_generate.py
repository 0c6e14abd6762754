"""Synthetic days: their content, reproducibility and memory use."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import UsageError
from pipeline.ingest.generate import SCHEMA, batches, generate_day
from pipeline.lake.layout import Lake
from pipeline.lake.patterns import Pattern
from pipeline.storage.parquet import ROW_GROUP
from tests.ingest.reading import ROOT, day_files, hidden, rows_of

DAY = "2026-01-31"
ROWS = 200_000
QUANTILES = np.array([0.05, 0.25, 0.5, 0.75, 0.95])
NORMAL = np.array([NormalDist().inv_cdf(q) for q in QUANTILES])
MEASURE = """
import sys
from pipeline.ingest.generate import generate_day
from pipeline.lake.layout import Lake
from pipeline.lake.patterns import Pattern
from pipeline.context import peak_memory_bytes
generate_day(Lake.open(sys.argv[1]), "2026-01-31", rows=int(sys.argv[2]))
print(peak_memory_bytes())
"""


@pytest.fixture(scope="module")
def day() -> pa.Table:
    return pa.Table.from_batches(batches(DAY, ROWS, seed=1))


def test_day_has_the_columns_and_ids_it_documents(day: pa.Table) -> None:
    assert day.schema == SCHEMA
    ids = day.column("id").to_pylist()
    assert ids[:2] == ["user_000000", "user_000001"]
    assert ids[-1] == f"user_{ROWS - 1:06d}"
    assert len(set(ids)) == ROWS
    assert all(column.null_count == 0 for column in day.columns)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ("income", np.exp(11 + 0.5 * NORMAL)),
        ("avg_transaction_value", np.exp(4 + 0.8 * NORMAL)),
        ("days_since_last_purchase", -30 * np.log(1 - QUANTILES)),
    ],
)
def test_continuous_column_has_the_quantiles_of_its_distribution(
    day: pa.Table, column: str, expected: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> None:
    found = np.quantile(day.column(column).to_numpy(), QUANTILES)
    np.testing.assert_allclose(found, expected, rtol=0.03)


@pytest.mark.parametrize(("column", "lowest", "highest"), [("age", 18, 79), ("tenure_days", 1, 999)])
def test_uniform_column_has_every_value_about_as_often(day: pa.Table, column: str, lowest: int, highest: int) -> None:
    values, counts = np.unique(day.column(column).to_numpy(), return_counts=True)
    assert values.tolist() == list(range(lowest, highest + 1))
    expected = ROWS / len(values)
    chi2 = float(((counts - expected) ** 2 / expected).sum())
    assert abs(chi2 - len(values)) < 5 * math.sqrt(2 * len(values))


def test_purchases_are_poisson_with_mean_5(day: pa.Table) -> None:
    purchases = day.column("num_purchases").to_numpy()
    assert purchases.mean() == pytest.approx(5, abs=0.03)
    assert purchases.var() == pytest.approx(5, abs=0.1)
    assert (purchases == 0).mean() == pytest.approx(math.exp(-5), abs=0.001)


def test_columns_are_independent_of_each_other(day: pa.Table) -> None:
    matrix = np.column_stack([day.column(name).to_numpy() for name in SCHEMA.names[1:]])
    correlations = np.corrcoef(matrix, rowvar=False) - np.eye(matrix.shape[1])
    assert np.abs(correlations).max() < 0.015


@pytest.mark.parametrize("files", [1, 3, 8])
def test_rows_are_the_same_in_any_number_of_files(lake: Lake, files: int) -> None:
    rows = 2 * ROW_GROUP + 7
    published = generate_day(lake, DAY, rows=rows, files=files)
    found = [pq.read_table(path, schema=SCHEMA) for path in day_files(lake, DAY)]
    assert (published.rows, len(published.files)) == (rows, files)
    sizes = [table.num_rows for table in found]
    assert len(sizes) == files
    assert max(sizes) - min(sizes) <= 1
    assert pa.concat_tables(found).equals(pa.Table.from_batches(batches(DAY, rows)))


def test_longer_day_starts_with_the_rows_of_a_shorter_one() -> None:
    longer = pa.Table.from_batches(batches(DAY, ROW_GROUP + 1000))
    assert longer.slice(0, 10).equals(pa.Table.from_batches(batches(DAY, 10)))


def test_other_seed_or_day_makes_other_rows() -> None:
    tables = [pa.Table.from_batches(batches(day, 1000, seed)) for day, seed in [(DAY, 0), (DAY, 1), ("2026-02-01", 0)]]
    incomes = [tuple(table.column("income").to_pylist()) for table in tables]
    assert len(set(incomes)) == 3


def test_row_groups_of_a_day_do_not_repeat_each_other() -> None:
    income = pa.Table.from_batches(batches(DAY, 2 * ROW_GROUP)).column("income").to_numpy()
    assert not np.isin(income[:ROW_GROUP], income[ROW_GROUP:]).any()


def test_day_that_has_files_is_refused_and_stays(lake: Lake) -> None:
    generate_day(lake, DAY, rows=10)
    before = day_files(lake, DAY)
    with pytest.raises(UsageError, match="already has files"):
        generate_day(lake, DAY, rows=20)
    assert day_files(lake, DAY) == before
    assert hidden(lake) == []


def test_day_that_is_replaced_has_the_new_rows_alone(lake: Lake) -> None:
    generate_day(lake, DAY, rows=100, files=3)
    before = {path.name for path in day_files(lake, DAY)}
    generate_day(lake, DAY, rows=20, replace=True)
    assert rows_of(lake, DAY).num_rows == 20
    assert not before & {path.name for path in day_files(lake, DAY)}, "a name that a reader knows has other rows"
    assert hidden(lake) == []


@pytest.mark.parametrize(("ds", "rows", "files"), [(DAY, 0, 1), (DAY, 5, 6), (DAY, 5, 0), ("2026-02-30", 5, 1)])
def test_impossible_day_is_refused(lake: Lake, ds: str, rows: int, files: int) -> None:
    with pytest.raises(UsageError):
        generate_day(lake, ds, rows=rows, files=files)
    assert lake.input_days([Pattern("unscored/ds={ds}/*.parquet")]) == []


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_rows(tmp_path: Path) -> None:
    def peak(rows: int) -> int:
        command = [sys.executable, "-c", MEASURE, str(tmp_path / str(rows)), str(rows)]
        return int(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)

    few, many = peak(ROW_GROUP), peak(3_000_000)
    assert many < 250e6
    assert many - few < 60e6, "the rows themselves are 190 MB"
