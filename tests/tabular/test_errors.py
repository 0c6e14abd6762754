"""What is refused names file, line, column and value, and what to do."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.database.connection import connect
from pipeline.errors import LakescoreError, SchemaMismatch, UnreadableFile, UsageError
from pipeline.tabular import sources

MANY = 30_000


def refused(
    error: type[LakescoreError], file: Path, *types: str, decimal: str = ".", numbers: str = ""
) -> LakescoreError:
    def read() -> None:
        files = sources.find([file], types, decimal)
        with connect() as con, sources.translated_read_errors(files):
            sources.read(con, files, numbers=[numbers]).fetchall()

    with pytest.raises(error) as caught:
        read()
    return caught.value


def csv(folder: Path, *rows: str) -> Path:
    path = folder / "a.csv"
    path.write_text("".join(f"{row}\n" for row in rows), newline="")
    return path


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_csv_in_utf_16_is_named(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.csv").write_text("id,value\n1,2\n", encoding)
    error = refused(UnreadableFile, tmp_path / "a.csv")
    assert str(error.got).startswith("UTF-16")
    assert "iconv -f UTF-16" in str(error.next_step)


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        ("007", "--types value=DOUBLE"),
        ("3,7", "--decimal ,"),
        ("1.234,7", "separators of thousands"),
        ("NA", "leave a missing value empty"),
        ("+5", "--types value=DOUBLE"),
        ("x" * 100, "correct it"),
    ],
)
def test_column_that_must_hold_numbers_names_the_value_that_is_none(tmp_path: Path, value: str, advice: str) -> None:
    usual = ["0;2;secret"] * MANY
    file = csv(tmp_path, "id;value;note", '1;1;"a\nb"', *usual, f"9;{value};secret", *usual)
    error = refused(SchemaMismatch, file, numbers="value")
    assert error.what == "column 'value' must hold numbers"
    assert error.where == f"{file}, line {MANY + 4}"
    assert error.got == repr(value[:40])
    assert advice in str(error.next_step)
    assert "secret" not in str(error)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("31.7", "INTEGER"), ("1_000", "INTEGER"), ("0x10", "BIGINT"), ("1e2", "BIGINT"), ("300", "TINYINT"),
        ("1.239", "DECIMAL(10,2)"), ("123456789.0", "DECIMAL(10,2)"), ("1e400", "DOUBLE"), ("1_000", "DOUBLE"),
        ("true", "DOUBLE"), ("2026-01-01 10:00", "DATE"), ("01/02/2026", "DATE"), ("2026-02-30", "DATE"),
        ("2026-01-01 10:00:00.123456789", "TIMESTAMP"), ("[1, x]", "DOUBLE[]"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_value_that_a_given_type_would_change_is_named(tmp_path: Path, value: str, wanted: str, kind: str) -> None:
    file = tmp_path / f"a.{kind}"
    usual = {"TINYINT": "1", "DATE": "2026-01-01", "TIMESTAMP": "2026-01-01", "DOUBLE[]": "[1]"}.get(wanted, "1")
    row = "{}|{}|secret\n" if kind == "csv" else '{{"id": {}, "value": "{}", "note": "secret"}}\n'
    rows = [row.format(number, usual) for number in range(MANY)]
    rows.append(row.format(MANY, value))
    file.write_text(("id|value|note\n" if kind == "csv" else "") + "".join(rows))
    error = refused(SchemaMismatch, file, f"value={wanted}")
    assert error.what == f"a value of 'value' is not {wanted}"
    assert (error.where, error.got) == (f"{file}, line {MANY + 1 + (kind == 'csv')}", repr(value))
    assert "secret" not in str(error)


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([1.239], "DECIMAL(10,2)"),
        ([2], "BOOLEAN"),
        ([31.7], "INTEGER"),
        ([2.0**60], "BIGINT"),
        (["1.239"], "DECIMAL(9,2)"),
    ],
)
def test_value_of_parquet_that_a_given_type_would_change_is_refused(
    tmp_path: Path, values: list[float], wanted: str
) -> None:
    pq.write_table(pa.table({"value": values}), tmp_path / "a.parquet")
    error = refused(SchemaMismatch, tmp_path / "a.parquet", f"value={wanted}")
    assert error.what == f"a value of 'value' is not {wanted}"
    assert error.where == str(tmp_path / "a.parquet")


def test_type_that_a_column_cannot_have_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"value": [[1]]}), tmp_path / "a.parquet")
    assert refused(SchemaMismatch, tmp_path / "a.parquet", "value=DATE").what == "a value of 'value' is not DATE"


def test_decimal_point_that_is_not_declared_is_no_decimal_point(tmp_path: Path) -> None:
    file = csv(tmp_path, "id;value", "1;1.234")
    error = refused(SchemaMismatch, file, "value=DOUBLE", decimal=",")
    assert (error.where, error.got) == (f"{file}, line 2", "'1.234'")
    assert "'.' or ','" in str(refused(UsageError, file, decimal="x"))


@pytest.mark.parametrize("before", [0, 3, MANY])
def test_json_number_that_a_double_would_round_is_refused_with_its_line(tmp_path: Path, before: int) -> None:
    file = tmp_path / "a.jsonl"
    number = "-12345678901234.5678"
    row = '{"value": 0.30000000000000004, "note": "v 3.14159265358979323846", "list": [1]}\n'
    file.write_text(row * before + f'{{"value": 1, "list": [1, {{"x": {number}}}]}}\n' + row)
    error = refused(SchemaMismatch, file)
    assert error.what == "a number of 'list' has more digits than a DOUBLE keeps"
    assert (error.where, error.got) == (f"{file}, line {before + 1}", number)


def test_json_number_that_a_double_would_round_is_taken_if_that_is_said(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"value": 3.14159265358979323846}\n')
    assert "--types value=DOUBLE" in str(refused(SchemaMismatch, file).next_step)
    refused(SchemaMismatch, file, "value=VARCHAR")  # its digits are gone already
    with connect() as con:
        assert sources.read(con, sources.find([file], ["value=DOUBLE"])).fetchall() == [(3.141592653589793,)]


@pytest.mark.parametrize(
    ("line", "got", "advice"),
    [
        (b'\xef\xbb\xbf{"id": 1}', "byte order mark of UTF-8", "without a byte order mark"),
        (b'{"id": "secret\\ud83d"}', "half of a surrogate pair", "cut a text"),
        (b'{"id": "\\ude00secret"}', "half of a surrogate pair", "cut a text"),
        (b'{"id": "secret\xff"}', "not UTF-8", "iconv"),
    ],
    ids=["byte order mark", "high surrogate", "low surrogate", "bytes"],
)
@pytest.mark.parametrize("before", [0, 1, MANY])
def test_json_line_that_is_no_unicode_is_named_with_advice(
    tmp_path: Path, line: bytes, got: str, advice: str, before: int
) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"id": 0}\n' * before + line + b"\n" + b'{"id": 2}\n' * 3)
    error = refused(UnreadableFile, file)
    assert error.where == f"{file}, line {before + 1}"
    assert got in str(error.got)
    assert advice in str(error.next_step)
    assert "secret" not in str(error)


def test_json_in_utf_16_is_refused_with_advice(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes('{"id": 1}\n{"id": 2}\n'.encode("utf-16"))
    error = refused(UnreadableFile, file)
    assert (error.where, error.next_step) == (f"{file}, line 1", "save the file in UTF-8")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["", "byte order mark"])
def test_csv_of_excel_names_its_delimiter_in_a_line_before_the_header(tmp_path: Path, end: str, mark: str) -> None:
    file = tmp_path / "a.csv"
    file.write_text(mark + end.join(["SEP=;", "id;a,b,c", "x;1", "y;2", ""]), newline="")
    with connect() as con:
        rows = sources.read(con, sources.find([file])).order("id")
        assert (rows.columns, rows.fetchall()) == (["id", "a,b,c"], [("x", 1), ("y", 2)])


def test_csv_of_excel_has_its_errors_on_the_right_lines(tmp_path: Path) -> None:
    file = csv(tmp_path, "sep=;", "id;value", "1;2", "2;3;4")
    assert refused(UnreadableFile, file).where == f"{file}, line 4"
    file = csv(tmp_path, "sep=;", "id;value", "1;2", "2;x")
    assert refused(SchemaMismatch, file, "value=DOUBLE").where == f"{file}, line 4"
    assert refused(SchemaMismatch, file, numbers="value").where == f"{file}, line 4"
    file = csv(tmp_path, "sep=;", "id;id", "1;2")
    assert refused(SchemaMismatch, file).where == f"{file}, line 2"
