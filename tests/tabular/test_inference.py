"""Text keeps its identity: a column gets a type only if nothing is lost by it."""

from __future__ import annotations

import datetime as dt
import json
import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.database.connection import connect
from pipeline.lake.layout import Lake
from pipeline.tabular import sources
from tests.ingest.conftest import Import
from tests.ingest.reading import rows_of

DAY = "2026-01-31"
MANY = 30_000  # rows: more than the sample from which types are inferred


def column(file: Path, name: str = "value", **options: Any) -> pa.ChunkedArray:
    """Reads a column with the rules of everything that reads files."""
    types, decimal = options.pop("types", ()), options.pop("decimal", ".")
    with connect() as con:
        return sources.read(con, sources.find([file], types, decimal), **options).to_arrow_table().column(name)


def csv(folder: Path, *values: str) -> Path:
    path = folder / "a.csv"
    path.write_text("row;value\n" + "".join(f'{row};"{value}"\n' for row, value in enumerate(values)))
    return path


def lines(folder: Path, *values: str) -> Path:
    """Writes JSON lines; the values are written as they are."""
    path = folder / "a.jsonl"
    path.write_text("".join(f'{{"row": {row}, "value": {value}}}\n' for row, value in enumerate(values)))
    return path


@pytest.mark.parametrize(
    "keys",
    [
        ["+4917012345", "4917012345"],
        [" 12", "12", "12 "],
        ["007", "7"],
        ["12.50", "12.5"],
        ["1e2", "100"],
        ["True", "true"],
        ["2026-01-01 10:00", "2026-01-01 10:00:00"],
        ["2026-01-01 10:00:00.5", "2026-01-01 10:00:00.500"],
        ["2026-01-01 10:00:00+00", "2026-01-01 12:00:00+02"],
        ["0.1", "0.10000000000000001"],
    ],
)
@pytest.mark.parametrize("before", [0, MANY], ids=["alone", "after a sample"])
def test_keys_that_differ_as_text_differ_in_the_lake(
    lake: Lake, bring: Import, tmp_path: Path, keys: list[str], before: int
) -> None:
    usual = [keys[-1]] * before
    (tmp_path / "a.csv").write_text("id,x\n" + "".join(f'"{key}",1\n' for key in (*usual, *keys)))
    bring(tmp_path / "a.csv", ds=DAY)
    assert set(rows_of(lake, DAY).column("id").to_pylist()) == set(keys)


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("12", pa.int64()),
        ("-9223372036854775808", pa.int64()),
        ("true", pa.bool_()),
        ("2026-01-01", pa.date32()),
        ("2026-01-01 10:00:00", pa.timestamp("us")),
        ("2026-01-01 10:00:00.25+00", pa.timestamp("us", "UTC")),
        *((text, pa.string()) for text in ("1.5", "-0", "True", "2026-01-01T10:00:00", "2026-01-01 10:00:00Z", "nan")),
    ],
)
def test_key_has_a_type_only_if_it_is_written_like_it(tmp_path: Path, key: str, kind: pa.DataType) -> None:
    assert column(csv(tmp_path, key), key=["value"]).type == kind


@pytest.mark.parametrize(
    "keys",
    [
        ['"1-2-3"', '"01-02-03"'],
        ['"25-11-1985"', '"2026-01-01"'],
        ["18446744073709551615", "1"],
        ["123456789012345678901234567890", "1"],
        ['"8D7A5BD4-6D3F-4B9E-9E0A-111111111111"', '"8d7a5bd4-6d3f-4b9e-9e0a-111111111111"'],
        ['"10:00"', '"10:00:00"'],
        ['"2026-01-01T10:00:00Z"', '"2026-01-01 10:00:00+00"'],
        ["1.5", "2"],
    ],
)
def test_json_keys_that_differ_differ_in_the_lake(lake: Lake, bring: Import, tmp_path: Path, keys: list[str]) -> None:
    (tmp_path / "a.jsonl").write_text("".join(f'{{"id": {key}, "x": 1}}\n' for key in keys))
    bring(tmp_path / "a.jsonl", ds=DAY)
    found = rows_of(lake, DAY).column("id")
    assert found.type == pa.string()
    assert sorted(found.to_pylist()) == sorted(key.strip('"') for key in keys)


