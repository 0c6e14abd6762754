"""Files from other programs: inferred types fit every row, and error messages reveal no data."""

from __future__ import annotations

import datetime as dt
import gzip
import json
import math
import traceback
from decimal import Decimal
from pathlib import Path
from typing import Any

import hypothesis
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import strategies as st

from pipeline.database.connection import connect
from pipeline.errors import (
    IncompleteFile,
    InputError,
    InputMissing,
    LakescoreError,
    SchemaMismatch,
    UnreadableFile,
    UsageError,
)
from pipeline.lake.layout import Lake
from pipeline.tabular import delimited, sources
from tests.ingest.conftest import Import
from tests.ingest.reading import days_of, hidden, rows_of

DAY = "2026-01-31"
MANY = 30_000  # rows: more than the sample from which types are inferred


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        *((text, pa.int64()) for text in ("1", "-17", "0", "9223372036854775807")),
        *((text, pa.float64()) for text in ("1.5", ".5", "2.", "-0.0", "1e5", "2.5E-3", "nan", "-Infinity")),
        *((text, pa.string()) for text in ("007", "00", "-01", "+5", " 5 ", "007.5", "9223372036854775808")),
        *((text, pa.string()) for text in ("1_000", "0x10", "1,5", "1e", ".", "t", "x")),
        *((text, pa.bool_()) for text in ("true", "False")),
        ("2026-02-28", pa.date32()),
        *((text, pa.string()) for text in ("2026-02-30", "2026-2-1", "01/02/2026", "epoch", "infinite", "10:00:00")),
        *((text, pa.timestamp("us")) for text in ("2026-01-01 10:00", "2026-01-01T10:00:00.25")),
        *((text, pa.timestamp("us", "UTC")) for text in ("2026-01-01T10:00:00Z", "2026-01-01 10:00:00+02:00")),
        ("2026-13-01 10:00", pa.string()),
    ],
)  # fmt: skip
@pytest.mark.parametrize("before", ["", f"{'':,>1}\n" * MANY], ids=["alone", "after a sample without values"])
def test_csv_column_has_the_type_that_loses_nothing(
    lake: Lake, bring: Import, tmp_path: Path, text: str, kind: pa.DataType, before: str
) -> None:
    (tmp_path / "a.csv").write_text(f'id,value\n{before}k,"{text}"\n')
    bring(tmp_path / "a.csv", ds=DAY)
    column = rows_of(lake, DAY).column("value")
    assert column.type == kind
    if kind == pa.string():
        assert column.drop_null().to_pylist() == [text]


@pytest.mark.parametrize(
    ("usual", "late", "kind"),
    [("1", "1.5", pa.float64()), ("12", "0012", pa.string()), ("1.5", "x", pa.string()), ("true", "1", pa.string())],
)
def test_csv_value_behind_the_sample_changes_the_type_and_not_itself(
    lake: Lake, bring: Import, tmp_path: Path, usual: str, late: str, kind: pa.DataType
) -> None:
    lines = [f"{row},{usual},2026-01-0{row % 3 + 1}\n" for row in range(MANY)]
    (tmp_path / "a.csv").write_text("id,value,day\n" + "".join(lines) + f"9,{late},2026-01-01\n")
    bring(tmp_path / "a.csv", partition_by="day")
    found = [rows_of(lake, f"2026-01-0{day}") for day in (1, 2, 3)]
    assert {table.schema.field("value").type for table in found} == {kind}, "days of one import differ"
    expected = {float(usual), float(late)} if kind == pa.float64() else {usual, late}
    assert set(found[0].column("value").to_pylist()) == expected


