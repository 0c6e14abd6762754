"""Columns that the names of folders give, names of columns that are not told apart, and files without rows."""

from __future__ import annotations

import dataclasses
import shutil
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import InputEmpty, SchemaMismatch, UnreadableFile
from pipeline.explain.explaining import explain
from pipeline.query.running import run_query
from tests.calling import Cli
from tests.s3 import BUCKET, S3Server
from tests.selecting.test_input_files import rows
from tests.selecting.test_selecting import job_selecting, job_with, refused
from tests.workspace import DAY, Workspace

OTHER = "2026-01-02"


def reads(workspace: Workspace, pattern: str, **settings: list[str]) -> None:
    """Sets the path of the job `toy`, and lists in its [input]."""
    toml = workspace.settings.jobs / "toy" / "job.toml"
    toml.write_text(toml.read_text().replace('path = "unscored/ds={ds}/*.parquet"', f"path = '{pattern}'"))
    job_with(workspace, **settings)


def put(workspace: Workspace, key: str, table: pa.Table) -> Path:
    path = workspace.lake / key
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path


def carried(workspace: Workspace, column: str = "seg") -> dict[Any, Any]:
    return {row["id"]: row[column] for row in workspace.stored(f"SELECT id, {column} FROM predictions")}


def queried(workspace: Workspace, text: str) -> list[tuple[Any, ...]]:
    ctx = workspace.context()
    with run_query(ctx.lake, text, job=ctx.job) as found, found.stream() as (_, batches):
        return [tuple(row.values()) for batch in batches for row in batch.to_pylist()]


# Where the lake lies


@pytest.mark.parametrize("above", ["seg=EU", "ds=2020-01-01", "a=7"])
def test_folder_above_the_lake_is_no_column(workspace: Workspace, cli: Cli, tmp_path: Path, above: str) -> None:
    workspace.with_pages()
    home = tmp_path / above / "model_version=v9" / "job=other"
    home.mkdir(parents=True)
    for name in ("lake", "models", "dags"):
        if (tmp_path / name).exists():
            shutil.move(tmp_path / name, home / name)
    moved = Workspace(home)
    job_with(moved, carry=["seg"])
    moved.day(rows("x", "y", seg=["US", None]))
    record = moved.complete()
    stored = pq.ParquetFile(moved.lake / record.parts[0].path).read().to_pylist()
    assert {row["id"]: row["seg"] for row in stored} == {"x": "US", "y": None}
    expected = [(DAY, "toy", "v1", "x", "US"), (DAY, "toy", "v1", "y", None)]
    assert queried(moved, "SELECT ds, job, model_version, id, seg FROM predictions ORDER BY id") == expected
    assert queried(moved, f"SELECT id, seg FROM predictions WHERE ds = '{DAY}' ORDER BY id") == [
        ("x", "US"),
        ("y", None),
    ]
    assert queried(moved, "SELECT ds, id, seg FROM unscored ORDER BY id") == [(DAY, "x", "US"), (DAY, "y", None)]
    for view in ("quality", "profiles", "runs"):
        assert queried(moved, f"SELECT DISTINCT job, ds FROM {view}") == [("toy", DAY)]
    lake = ("--lake", moved.lake)
    assert "no problem" in cli("verify", *lake).stdout
    assert moved.run().up_to_date
    (found,) = explain(moved.context(), "x", replay=True).predictions
    assert (found.ds, found.model_version, found.carried) == (DAY, "v1", {"seg": "US"})
    assert found.input is not None
    assert found.input.same


# Folders below the pattern's fixed part


VALUES = {
    "seg=EU": "EU",
    "seg=": "",
    "seg=a=b": "a=b",
    "seg= x ": " x ",
    "seg=C:\\x": "C:\\x",
    "seg=a%2Fb%20c": "a/b c",
    "seg=100%": "100%",
    "seg=%C3%BC": "ü",
    "seg=ö": "ö",
    "seg=__HIVE_DEFAULT_PARTITION__": None,
}


@pytest.mark.parametrize("pattern", ["unscored/ds={ds}/seg=*/*.parquet", "unscored/ds={ds}/**/*.parquet"])
def test_folder_that_the_job_names_is_a_column(workspace: Workspace, pattern: str) -> None:
    reads(workspace, pattern, carry=["seg"])
    for folder in VALUES:
        put(workspace, f"unscored/ds={DAY}/{folder}/a.parquet", rows(folder))
    workspace.run()
    assert carried(workspace) == VALUES
    assert dict(queried(workspace, f"SELECT id, seg FROM unscored WHERE ds = '{DAY}'")) == VALUES
    assert queried(workspace, "SELECT id FROM unscored WHERE seg IS NULL") == [("seg=__HIVE_DEFAULT_PARTITION__",)]


def test_folder_whose_value_is_not_text_is_refused(workspace: Workspace) -> None:
    reads(workspace, "unscored/ds={ds}/seg=*/*.parquet", carry=["seg"])
    put(workspace, f"unscored/ds={DAY}/seg=%FF/a.parquet", rows("x"))
    refused(workspace, UnreadableFile, "not text")


