"""Exports and flags of keys of several columns, of odd names, of other types; and beside other jobs."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pc
import pytest

from pipeline.errors import JobError
from pipeline.lake.layout import Partition
from pipeline.records import RunRecord
from tests import lakes
from tests.publish.drop import DAYS, Drop


@pytest.fixture
def drop(tmp_path: Path) -> Drop:
    return Drop(tmp_path)


def day(drop: Drop, key: dict[str, list[Any]], ds: str = DAYS[0], *, job: str = "churn", **columns: Any) -> RunRecord:
    """Stores a complete run with a key of any columns."""
    partition = Partition(job, ds, "v1")
    lakes.add_input(drop.lake, ds, pa.table({name: pa.array(values) for name, values in key.items()}))
    part = lakes.add_part(drop.lake, partition, lakes.prediction_rows(key, run=lakes.run_id(ds), ds=ds, **columns))
    return lakes.add_run(drop.lake, partition, key=tuple(key), scored=1, committed=[part])


def job(drop: Drop, options: str, key: str, carry: str = "[]") -> None:
    drop.job(options, carry=carry)
    text = (drop.folder / "job.toml").read_text()
    (drop.folder / "job.toml").write_text(text.replace('key = ["id"]', f"key = {key}"))


def test_key_of_two_columns_is_suppressed_held_out_compared_and_erased_as_a_pair(drop: Drop) -> None:
    job(drop, 'changes = true\nsuppress = [{ name = "out", path = "out.csv", max_age = "1d" }]', '["shop", "id"]')
    (drop.root / "lake/out.csv").write_text("id,shop\n1,a\n2,b\n")
    key: dict[str, list[Any]] = {"shop": ["a", "a", "b", "b"], "id": [1, 2, 1, 2]}
    assert drop.publish(day(drop, key)).rows == 2
    assert drop.path().read_text().splitlines()[1].startswith('"a",2,')
    assert drop.path().read_text().splitlines()[2].startswith('"b",1,')
    assert drop.publish(day(drop, {"shop": ["b"], "id": [1]}, DAYS[1])).rows == 1
    assert drop.path("removed").read_text() == '"shop","id"\n"a",2\n'
    assert drop.path("added").read_text().count("\n") == 1
    assert drop.ask("SELECT ds, key_text FROM exports ORDER BY ALL") == [
        (DAYS[0], "a,2"),
        (DAYS[0], "b,1"),
        (DAYS[1], "b,1"),
    ]


def test_key_and_columns_of_odd_names_are_exported(drop: Drop) -> None:
    names = ['a "b"', "select", "export key"]
    job(
        drop, 'score = "se\\"ct;or"\ntop = 1\nchanges = true', '["a \\"b\\"", "select", "export key"]', '["se\\"ct;or"]'
    )
    key = {name: ["x", "y"] for name in names}
    drop.publish(day(drop, key, carry={'se"ct;or': [1.5, 2.5]}))
    found = pc.read_csv(drop.path())
    assert found.column_names[:4] == [*names, 'se"ct;or']
    assert found.column(names[0]).to_pylist() == ["y"]


@pytest.mark.parametrize(
    ("values", "listed", "left"),
    [
        ([date(2026, 1, 1), date(2026, 1, 2)], "2026-01-02", "2026-01-01"),
        ([-1, 9_007_199_254_740_993], "-1", "9007199254740993"),
        (["ä", "Ä"], "ä", "Ä"),
        (["", "0"], "0", ""),
        (["a,b", 'a"b'], '"a,b"', 'a"b'),
    ],
)
def test_keys_of_a_list_are_compared_exactly(drop: Drop, values: list[Any], listed: str, left: str) -> None:
    drop.job('columns = ["id"]\nsuppress = [{ name = "out", path = "out.csv", max_age = "1d" }]')
    (drop.root / "lake/out.csv").write_text(f"id\n{listed}\n")
    drop.publish(day(drop, {"id": values}))
    found = pc.read_csv(drop.path(), convert_options=pc.ConvertOptions(column_types={"id": pa.string()}))
    assert found.column("id").to_pylist() == [left]


def test_views_of_two_jobs_with_other_keys_do_not_mix(drop: Drop) -> None:
    drop.job()
    drop.publish(day(drop, {"id": ["a"]}))
    other = Drop(drop.root / "other")
    other.lake, other.folder = drop.lake, drop.root / "jobs/other"
    other.folder.mkdir()
    other.job(to=f"{drop.root}/drop")
    text = (other.folder / "job.toml").read_text()
    (other.folder / "job.toml").write_text(text.replace('key = ["id"]', 'key = ["number"]'))
    other.publish(day(drop, {"number": [7]}, job="other"))
    assert drop.ask("SELECT job, key_text FROM exports ORDER BY ALL") == [("churn", "a"), ("other", "7")]


def test_column_that_differs_in_case_alone_is_named(drop: Drop) -> None:
    drop.job('columns = ["ID"]')
    with pytest.raises(JobError, match="did you mean 'id'"):
        drop.publish(day(drop, {"id": ["a"]}))