def test_csv_type_holds_for_all_files(lake: Lake, bring: Import, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,value\n1,1\n")
    (tmp_path / "b.csv").write_text("id,value\nx,2.5\n")
    bring(tmp_path / "a.csv", tmp_path / "b.csv", ds=DAY)
    assert rows_of(lake, DAY).sort_by("id").to_pydict() == {"id": ["1", "x"], "value": [1.0, 2.5]}


KINDS = [
    st.integers().map(str),
    st.from_regex(r"[-+]?[0-9]{1,20}", fullmatch=True),
    st.floats().map(str),
    st.decimals(allow_nan=False, allow_infinity=False, places=3).map(str),
    st.dates().map(str),
    st.datetimes().map(str),
    st.sampled_from(["true", "FALSE"]),
    st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n"), min_size=1),
]


def columns_of(rows: int) -> st.SearchStrategy[list[list[str]]]:
    """Columns with values of one kind; some have a value of another kind at the end."""
    column = st.sampled_from(KINDS).flatmap(lambda kind: st.lists(kind, min_size=rows, max_size=rows))
    other = st.builds(lambda values, last: [*values[1:], last], column, st.one_of(KINDS))
    return st.lists(column | other, min_size=1, max_size=3)


@pytest.mark.slow
@hypothesis.given(columns=st.integers(1, 20).flatmap(columns_of))
@hypothesis.settings(max_examples=60, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
def test_csv_value_comes_back_as_it_was_or_as_its_equal(tmp_path: Path, columns: list[list[str]]) -> None:
    file = tmp_path / "a.csv"
    quoted = [['"' + value.replace('"', '""') + '"' for value in column] for column in columns]
    names = [f"c{number}" for number in range(len(columns))]
    lines = [",".join(names), *(",".join(row) for row in zip(*quoted, strict=True))]
    file.write_text("\n".join(lines) + "\n", "utf-8")
    with connect() as con:
        rows = delimited.read(con, [str(file)], delimited.header(file), (), (), ".").to_arrow_table()
    for name, column in zip(names, columns, strict=True):
        read = sorted(map(_canonical, rows.column(name).to_pylist()))
        assert read == sorted(_canonical(_as(value, rows.schema.field(name).type)) for value in column)


def _as(text: str, kind: pa.DataType) -> Any:
    """Returns the value of a text in a type, parsed by Python."""
    if pa.types.is_integer(kind):
        return int(text)
    if pa.types.is_floating(kind):
        number = float(text)
        if math.isfinite(number) and number != 0:
            exact = Decimal(text.strip()).normalize()
            digits = max(len(exact.as_tuple().digits), 15)
            assert exact in (Decimal(repr(number)), Decimal(f"{Decimal(number):.{digits - 1}e}")), "digits are lost"
        return number
    if pa.types.is_boolean(kind):
        return text.lower() == "true"
    if pa.types.is_date(kind):
        return dt.date.fromisoformat(text)
    return dt.datetime.fromisoformat(text) if pa.types.is_timestamp(kind) else text


def _canonical(value: object) -> str:
    return repr(value + 0.0) if isinstance(value, float) else repr(value)


@pytest.mark.parametrize(
    ("content", "delimiter"),
    [
        ("id;value\na,b;1\n", ";"),
        ("id\tvalue\na,b\t1\n", "\t"),
        ("id|value\na,b|1\n", "|"),
        ('"id","value"\n"a,b",1\n', ","),
    ],
)
def test_csv_delimiter_is_that_of_the_header(
    lake: Lake, bring: Import, tmp_path: Path, content: str, delimiter: str
) -> None:
    (tmp_path / "a.csv").write_text(content)
    assert delimited.header(tmp_path / "a.csv") == delimited.Header(["id", "value"], delimiter)
    bring(tmp_path / "a.csv", ds=DAY)
    assert rows_of(lake, DAY).to_pydict() == {"id": ["a,b"], "value": [1]}


def test_csv_with_quotes_line_breaks_and_a_byte_order_mark_is_read(lake: Lake, bring: Import, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes('\ufeffid,note\r\n1,"say ""hi"",\r\nthen go"\r\n2,\r\n'.encode())
    bring(tmp_path / "a.csv", ds=DAY)
    assert rows_of(lake, DAY).sort_by("id").to_pydict() == {"id": [1, 2], "note": ['say "hi",\r\nthen go', None]}


def fails(bring: Import, lake: Lake, error: type[LakescoreError], *paths: Path, **options: Any) -> LakescoreError:
    """Imports, checks that nothing is visible and no secret is revealed, and returns the error."""
    with pytest.raises(error) as caught:
        bring(*paths, **{"ds": DAY} | options)
    assert (days_of(lake), hidden(lake)) == ([], [])
    assert "secret" not in "".join(traceback.format_exception(caught.value))
    return caught.value


GOOD = "a,1\n" * MANY


@pytest.mark.parametrize(
    ("content", "line", "what"),
    [
        ("id,age\na,1\nsecret,1,2\n", 3, "wrong number of values"),
        ("id,age\n" + GOOD + "secret\n" + GOOD, MANY + 2, "wrong number of values"),
        ("id,age\n" + GOOD + 'secret,"1\n' + GOOD, MANY + 2, "not valid CSV"),
        ("id,age\na,1\nsecret\udcff,1\n", 3, "not UTF-8"),
    ],
)
def test_csv_line_that_is_malformed_is_named_and_not_shown(
    lake: Lake, bring: Import, tmp_path: Path, content: str, line: int, what: str
) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(content.encode("utf-8", "surrogateescape"))
    error = fails(bring, lake, UnreadableFile, file)
    assert what in error.what
    assert error.where == f"{file}, line {line}"


def test_csv_with_two_kinds_of_line_ends_is_refused(lake: Lake, bring: Import, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"id,age\nsecret,1\nb,2\r\nc,3\n")
    error = fails(bring, lake, UnreadableFile, tmp_path / "a.csv")
    assert error.where == str(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"id,id\n1,2\n", SchemaMismatch),
        (b"id,ID\n1,2\n", SchemaMismatch),
        (b",id\n0,1\n", SchemaMismatch),
        (b"\n1,2\n", SchemaMismatch),
        (b'"id\n1,2\n', UnreadableFile),
        ("id,größe\n1,2\n".encode("utf-16"), UnreadableFile),
        (b"id,age\n", InputError),
    ],
)
def test_csv_without_a_proper_header_or_rows_is_refused(
    lake: Lake, bring: Import, tmp_path: Path, content: bytes, error: type[LakescoreError]
) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    fails(bring, lake, error, tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        ('{"id": "secret\n', "not valid JSON"),
        ('{"id": secret}\n', "not valid JSON"),
        ('{"id": "secret", "id": 2}\n', "contains a key twice"),
    ],
)
@pytest.mark.parametrize("before", [0, 3, MANY])
def test_json_line_that_is_malformed_is_named_and_not_shown(
    lake: Lake, bring: Import, tmp_path: Path, bad: str, what: str, before: int
) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"id": "a"}\n' * before + bad + '{"id": "b"}\n')
    error = fails(bring, lake, LakescoreError, file)
    assert what in error.what
    assert error.where == f"{file}, line {before + 1}"


