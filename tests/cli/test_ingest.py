"""`lakescore generate` and `lakescore import`."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import UsageError
from pipeline.ingest.generate import batches
from pipeline.job.project import DEFAULT_JOB
from pipeline.lake.layout import Lake
from pipeline.packaged import resources
from tests.calling import Cli
from tests.ingest.reading import day_files, days_of, rows_of

DAY = "2026-01-31"


@pytest.fixture(autouse=True)
def default_job(tmp_path: Path) -> None:
    shutil.copytree(resources() / "dags" / "jobs" / DEFAULT_JOB, tmp_path / "dags" / "jobs" / DEFAULT_JOB)


def test_generate_makes_ten_thousand_rows_of_yesterday(lake: Lake, cli: Cli) -> None:
    yesterday = {(datetime.now(UTC).date() - timedelta(days=1)).isoformat()}
    (day,) = json.loads(cli("generate", "--json").stdout)
    yesterday |= {(datetime.now(UTC).date() - timedelta(days=1)).isoformat()}  # midnight may have passed
    assert day["ds"] in yesterday
    assert days_of(lake) == [day["ds"]]
    assert rows_of(lake, day["ds"]).equals(pa.Table.from_batches(batches(day["ds"], 10_000)))
    (file,) = day_files(lake, day["ds"])
    assert day == {
        "ds": day["ds"],
        "rows": 10_000,
        "bytes": file.stat().st_size,
        "files": [file.relative_to(lake.workspace.root).as_posix()],
    }


def test_generate_takes_rows_files_seed_and_date(lake: Lake, cli: Cli) -> None:
    text = cli("generate", "--date", DAY, "--rows", 1500, "--files", 3, "--seed", 7).stdout
    assert text.startswith(f"{DAY}: 1,500 rows, 3 files, ")
    assert text.endswith(f" in {lake.workspace.root}/unscored/ds={DAY}\n")
    assert rows_of(lake, DAY).equals(pa.Table.from_batches(batches(DAY, 1500, seed=7)))


def test_generate_of_an_existing_day_needs_replace(lake: Lake, cli: Cli) -> None:
    cli("generate", "--date", DAY, "--rows", 10)
    refused = cli("generate", "--date", DAY, "--rows", 20, expect=UsageError)
    assert "already has files" in refused.stderr
    cli("generate", "--date", DAY, "--rows", 20, "--replace")
    assert rows_of(lake, DAY).num_rows == 20


def test_import_brings_a_file_to_a_day(lake: Lake, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,age\n1,2\n")
    text = cli(
        "import", tmp_path / "a.csv", "--date", DAY, "--types", "id=VARCHAR", "--types", "age=INTEGER", "--unchecked"
    ).stdout
    assert text.startswith(f"{DAY}: 1 row, 1 file, ")
    assert rows_of(lake, DAY).to_pylist() == [{"id": "1", "age": 2}]


def test_import_says_the_type_of_each_column(lake: Lake, cli: Cli, tmp_path: Path) -> None:
    names = ",".join(f"c{number}" for number in range(30))
    (tmp_path / "a.csv").write_text(f"id;zip;price;{names.replace(',', ';')}\nx;007;1,50;{';'.join('1' * 30)}\n")
    text = cli("import", tmp_path / "a.csv", "--date", DAY, "--decimal", ",", "--unchecked").stdout
    assert "\ncolumns: id VARCHAR, zip VARCHAR, price DOUBLE, c0 BIGINT" in text
    assert text.endswith(", and 13 more\n")
    assert rows_of(lake, DAY).select(["id", "zip", "price"]).to_pylist() == [{"id": "x", "zip": "007", "price": 1.5}]


def test_import_of_many_days_says_how_many(lake: Lake, cli: Cli, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text(f"id,day\n{name},2026-01-01\n{name},2026-01-03\n")
    arguments = ("import", tmp_path / "a.csv", tmp_path / "b.csv", "--partition-by", "day", "--unchecked")
    text = cli(*arguments).stdout
    assert text.startswith("2 days, 2026-01-01 to 2026-01-03: 4 rows, 2 files, ")
    assert f" in {lake.workspace.root}/unscored\n" in text
    assert [day["rows"] for day in json.loads(cli(*arguments, "--append", "--json").stdout)] == [2, 2]
    assert [pq.read_metadata(path).num_rows for path in day_files(lake, "2026-01-01")] == [2, 2]
    cli(*arguments, "--replace")
    assert rows_of(lake, "2026-01-01").num_rows == 2


def test_import_that_is_refused_exits_2_and_tells_programs_why(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,age\n1,2\n")
    assert json.loads(cli("import", "a.csv", "--date", DAY, "--unchecked", "--json").stdout)[0]["rows"] == 1
    refusal = json.loads(cli("import", "a.csv", "--date", DAY, "--unchecked", "--json", expect=UsageError).stdout)
    assert (refusal["error"], refusal["what"]) == ("UsageError", f"{DAY} already has files")
