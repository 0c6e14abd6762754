"""The rows of `lakescore query`: tables, CSV, JSON and Parquet, on standard output and in files."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import QueryRefused, UsageError
from pipeline.lake.layout import Lake
from tests.calling import Cli
from tests.conftest import ROOT

pytestmark = pytest.mark.usefixtures("two_days")

MIXED = """
    SELECT * FROM (VALUES
        (1::HUGEINT, 'a"b', 'nan'::FLOAT, TIMESTAMPTZ '2026-01-01 00:00:00+00', [1.5, 'inf'::DOUBLE], NULL),
        (2, '', 0.5, NULL, NULL, {'x': 1})
    ) AS t (n, text, share, time, list, struct)
"""


def test_cli_csv_is_read_back(cli: Cli) -> None:
    rows = list(csv.reader(io.StringIO(cli("query", MIXED, "--format", "csv").stdout)))
    assert rows == [
        ["n", "text", "share", "time", "list", "struct"],
        ["1", 'a"b', "nan", "2026-01-01 00:00:00.000000Z", "[1.5, inf]", ""],
        ["2", "", "0.5", "", "", "{'x': 1}"],
    ]


WIDE = "\N{FULLWIDTH EQUALS SIGN}1"
FORMULAS = f"""
    SELECT 1 AS n, -1 AS less, '=1+1' AS text, '-x' AS minus, 'a=b' AS plain, [1] AS list, '{WIDE}' AS wide,
        'x' AS "=top"
"""


def test_cli_csv_for_a_spreadsheet_holds_no_formula(cli: Cli) -> None:
    names, values = (
        ["n", "less", "text", "minus", "plain", "list", "wide"],
        ["1", "-1", "=1+1", "-x", "a=b", "[1]", WIDE],
    )
    safe = ["1", "-1", "'=1+1", "'-x", "a=b", "[1]", f"'{WIDE}"]
    for options, expected in (
        ([], [[*names, "=top"], [*values, "x"]]),
        (["--spreadsheet-safe"], [[*names, "'=top"], [*safe, "x"]]),
    ):
        done = cli("query", FORMULAS, "--format", "csv", *options)
        assert list(csv.reader(io.StringIO(done.stdout))) == expected
    assert "is for CSV" in cli("query", FORMULAS, "--json", "--spreadsheet-safe", expect=UsageError).stderr


def test_cli_csv_for_a_spreadsheet_never_changes_a_key(cli: Cli, tmp_path: Path) -> None:
    text, target = "SELECT id FROM predictions UNION ALL SELECT '+49'", tmp_path / "out.csv"
    done = cli("query", text, "--output", target, "--spreadsheet-safe", expect=QueryRefused)
    assert "a key looks like a formula" in done.stderr
    assert "column id" in done.stderr
    assert not target.exists()
    cli("query", text.replace("SELECT '+49'", "SELECT '49+'"), "--output", target, "--spreadsheet-safe")
    assert "49+" in target.read_text().replace('"', "").splitlines()


def test_cli_json_is_strict(cli: Cli) -> None:
    def refuse(constant: str) -> Any:
        raise AssertionError(constant)

    assert json.loads(cli("query", MIXED, "--json").stdout, parse_constant=refuse) == [
        {"n": 1, "text": 'a"b', "share": None, "time": "2026-01-01 00:00:00+00", "list": [1.5, None], "struct": None},
        {"n": 2, "text": "", "share": 0.5, "time": None, "list": None, "struct": {"x": 1}},
    ]


def test_cli_parquet_goes_to_a_file_and_keeps_types(cli: Cli, tmp_path: Path) -> None:
    target = tmp_path / "out.parquet"
    cli("query", "FROM predictions ORDER BY ds, id", "--output", str(target))
    table = pq.read_table(target)
    assert table.num_rows == 6
    assert table.schema.field("scored_at").type == pa.timestamp("us", "UTC")
    assert table.column("id").to_pylist()[:2] == ["a", "b"]


def test_cli_table_shows_decimals_as_they_are(cli: Cli) -> None:
    text = "SELECT 1234.50::DECIMAL(9, 2) AS a, 3::DECIMAL(9, 3) AS b, 12345678901234567890.1::DECIMAL(30, 1) AS c"
    said = cli("query", f"{text}, (1e-7)::DECIMAL(18, 10) AS d, sum(1000::BIGINT) AS e").stdout
    assert said.splitlines()[-2].split() == [
        "1,234.50",
        "3.000",
        "12,345,678,901,234,567,890.1",
        "0.0000001000",
        "1,000",
    ]


@pytest.mark.parametrize("form", ["csv", "json", "parquet"])
def test_cli_no_rows_are_a_valid_file(cli: Cli, tmp_path: Path, form: str) -> None:
    target = tmp_path / "out"
    cli("query", "SELECT id FROM predictions WHERE false", "--format", form, "--output", str(target))
    if form == "parquet":
        assert pq.read_table(target).column_names == ["id"]
    else:
        assert target.read_text() == {"csv": '"id"\n', "json": "[]\n"}[form]


def test_cli_columns_of_one_name_are_told_apart(cli: Cli) -> None:
    assert json.loads(cli("query", "SELECT 1 AS a, 2 AS a", "--json").stdout) == [{"a": 1, "a_1": 2}]


def test_cli_file_of_a_query_that_fails_stays_as_it_was(cli: Cli, tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    target.write_text("before")
    late = "SELECT range, CASE WHEN range > 50000 THEN error('late') END FROM range(100000)"
    cli("query", late, "--output", target, expect=QueryRefused)
    assert target.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_cli_table_says_how_many_rows_there_are_more(cli: Cli) -> None:
    done = cli("query", "SELECT range AS n FROM range(2500)", "--limit", "3")
    assert done.stdout.split()[-3:] == ["0", "1", "2"]
    assert "3 of 2,500 rows" in done.stderr


def test_cli_row_too_wide_for_a_table_is_shown_line_by_line(cli: Cli) -> None:
    lines = cli("query", "FROM runs WHERE ds = '2026-01-01'").stdout.splitlines()
    assert lines[0] == "row 1"
    assert ["model_version", "v1"] in [line.split() for line in lines]


def test_cli_reader_that_has_seen_enough_is_no_error(lake: Lake) -> None:
    arguments = ["query", "FROM range(3000000)", "--format", "csv", "--lake", str(lake.workspace.root)]
    command = [sys.executable, "-m", "pipeline", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b'"range"\n'
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 0


def test_cli_table_shows_hashes_so_that_they_can_be_copied(cli: Cli) -> None:
    shown = cli("query", "SELECT -5426396 AS fingerprint, 5426396::HUGEINT AS hash_sum, 5426396 AS rows").stdout
    assert shown.split()[-3:] == ["-5426396", "5426396", "5,426,396"]
