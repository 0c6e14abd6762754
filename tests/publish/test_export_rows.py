"""The rows of an export: suppression, limits, ties and the holdout group."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.database.connection import connect
from pipeline.errors import DeliveryFailed, DeliveryRefused, JobError, LakescoreError
from pipeline.job.targets import ExportTarget
from pipeline.publish.export_rows import Chosen, choose
from pipeline.storage import LocalStorage

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)


def target(**options: Any) -> ExportTarget:
    return ExportTarget.model_validate({"name": "spring", "kind": "export", **options})


class Rows:
    """A connection with the view `outgoing`, and a folder in which suppression lists lie."""

    def __init__(self, con: duckdb.DuckDBPyConnection, root: Path) -> None:
        self.con, self.root = con, root
        (root / "scratch").mkdir()

    def have(self, **columns: Any) -> None:
        table = pa.table({**columns, "key_text": [str(key) for key in columns["id"]]})
        pq.write_table(table, self.root / "outgoing.parquet")
        self.con.read_parquet(str(self.root / "outgoing.parquet")).create_view("outgoing")

    def listed(self, name: str, text: str, *, age: timedelta = timedelta(0)) -> None:
        (self.root / name).write_text(text)
        os.utime(self.root / name, ((NOW - age).timestamp(),) * 2)

    def choose(self, **options: Any) -> Chosen:
        storage = LocalStorage(self.root)
        return choose(self.con, target(**options), ["id"], storage, NOW, self.root / "scratch")

    def refused(self, error: type[LakescoreError], **options: Any) -> str:
        with pytest.raises(error) as raised:
            self.choose(**options)
        return str(raised.value)

    def chosen(self, columns: str = "id") -> list[Any]:
        rows = self.con.sql(f"SELECT {columns} FROM chosen ORDER BY __segment NULLS LAST, export_rank").fetchall()
        return [row[0] for row in rows] if columns == "id" else rows


@pytest.fixture
def rows(tmp_path: Path) -> Iterator[Rows]:
    with connect(threads=4) as con:
        yield Rows(con, tmp_path)


def test_top_equal_scores_are_taken_in_the_order_of_the_keys(rows: Rows) -> None:
    rows.have(id=[5, 4, 3, 2, 1, 0], score=[0.5, 0.5, 0.5, 0.5, 0.9, 0.1])
    rows.choose(score="score", top=3)
    assert rows.chosen("id, export_rank") == [(1, 1), (2, 2), (3, 3)]


def test_top_per_segment_agrees_with_sorting_everything(rows: Rows) -> None:
    with duckdb.connect() as con:
        made = con.sql(
            "SELECT i AS id, ((i * 7919) % 601 / 7.0)::FLOAT AS score, nullif(i % 5, 3) AS segment "
            "FROM range(5000) AS t(i)"
        ).to_arrow_table()
    rows.have(**{name: made.column(name) for name in made.column_names})
    done = rows.choose(score="score", top=150, per="segment")
    expected = rows.con.sql(
        "SELECT id FROM outgoing QUALIFY row_number() OVER (PARTITION BY segment ORDER BY score DESC, id) <= 150"
    ).fetchall()
    assert set(rows.chosen()) == {row[0] for row in expected}
    assert [(each.segment, each.chosen) for each in done.segments] == [*((s, 150) for s in "0124"), (None, 150)]


@pytest.mark.parametrize(("share", "of", "chosen"), [(0.07, 100, 7), (0.07, 101, 8), (0.0001, 3, 1), (1, 3, 3)])
def test_share_a_part_of_a_row_counts_as_one(rows: Rows, share: float, of: int, chosen: int) -> None:
    rows.have(id=list(range(of)), score=[1.0] * of)
    assert rows.choose(score="score", share=share).sent == chosen
    assert rows.chosen() == list(range(chosen))


def test_no_rows_nothing_is_chosen(rows: Rows) -> None:
    rows.have(id=pa.array([], pa.int64()), score=pa.array([], pa.float32()))
    assert rows.choose(score="score", top=3).sent == 0


def test_score_of_a_list_is_its_first_value(rows: Rows) -> None:
    rows.have(id=[1, 2], top_scores=[[0.1, 0.0], [0.2, 0.0]])
    rows.choose(score="top_scores", top=1)
    assert rows.chosen() == [2]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_score_that_is_no_number_is_refused(rows: Rows, value: float | None) -> None:
    rows.have(id=[1, 2], score=[value, 0.5])
    assert "1 row has no finite score" in rows.refused(DeliveryRefused, score="score", top=1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"score": "scroe", "top": 1}, "did you mean 'score'"),
        ({"score": "name", "top": 1}, "holds no numbers"),
        ({"columns": ["id", "nmae"]}, "did you mean 'name'"),
        ({"score": "score", "top": 1, "per": "segment"}, "`per`"),
    ],
)
def test_column_that_is_not_there_is_named(rows: Rows, options: dict[str, Any], said: str) -> None:
    rows.have(id=[1], score=[0.5], name=["x"])
    assert said in rows.refused(JobError, **options)


OPTED_OUT = {"name": "opted_out", "path": "lists/*.csv", "max_age": "2d"}


def test_suppression_comes_before_the_limit_and_is_recorded(rows: Rows) -> None:
    (rows.root / "lists").mkdir()
    rows.have(id=[1, 2, 3, 4], score=[0.9, 0.8, 0.7, 0.6])
    rows.listed("lists/a.csv", "id\n1\n77\n", age=timedelta(days=1))
    rows.listed("lists/b.csv", "id\n1\n3\n", age=timedelta(hours=3))
    done = rows.choose(score="score", top=2, suppress=[OPTED_OUT])
    assert rows.chosen() == [2, 4]
    (applied,) = done.lists
    assert (applied.listed, applied.removed) == (3, 2)
    assert applied.changed_at == NOW - timedelta(days=1)
    digests = [hashlib.sha256((rows.root / f"lists/{name}.csv").read_bytes()).digest() for name in "ab"]
    assert applied.sha256 == hashlib.sha256(b"".join(digests)).hexdigest()


def test_suppression_each_row_counts_for_the_first_list_that_names_it(rows: Rows) -> None:
    rows.have(id=["1", "2", "3"], email=["a@x", "b@x", None], score=[0.9, 0.8, 0.7])
    rows.listed("ids.csv", "customer\n1\n")
    rows.listed("mails.jsonl", '{"mail": "a@x"}\n{"mail": "b@x"}\n')
    ids = {"name": "ids", "path": "ids.csv", "max_age": "1d", "column": "customer"}
    mails = {"name": "mails", "path": "mails.jsonl", "max_age": "1d", "on": "email", "column": "mail"}
    done = rows.choose(columns=["id"], suppress=[ids, mails])
    assert [each.removed for each in done.lists] == [1, 1]
    assert rows.chosen() == ["3"]


def test_suppression_keys_are_compared_as_they_are_written(rows: Rows) -> None:
    rows.have(id=["007", "7"], score=[0.9, 0.8])
    rows.listed("ids.csv", "id\n007\n")
    rows.choose(score="score", suppress=[{**OPTED_OUT, "path": "ids.csv"}])
    assert rows.chosen() == ["7"]


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        (None, DeliveryFailed, "it is missing"),
        ("id\n", DeliveryRefused, "it has no rows"),
        ("", DeliveryRefused, "empty"),
        ("ids\n1\n", DeliveryRefused, "did you mean 'ids'"),
        ("id\n7.5\n", DeliveryRefused, "not BIGINT"),
        ("id,x\n1,a\n,b\n", DeliveryRefused, "1 of its 2 rows have no value in id"),
    ],
)
def test_suppression_list_that_may_be_wrong_is_refused(
    rows: Rows, text: str | None, error: type[LakescoreError], said: str
) -> None:
    rows.have(id=[1, 8], score=[0.9, 0.8])
    if text is not None:
        rows.listed("ids.csv", text)
    assert said in rows.refused(error, suppress=[{**OPTED_OUT, "path": "ids.csv"}])


def test_suppression_list_that_is_too_old_is_refused(rows: Rows) -> None:
    rows.have(id=[1], score=[0.9])
    rows.listed("ids.csv", "id\n2\n", age=timedelta(days=2, seconds=1))
    assert "2026-01-03 11:59 UTC" in rows.refused(DeliveryFailed, suppress=[{**OPTED_OUT, "path": "ids.csv"}])
    rows.listed("ids.csv", "id\n2\n", age=timedelta(days=2))
    rows.con.execute("DROP VIEW scored; DROP TABLE suppressed")
    assert rows.choose(suppress=[{**OPTED_OUT, "path": "ids.csv"}]).sent == 1


def test_suppression_spaces_around_a_key_are_refused(rows: Rows) -> None:
    rows.have(id=["a", "b"], score=[0.9, 0.8])
    rows.listed("ids.csv", 'id\n"a "\n')
    assert "1 of its values have spaces" in rows.refused(DeliveryRefused, suppress=[{**OPTED_OUT, "path": "ids.csv"}])


def test_suppression_by_numbers_is_refused_where_keys_are_text(rows: Rows) -> None:
    """7 could stand for 7 or 007."""
    rows.have(id=["007", "8"], score=[0.9, 0.8])
    pq.write_table(pa.table({"id": [7]}), rows.root / "ids.parquet")
    os.utime(rows.root / "ids.parquet", (NOW.timestamp(),) * 2)
    assert "id is no text" in rows.refused(DeliveryRefused, suppress=[{**OPTED_OUT, "path": "ids.parquet"}])


def test_suppression_by_text_in_parquet_is_taken_as_it_is(rows: Rows) -> None:
    rows.have(id=["007", "8"], score=[0.9, 0.8])
    pq.write_table(pa.table({"id": ["007"]}), rows.root / "ids.parquet")
    os.utime(rows.root / "ids.parquet", (NOW.timestamp(),) * 2)
    rows.choose(suppress=[{**OPTED_OUT, "path": "ids.parquet"}])
    assert rows.chosen() == ["8"]


def test_suppression_list_may_be_empty_if_the_job_says_so(rows: Rows) -> None:
    rows.have(id=[1], score=[0.9])
    rows.listed("ids.csv", "id\n")
    assert rows.choose(suppress=[{**OPTED_OUT, "path": "ids.csv", "may_be_empty": True}]).sent == 1


def test_holdout_is_the_same_whatever_is_scored_and_differs_by_campaign(rows: Rows) -> None:
    rows.have(id=list(range(10_000)), score=[0.5] * 10_000)
    rows.choose(holdout={"campaign": "spring", "share": 0.05})
    held = {row[0] for row in rows.con.sql("SELECT id FROM chosen WHERE export_group = 'holdout'").fetchall()}

    def bucket(key: int, campaign: str) -> int:
        return int.from_bytes(hashlib.md5(f"{campaign}\x1f{key}".encode()).digest()[8:], "little") % 10_000

    assert held == {key for key in range(10_000) if bucket(key, "spring") < 500}
    assert 400 < len(held) < 600
    assert held != {key for key in range(10_000) if bucket(key, "summer") < 500}


@pytest.mark.parametrize(
    "options",
    [
        {"top": 3},
        {"score": "s", "top": 3, "share": 0.5},
        {"per": "segment"},
        {"score": "s", "share": 0.00000005},
        {"holdout": {"campaign": "x", "share": 0.00005}},
        {"format": "parquet", "spreadsheet_safe": True},
        {"to": "drop/here"},
        {"to": "/srv/../lake"},
        {"columns": ["id", "ID"]},
    ],
)
def test_target_that_contradicts_itself_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="1 validation error"):
        target(**options)
