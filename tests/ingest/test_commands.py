"""generate and import, as they are typed."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from pipeline.cli import ingest
from pipeline.errors import LakescoreError, UsageError
from pipeline.ingest.generate import batches
from pipeline.lake import Lake
from tests.conftest import Lakescore
from tests.ingest.reading import day_files, days_of, rows_of

DAY = "2026-01-31"


class Commands:
    def __init__(self, lake: Path) -> None:
        self.lake = lake
        self.app = typer.Typer()
        ingest.add_to(self.app)

    def __call__(self, *arguments: object) -> str:
        """Returns what is printed. Raises the errors that the command line would turn into exit codes."""
        done = CliRunner().invoke(self.app, [*map(str, arguments), "--lake", str(self.lake)])
        if isinstance(done.exception, LakescoreError):
            raise done.exception
        assert done.exit_code == 0, done.output
        return done.stdout

    def json(self, *arguments: object) -> Any:
        return json.loads(self(*arguments, "--json"))


@pytest.fixture
def call(lake: Lake) -> Commands:
    return Commands(lake.workspace.root)


def test_generate_makes_ten_thousand_rows_of_yesterday(lake: Lake, call: Commands) -> None:
    yesterday = {(datetime.now(UTC).date() - timedelta(days=1)).isoformat()}
    (day,) = call.json("generate")
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


def test_generate_takes_rows_files_seed_and_date(lake: Lake, call: Commands) -> None:
    text = call("generate", "--date", DAY, "--rows", 1500, "--files", 3, "--seed", 7)
    assert text.startswith(f"{DAY}: 1,500 rows, 3 files, ")
    assert text.endswith(f" in {lake.workspace.root}/unscored/ds={DAY}\n")
    assert rows_of(lake, DAY).equals(pa.Table.from_batches(batches(DAY, 1500, seed=7)))


def test_generate_of_a_day_that_is_there_needs_replace(lake: Lake, call: Commands) -> None:
    call("generate", "--date", DAY, "--rows", 10)
    with pytest.raises(UsageError, match="has files already"):
        call("generate", "--date", DAY, "--rows", 20)
    call("generate", "--date", DAY, "--rows", 20, "--replace")
    assert rows_of(lake, DAY).num_rows == 20


def test_import_brings_a_file_to_a_day(lake: Lake, call: Commands, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,age\n1,2\n")
    text = call("import", tmp_path / "a.csv", "--date", DAY, "--types", "id=VARCHAR", "--types", "age=INTEGER")
    assert text.startswith(f"{DAY}: 1 row, 1 file, ")
    assert rows_of(lake, DAY).to_pylist() == [{"id": "1", "age": 2}]


def test_import_of_many_days_says_how_many(lake: Lake, call: Commands, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text(f"id,day\n{name},2026-01-01\n{name},2026-01-03\n")
    arguments = ("import", tmp_path / "a.csv", tmp_path / "b.csv", "--partition-by", "day")
    text = call(*arguments)
    assert text.startswith("2 days, 2026-01-01 to 2026-01-03: 4 rows, 2 files, ")
    assert text.endswith(f" in {lake.workspace.root}/unscored\n")
    assert [day["rows"] for day in call.json(*arguments, "--append")] == [2, 2]
    assert [pq.read_metadata(path).num_rows for path in day_files(lake, "2026-01-01")] == [2, 2]
    call(*arguments, "--replace")
    assert rows_of(lake, "2026-01-01").num_rows == 2


@pytest.mark.parametrize(
    "options",
    [(), ("--date", DAY, "--partition-by", "day"), ("--date", DAY, "--append", "--replace"), ("--date", "yesterday")],
)
def test_import_with_contradicting_options_is_refused(
    lake: Lake, call: Commands, tmp_path: Path, options: tuple[str, ...]
) -> None:
    (tmp_path / "a.csv").write_text("id,day\n1,2026-01-01\n")
    with pytest.raises(UsageError):
        call("import", tmp_path / "a.csv", *options)
    assert days_of(lake) == []


def test_import_that_is_refused_exits_2_and_tells_programs_why(lakescore: Lakescore, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,age\n1,2\n")
    assert json.loads(lakescore("import", "a.csv", "--date", DAY, "--json").stdout)[0]["rows"] == 1
    refusal = json.loads(lakescore("import", "a.csv", "--date", DAY, "--json", expect=2).stdout)
    assert (refusal["error"], refusal["what"]) == ("UsageError", f"{DAY} has files already")