def test_folder_never_replaces_a_column_that_differs(workspace: Workspace) -> None:
    reads(workspace, "unscored/ds={ds}/**/*.parquet", carry=["seg"])
    put(workspace, f"unscored/ds={DAY}/seg=EU/a.parquet", rows("x", "y", seg=["EU", "US"]))
    refused(workspace, SchemaMismatch, "differs from the folder seg=")
    with pytest.raises(SchemaMismatch):
        queried(workspace, "FROM unscored")
    put(workspace, f"unscored/ds={DAY}/seg=EU/a.parquet", rows("x", "y", seg=["EU", "EU"]))
    workspace.run()
    assert carried(workspace) == {"x": "EU", "y": "EU"}


@pytest.mark.parametrize("kind", [pa.string(), pa.date32()])
def test_day_that_files_hold_has_to_be_that_of_their_folder(workspace: Workspace, kind: pa.DataType) -> None:
    for other in (OTHER, None):
        workspace.day(rows("x", "y", ds=pa.array([DAY, other]).cast(kind)))
        refused(workspace, SchemaMismatch, "differs from the folder ds=")
    workspace.day(rows("x", "y", ds=pa.array([DAY, DAY]).cast(kind)))
    workspace.run()
    assert queried(workspace, "SELECT ds, id FROM unscored ORDER BY id") == [(DAY, "x"), (DAY, "y")]


def test_key_that_files_and_folder_hold_alike_is_one_key(workspace: Workspace) -> None:
    reads(workspace, "unscored/ds={ds}/shop=*/*.parquet", key=["shop", "id"])
    put(workspace, f"unscored/ds={DAY}/shop=7/a.parquet", rows("x", shop=[7]))
    workspace.run()
    put(workspace, f"unscored/ds={DAY}/shop=8/a.parquet", rows("x", shop=[8]))
    workspace.run()
    assert sorted(row["shop"] for row in workspace.stored()) == ["7", "8"]


def test_folder_that_nobody_names_leaves_the_column_of_the_file(workspace: Workspace) -> None:
    reads(workspace, "unscored/ds={ds}/**/*.parquet")
    put(workspace, f"unscored/ds={DAY}/batch=7/a.parquet", rows("x", batch=[3]))
    put(workspace, f"unscored/ds={DAY}/b.parquet", rows("y", batch=[4]))
    workspace.run()
    assert queried(workspace, "SELECT id, batch FROM unscored ORDER BY id") == [("x", 3), ("y", 4)]


def test_files_at_other_depths_are_read_or_refused_if_the_folder_counts(workspace: Workspace) -> None:
    reads(workspace, "unscored/ds={ds}/**/*.parquet")
    put(workspace, f"unscored/ds={DAY}/seg=EU/a.parquet", rows("x"))
    put(workspace, f"unscored/ds={DAY}/b.parquet", rows("y"))
    workspace.run()
    assert sorted(row["id"] for row in workspace.stored()) == ["x", "y"]
    assert queried(workspace, "SELECT id FROM unscored ORDER BY id") == [("x",), ("y",)]
    reads(workspace, "", carry=["seg"])
    refused(workspace, SchemaMismatch, "some of the files lie in a folder seg=")


def test_folder_in_the_fixed_part_fills_in_what_files_lack(workspace: Workspace) -> None:
    reads(workspace, "in/seg=EU/ds={ds}/*.parquet", carry=["seg"])
    put(workspace, f"in/seg=EU/ds={DAY}/a.parquet", rows("x"))
    put(workspace, f"in/seg=EU/ds={OTHER}/a.parquet", rows("x", seg=["US"]))
    workspace.run()
    workspace.run(OTHER)
    assert workspace.stored("SELECT ds::VARCHAR AS ds, seg FROM predictions ORDER BY ds") == [
        {"ds": DAY, "seg": "EU"},
        {"ds": OTHER, "seg": "US"},
    ]


def test_select_filters_by_a_folder(workspace: Workspace) -> None:
    job_selecting(workspace, "SELECT id, a, b, seg FROM orders WHERE ds = $ds AND seg = 'EU'")
    toml = workspace.settings.jobs / "toy" / "job.toml"
    toml.write_text(toml.read_text().replace("unscored/ds={ds}/*.parquet", "unscored/ds={ds}/*/*.parquet"))
    for seg, key in (("EU", "x"), ("US", "y")):
        put(workspace, f"unscored/ds={DAY}/seg={seg}/a.parquet", rows(key))
    workspace.run()
    assert [row["id"] for row in workspace.stored()] == ["x"]


# Names of columns


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["id", "a", "b", "a"], "two columns 'a'"),
        (["id", "a", "b", "A"], "differ only in case"),
        (["id", "a", "b", "x", "X"], "differ only in case"),
    ],
)
def test_columns_of_a_file_that_are_not_told_apart_are_refused(
    workspace: Workspace, names: list[str], message: str
) -> None:
    values = [pa.array(["k"]), *(pa.array([float(place)]) for place in range(1, len(names)))]
    path = workspace.day(pa.table(values, names=names))
    assert refused(workspace, SchemaMismatch, message).where == str(path)
    with pytest.raises(SchemaMismatch, match=message):
        queried(workspace, "FROM unscored")