@pytest.mark.parametrize(
    ("text", "is_number"),
    [
        ("12.50", True),
        ("3.14159265358979", True),
        ("0.30000000000000004", True),
        ("1.7976931348623157e308", True),
        ("1.000000000000000056e-01", True),  # numpy.savetxt writes 0.1 like this
        ("2.2204460492503131E-16", True),  # and Java before 19 what Python writes with one digit less
        ("1.500000000000000000000000", True),
        ("3.141592653589793238462643383279", False),
        ("12345678901234.567", False),
        ("9007199254740993.5", False),
        ("0.10000000000000000001", False),
        ("1234567890123456789e3", False),
        ("1e400", False),
        ("1e-400", False),
        ("0e999", True),
    ],
)
def test_decimal_is_a_number_if_its_digits_survive(tmp_path: Path, text: str, is_number: bool) -> None:
    found = column(csv(tmp_path, "0.5", text))
    assert found.type == (pa.float64() if is_number else pa.string())
    assert found.to_pylist() == ([0.5, float(text)] if is_number else ["0.5", text])


@pytest.mark.slow
def test_decimals_are_numbers_exactly_if_python_prints_their_digits_again(tmp_path: Path) -> None:
    drawn = random.Random(0)
    texts = [f"{drawn.uniform(-1, 1) * 10 ** drawn.randint(-30, 30):.{drawn.randint(1, 25)}e}" for _ in range(150)]
    texts += [text.replace("e", f"{drawn.randint(1, 9)}e") for text in texts]  # one more digit, mostly a wrong one
    names = [f"c{number}" for number in range(len(texts))]
    (tmp_path / "a.csv").write_text(",".join(names) + "\n" + ",".join(texts) + "\n")
    with connect() as con:
        found = sources.read(con, sources.find([tmp_path / "a.csv"])).to_arrow_table()

    def survives(text: str) -> bool:
        digits = "".join(map(str, Decimal(text).as_tuple().digits)).strip("0")
        again = Decimal(f"{Decimal(float(text)):.{max(len(digits), 15) - 1}e}")
        return again == Decimal(text)

    expected = [pa.float64() if survives(text) else pa.string() for text in texts]
    assert found.schema.types == expected
    assert 0.2 < expected.count(pa.string()) / len(expected) < 0.8


ZONED = pa.timestamp("us", "UTC")


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (["2026-01-01 10:00", "2026-01-02 23:59"], pa.timestamp("us")),
        (["2026-01-01T10:00:00", "2026-01-01T10:00:00.000001"], pa.timestamp("us")),  # as Python writes them
        (["2026-01-01 10:00:00.5", "2026-01-01 10:00:00"], pa.timestamp("us")),  # as DuckDB does
        (["2026-01-01T10:00:00.000Z", "2026-01-01T10:00:00.120Z"], ZONED),  # as JavaScript does
        (["2026-01-01 10:00:00+02:00", "2026-06-01 10:00:00+02:00"], ZONED),
        (["0001-01-01", "9999-12-31"], pa.date32()),
        (["2026-01-01 10:00", "2026-01-01 10:00:00"], pa.string()),
        (["2026-01-01 10:00:00", "2026-01-01T10:00:00"], pa.string()),
        (["2026-01-01 10:00:00.5", "2026-01-01 10:00:00.50"], pa.string()),
        (["2026-01-01T10:00:00.100000", "2026-01-01T10:00:00.1"], pa.string()),
        (["2026-03-29 01:00:00+01:00", "2026-03-29 03:00:00+02:00"], pa.string()),
        (["2026-01-01 10:00:00Z", "2026-01-01 10:00:00+00"], pa.string()),
        (["2026-01-01", "2026-01-01 00:00:00"], pa.string()),
        (["2026-01-01 24:00:00", "2026-01-01 10:00:00"], pa.string()),
        (["2026-01-01 10:00:00.1234567", "2026-01-01 10:00:00.7654321"], pa.string()),
        (["0000-01-01", "2026-01-01"], pa.string()),
    ],
)
@pytest.mark.parametrize("before", [0, MANY], ids=["alone", "after a sample"])
def test_times_have_a_type_if_all_are_written_in_one_form(
    tmp_path: Path, texts: list[str], kind: pa.DataType, before: int
) -> None:
    found = column(csv(tmp_path, *[texts[0]] * before, *texts))
    assert found.type == kind
    if kind == pa.string():
        assert found.to_pylist()[-2:] == texts
    elif pa.types.is_timestamp(kind):
        zone = dt.UTC if kind == ZONED else None
        expected = [dt.datetime.fromisoformat(text) for text in texts]
        assert set(found.to_pylist()) == {each.astimezone(dt.UTC) if zone else each for each in expected}