@pytest.mark.parametrize("content", ['[{"id": 1}]\n', '"secret"\n', '{"id": 1}\n5\n'])
def test_json_that_is_not_lines_of_objects_is_refused(lake: Lake, bring: Import, tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    fails(bring, lake, SchemaMismatch, tmp_path / "a.json")


def write_lines(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_json_key_and_decimal_behind_the_sample_are_kept(lake: Lake, bring: Import, tmp_path: Path) -> None:
    usual: list[dict[str, Any]] = [{"id": "a", "value": 1}] * MANY
    bring(write_lines(tmp_path / "a.jsonl", *usual, {"id": "b", "value": 2.5, "late": 1}), ds=DAY)
    found = rows_of(lake, DAY).filter(pa.compute.field("id") == "b")
    assert found.to_pylist() == [{"id": "b", "value": 2.5, "late": 1}]


def test_json_numbers_and_text_in_one_column_are_text(lake: Lake, bring: Import, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"id": 1, "none": None, "n": {"a": 1}}, {"id": "x"}, {"id": "007"}]
    bring(write_lines(tmp_path / "a.jsonl", *rows), ds=DAY)
    found = rows_of(lake, DAY)
    assert sorted(found.column("id").to_pylist()) == ["007", "1", "x"]
    assert found.column("none").null_count == 3
    assert found.column("n").drop_null().to_pylist() == [{"a": 1}]


def test_json_with_many_rare_keys_keeps_each(lake: Lake, bring: Import, tmp_path: Path) -> None:
    bring(write_lines(tmp_path / "a.jsonl", *({"id": row, f"k{row % 300}": row} for row in range(900))), ds=DAY)
    found = rows_of(lake, DAY)
    assert found.num_columns == 301
    assert sorted(found.column("k7").drop_null().to_pylist()) == [7, 307, 607]


def test_json_keys_that_differ_only_in_case_are_refused(lake: Lake, bring: Import, tmp_path: Path) -> None:
    error = fails(bring, lake, SchemaMismatch, write_lines(tmp_path / "a.jsonl", {"id": 1, "ID": 2}))
    assert error.got == "ID"
    bring(write_lines(tmp_path / "b.jsonl", {"v": 1, "v_1": 2, "V_2": 3}), ds=DAY)
    assert rows_of(lake, DAY).to_pylist() == [{"v": 1, "v_1": 2, "V_2": 3}]


def test_given_types_override_inferred_types(lake: Lake, bring: Import, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,age,when,price\n+17,31.0,2026-01-01 10:00,1.50\n")
    types = ("id=VARCHAR, age=int", "when=TIMESTAMPTZ,price=DECIMAL(10,2)")
    bring(tmp_path / "a.csv", types=types, ds=DAY)
    found = rows_of(lake, DAY)
    assert found.schema.types == [pa.string(), pa.int32(), pa.timestamp("us", "UTC"), pa.decimal128(10, 2)]
    when = dt.datetime(2026, 1, 1, 10, tzinfo=dt.UTC)
    assert found.to_pylist() == [{"id": "+17", "age": 31, "when": when, "price": Decimal("1.50")}]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
@pytest.mark.parametrize(
    ("values", "wanted"),
    [([31.0, 31.7], "INTEGER"), ([1.0, 300.0], "TINYINT"), ([1.0, 1e17], "BIGINT"), (["31", "31.7"], "INTEGER"),
     (["1", "x"], "DOUBLE"), (["2026-01-01", "x"], "DATE"), ([1.0, float("nan")], "BIGINT")],
)  # fmt: skip
def test_value_that_does_not_have_the_given_type_stops_the_import(
    lake: Lake, bring: Import, tmp_path: Path, name: str, values: list[Any], wanted: str
) -> None:
    file = tmp_path / name
    if name == "a.csv":
        file.write_text("id,value\n" + "".join(f"1,{value}\n" for value in values))
    elif name == "a.jsonl":
        write_lines(file, *({"id": 1, "value": value if value == value else "NaN"} for value in values))  # noqa: PLR0124
    else:
        pq.write_table(pa.table({"id": [1, 2], "value": values}), file)
    error = fails(bring, lake, SchemaMismatch, file, types=(f"value={wanted}",))
    assert error.what == f"a value of 'value' is not {wanted}"


@pytest.mark.parametrize(
    ("types", "message"),
    [(("agee=INTEGER",), "did you mean 'age'"), (("age",), "does not assign"), (("age=NUMBER",), "does not assign"),
     (("=INTEGER",), "does not assign"), (("age=STRUCT(a INT)",), "does not assign")],
)  # fmt: skip
def test_invalid_types_are_refused(
    lake: Lake, bring: Import, tmp_path: Path, types: tuple[str, ...], message: str
) -> None:
    (tmp_path / "a.csv").write_text("id,age\n1,2\n")
    with pytest.raises(UsageError, match=message):
        bring(tmp_path / "a.csv", ds=DAY, types=types)
    assert days_of(lake) == []


def test_types_without_an_equivalent_are_stored_as_text(lake: Lake, bring: Import, tmp_path: Path) -> None:
    with connect() as con:
        con.execute(
            "COPY (SELECT uuid() AS u, INTERVAL 1 DAY AS i, 'a'::ENUM ('a', 'b') AS e, TIMETZ '10:00:00+02' AS t) "
            f"TO '{tmp_path / 'a.parquet'}'"
        )
    bring(tmp_path / "a.parquet", ds=DAY)
    assert set(rows_of(lake, DAY).schema.types) == {pa.string()}


@pytest.mark.parametrize(
    ("first", "second"),
    [("id,age\n1,2\n", "id,income\n1,2\n"), ("id,age\n1,2\n", "age,id\n1,2\n"), ("id,age\n1,2\n", "id;age\n1;2\n")],
)
def test_csv_files_with_other_headers_are_refused(
    lake: Lake, bring: Import, tmp_path: Path, first: str, second: str
) -> None:
    (tmp_path / "a.csv").write_text(first)
    (tmp_path / "b.csv").write_text(second)
    error = fails(bring, lake, SchemaMismatch, tmp_path / "a.csv", tmp_path / "b.csv")
    assert error.where == str(tmp_path / "b.csv")


def test_parquet_files_with_other_columns_are_refused_and_with_other_types_widened(
    lake: Lake, bring: Import, tmp_path: Path
) -> None:
    for name, table in {
        "a": pa.table({"id": [1], "v": pa.array([1], pa.int32())}),
        "b": pa.table({"v": [2.5], "id": ["x"]}),
        "c": pa.table({"id": [1]}),
    }.items():
        pq.write_table(table, tmp_path / f"{name}.parquet")
    fails(bring, lake, SchemaMismatch, tmp_path / "a.parquet", tmp_path / "c.parquet")
    bring(tmp_path / "a.parquet", tmp_path / "b.parquet", ds=DAY)
    assert rows_of(lake, DAY).sort_by("id").to_pydict() == {"id": ["1", "x"], "v": [1.0, 2.5]}


@pytest.mark.parametrize(
    ("whole", "other"), [(pa.int64(), pa.float64()), (pa.int32(), pa.float32()), (pa.decimal128(20, 1), pa.float64())]
)
def test_parquet_number_that_another_file_would_round_stops_the_import(
    lake: Lake, bring: Import, tmp_path: Path, whole: pa.DataType, other: pa.DataType
) -> None:
    large = 2**24 + 1 if pa.types.is_float32(other) else 2**53 + 1
    pq.write_table(pa.table({"id": pa.array([large]).cast(whole)}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"id": pa.array([0.5]).cast(other)}), tmp_path / "2.parquet")
    error = fails(bring, lake, SchemaMismatch, tmp_path / "1.parquet", tmp_path / "2.parquet")
    assert error.what == "column id has numbers that another file's type would round"


def test_parquet_file_without_rows_changes_no_type(lake: Lake, bring: Import, tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": pa.array([], pa.string()), "v": pa.nulls(0)}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"id": [7], "v": [1.5]}), tmp_path / "b.parquet")
    bring(tmp_path / "a.parquet", tmp_path / "b.parquet", ds=DAY)
    assert rows_of(lake, DAY).to_pydict() == {"id": [7], "v": [1.5]}


@pytest.mark.parametrize("names", [["id", "v", "v"], ["id", "v", "V"]])
def test_parquet_columns_that_are_not_told_apart_are_refused(
    lake: Lake, bring: Import, tmp_path: Path, names: list[str]
) -> None:
    path = tmp_path / "seg=EU" / "a.parquet"
    path.parent.mkdir()
    pq.write_table(pa.table([pa.array([1]), pa.array([2]), pa.array([3])], names=names), path)
    assert fails(bring, lake, SchemaMismatch, path).where == str(path)


def test_damaged_files_are_named(lake: Lake, bring: Import, tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": list(range(1000))}), tmp_path / "whole.parquet")
    whole = (tmp_path / "whole.parquet").read_bytes()
    packed = gzip.compress(b"id,age\n" + b"".join(b"%d,%d\n" % (row, row * 7919 % 997) for row in range(9999)))
    damaged = {
        "cut.parquet": whole[: len(whole) // 2],
        "text.parquet": b"this is no Parquet file",
        "cut.csv.gz": packed[: len(packed) // 2],
        "plain.csv.gz": b"id,age\n1,2\n",
        "plain.jsonl.gz": b'{"id": 1}\n',
    }
    for name, content in damaged.items():
        (tmp_path / name).write_bytes(content)
        error = fails(bring, lake, IncompleteFile if name.startswith("cut") else UnreadableFile, tmp_path / name)
        assert error.where == str(tmp_path / name)


def test_files_that_cannot_be_imported_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").touch()
    (tmp_path / "folder.csv").mkdir()
    for name in ("a.csv", "a.parquet", "a.xlsx", "a", "a.parquet.gz", ".csv"):
        (tmp_path / name).write_text("id\n1\n")
    (tmp_path / "link.csv").symlink_to(tmp_path / "a.csv")
    refused: dict[tuple[str, ...], tuple[type[LakescoreError], str]] = {
        (): (UsageError, "no files given"),
        ("absent.csv",): (InputMissing, "no such file"),
        ("empty.csv",): (InputError, "empty"),
        ("folder.csv",): (UsageError, "folder"),
        ("a.xlsx",): (UsageError, "unknown file extension"),
        ("a",): (UsageError, "unknown file extension"),
        (".csv",): (UsageError, "unknown file extension"),
        ("a.parquet.gz",): (UsageError, "unknown file extension"),
        ("a.csv", "a.csv"): (UsageError, "given twice"),
        ("a.csv", "link.csv"): (UsageError, "given twice"),
        ("a.csv", "a.parquet"): (UsageError, "different kinds"),
    }
    for names, (error, message) in refused.items():
        with pytest.raises(error, match=message) as caught:
            sources.find([tmp_path / name for name in names])
        assert type(caught.value) is error