def test_columns_whose_names_look_renamed_are_read(workspace: Workspace) -> None:
    struct = pa.array([{"a": 1, "A": 2}])
    workspace.day(rows("x", a_1=[5], b_1=[6], s=struct, l=[[1]], z=[7], z_1=[8]))
    workspace.run()
    assert queried(workspace, "SELECT a, a_1, b_1, z, z_1 FROM unscored") == [(0.5, 5, 6, 7, 8)]


# Files with different types of numbers

LARGE = 2**53 + 1


def place_types(workspace: Workspace, whole: int, column: str = "n") -> None:
    rows = {"a": [1.0], "b": [1.0]}
    workspace.day(pa.table({"id": ["x"], **rows, column: pa.array([whole], pa.int64())}), file="1.parquet")
    workspace.day(pa.table({"id": ["y"], **rows, column: pa.array([0.5], pa.float64())}), file="2.parquet")


@pytest.mark.parametrize("select", [False, True])
def test_carried_integer_that_another_file_would_round_is_refused(workspace: Workspace, select: bool) -> None:
    place_types(workspace, LARGE)
    folder = workspace.job()
    text = (folder / "job.toml").read_text().replace('key = ["id"]', 'key = ["id"]\ncarry = ["n"]')
    if select:
        sources = 'select = "rows.sql"\nsources = { orders = "unscored/ds={ds}/*.parquet" }'
        text = text.replace('path = "unscored/ds={ds}/*.parquet"', sources)
        (folder / "rows.sql").write_text("SELECT id, a, b, n::BIGINT AS n FROM orders")
    (folder / "job.toml").write_text(text)
    with pytest.raises(SchemaMismatch, match=r"column n has numbers that another file's type would round") as caught:
        workspace.run()
    assert str(caught.value.where).endswith("1.parquet")
    folder = workspace.lake / "unscored" / f"ds={DAY}"
    pq.write_table(pq.read_table(folder / "2.parquet").slice(0, 0), folder / "2.parquet")
    assert workspace.complete().dispositions["scored"] == 1  # a file without rows has no type
    place_types(workspace, LARGE - 1)  # a DOUBLE has it: pandas writes integers so, where others are missing
    assert workspace.complete().plan.candidates.rows == 2


# Files without rows

NO_ROWS = {
    "null types": pa.table({"id": pa.nulls(0), "a": pa.nulls(0), "b": pa.nulls(0), "seg": pa.nulls(0)}),
    "text": pa.table({name: pa.array([], pa.string()) for name in ("id", "a", "b", "seg")}),
    "other columns": pa.table({"other": pa.array([], pa.int64())}),
}


@pytest.mark.parametrize("empty", NO_ROWS.values(), ids=NO_ROWS)
def test_file_without_rows_does_not_stop_its_day_or_change_a_type(workspace: Workspace, empty: pa.Table) -> None:
    job_with(workspace, carry=["seg"])
    workspace.day(empty, file="a.parquet")
    numbers = pa.table({"id": [7, 8], "a": [0.5, 0.5], "b": [1.0, 1.0], "seg": [1, 2]})
    workspace.day(numbers, file="b.parquet")
    workspace.run()
    assert carried(workspace) == {7: 1, 8: 2}


@pytest.mark.parametrize("empty", NO_ROWS.values(), ids=NO_ROWS)
def test_day_of_files_without_rows_is_empty(workspace: Workspace, empty: pa.Table) -> None:
    workspace.day(empty, file="a.parquet")
    refused(workspace, InputEmpty, "has no rows")


# Object storage


@pytest.mark.slow
def test_lake_in_an_object_store_below_a_folder_has_the_same_columns(workspace: Workspace, s3: S3Server) -> None:
    """Also a prefix that ends as an object, which is a folder only in name."""
    root = f"s3://{BUCKET}/{uuid.uuid4().hex}/seg=EU/ds=2020-01-01/lake"
    reads(workspace, "unscored/ds={ds}/region=*/*.parquet", carry=["seg", "region"])
    workspace.settings = dataclasses.replace(workspace.settings, lake=root)
    storage = workspace.context().lake.storage
    path = workspace.root / "a.parquet"
    pq.write_table(rows("x", seg=["US"]), path)
    storage.create(f"unscored/ds={DAY}/region=a%2Fb/a.parquet", path)
    workspace.run()
    expected = [(DAY, "toy", "v1", "x", "US", "a/b")]
    assert queried(workspace, "SELECT ds, job, model_version, id, seg, region FROM predictions") == expected
    assert queried(workspace, "SELECT ds, id, seg, region FROM unscored") == [(DAY, "x", "US", "a/b")]
    storage.create(f"unscored/ds={DAY}/region=c/b.parquet/part-0.parquet", path)
    with pytest.raises(UnreadableFile) as caught:
        workspace.run()
    assert caught.value.where == f"{root}/unscored/ds={DAY}/region=c/b.parquet"