@pytest.mark.parametrize("texts", [["+12", "13"], [" 12", " 13"], ["12 ", "13"], ["+12", "1.5"], ["-0", "00"]])
def test_integers_that_would_lose_a_character_stay_text(tmp_path: Path, texts: list[str]) -> None:
    assert column(csv(tmp_path, *texts)).to_pylist() == texts


def test_integers_of_many_digits_among_decimals_stay_text(tmp_path: Path) -> None:
    assert column(csv(tmp_path, "9007199254740993", "0.5")).to_pylist() == ["9007199254740993", "0.5"]
    found = column(lines(tmp_path, "9007199254740993", "0.5"))
    assert found.to_pylist() == ["9007199254740993", "0.5"]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["3,7", "2", "-,5"], [3.7, 2.0, -0.5]),
        (["3", "2"], [3, 2]),
        (["1.234", "3,7"], ["1.234", "3,7"]),
        (["1.234,5", "3,7"], ["1.234,5", "3,7"]),
        (["1.5", "2.5"], ["1.5", "2.5"]),
        (["3,141592653589793238462643383279", "1"], ["3,141592653589793238462643383279", "1"]),
    ],
)
def test_decimal_comma_is_one_only_if_it_is_said(tmp_path: Path, texts: list[str], expected: list[Any]) -> None:
    file = csv(tmp_path, *texts)
    assert column(file, decimal=",").to_pylist() == expected
    if "," in texts[0]:
        assert column(file).to_pylist() == texts


def test_json_strings_are_never_numbers_and_nested_ones_never_dates(tmp_path: Path) -> None:
    assert column(lines(tmp_path, '"1"', '"2.5"')).to_pylist() == ["1", "2.5"]
    nested = [{"d": "25-11-1985", "l": ["2026-01-01", "1-2-3"]}, {"d": "1985-11-25", "l": None}]
    assert column(lines(tmp_path, *map(json.dumps, nested))).to_pylist() == nested


def test_json_dates_and_times_of_one_form_have_a_type(tmp_path: Path) -> None:
    assert column(lines(tmp_path, '"2026-01-01"', "null")).to_pylist() == [dt.date(2026, 1, 1), None]
    found = column(lines(tmp_path, '"2026-01-01T10:00:00.000Z"'))
    assert found.to_pylist() == [dt.datetime(2026, 1, 1, 10, tzinfo=dt.UTC)]


def test_column_that_must_hold_numbers_may_be_empty(tmp_path: Path) -> None:
    assert column(csv(tmp_path, "", ""), numbers=["value", "absent"]).type == pa.float64()


def test_column_that_is_told_to_stay_text_does(tmp_path: Path) -> None:
    assert column(csv(tmp_path, "1.50", "2"), text=["value"]).to_pylist() == ["1.50", "2"]
    assert column(lines(tmp_path, "1", "true"), text=["value"]).to_pylist() == ["1", "true"]
