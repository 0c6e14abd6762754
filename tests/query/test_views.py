"""The public views: which rows are current, in any lake, and that they read no more files than necessary."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.database.connection import connect, translated_errors
from pipeline.errors import LakeDamaged, OutOfMemory, UnreadableFile
from pipeline.job.loading import read_job
from pipeline.lake.layout import Lake, Partition
from pipeline.query import unscored, views
from pipeline.query.stored_columns import FILE, PREDICTIONS, QUARANTINE
from pipeline.records import State
from pipeline.selecting.triage import REASONS
from pipeline.settings import Settings
from tests import lakes
from tests.workspace import DAY, Workspace

JOB = '[model]\nname = "m"\n[input]\nkey = ["id"]\n'


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return lakes.open_lake(tmp_path / "lake")


@pytest.fixture
def con() -> Iterator[Any]:
    with connect(threads=2) as con:
        yield con


def ask(con: Any, query: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = con.sql(query).to_arrow_table().to_pylist()
    return rows


def values(con: Any, query: str) -> list[Any]:
    """Returns the rows as tuples, or the plain values if there is a single column."""
    rows = [tuple(row.values()) for row in ask(con, query)]
    return [row[0] if len(row) == 1 else row for row in rows]


def files_read(con: Any, query: str) -> int:
    plan = con.sql(f"EXPLAIN ANALYZE {query}").fetchall()[0][1]
    return sum(int(count) for count in re.findall(r"Total Files Read: (\d+)", plan))


def part(lake: Lake, partition: Partition, ids: list[Any], *, number: int = 0, **columns: Any) -> Any:
    run = lakes.run_id(partition.ds, number)
    return lakes.add_part(lake, partition, lakes.prediction_rows({"id": ids}, run=run, ds=partition.ds, **columns))


# Which rows are current


def test_empty_lake_views_have_their_fixed_columns(con: Any, lake: Lake) -> None:
    assert views.create(con, lake) == []
    for name in views.NAMES:
        assert ask(con, f"SELECT * FROM {name}") == []
    assert con.view("predictions").columns == list(PREDICTIONS)
    assert con.view("quarantine").columns == [name for name in QUARANTINE if name != FILE]


def test_lake_that_is_not_there_is_an_empty_one(con: Any, tmp_path: Path) -> None:
    views.create(con, Lake.open(str(tmp_path / "nowhere")))
    assert values(con, "SELECT count(*) FROM predictions") == [0]
    assert not (tmp_path / "nowhere").exists()


def test_predictions_newest_revision_of_each_key_is_current(con: Any, lake: Lake) -> None:
    partition = Partition("churn", DAY, "v1")
    lakes.add_day(lake, DAY, ["a", "b", "c"])
    for number, ids in ((1, ["a", "b"]), (2, ["b"])):
        file = part(lake, partition, ids, number=number, reason="changed", revision=number)
        lakes.add_run(lake, partition, number=number, scored=len(ids), committed=[file], reason="changed")
    views.create(con, lake)
    current = "SELECT id, revision FROM {} ORDER BY id"
    assert values(con, current.format("predictions_by_version")) == [("a", 1), ("b", 2), ("c", 0)]
    assert values(con, current.format("predictions")) == [("a", 1), ("b", 2), ("c", 0)]
    assert values(con, "SELECT count(*) FROM predictions_history") == [6]


@pytest.mark.parametrize("reason", [*REASONS, "a later version's"])
def test_predictions_of_any_reason_at_a_later_revision_replace_the_earlier_ones(
    con: Any, lake: Lake, reason: str
) -> None:
    lakes.add_day(lake, DAY, ["a", "b"])
    file = part(lake, Partition("churn", DAY, "v1"), ["a"], number=1, reason=reason, revision=1)
    lakes.add_run(lake, Partition("churn", DAY, "v1"), number=1, scored=1, committed=[file], reason=reason)
    views.create(con, lake)
    assert values(con, "SELECT id, revision FROM predictions ORDER BY id") == [("a", 1), ("b", 0)]
    assert values(con, "SELECT count(*) FROM predictions_history") == [3]


@pytest.mark.parametrize("state", [State.scored, State.failed, None])
def test_predictions_of_a_run_that_crashed_after_it_published_count(con: Any, lake: Lake, state: State | None) -> None:
    """Its record, if there is one, does not say what the run has published."""
    partition = Partition("churn", DAY, "v1")
    lakes.add_day(lake, DAY, ["a", "b"])
    part(lake, partition, ["a"], number=1, reason="changed", revision=1)
    if state is not None:
        lakes.add_run(lake, partition, number=1, state=state)
    else:
        lake.storage.delete(f"runs/job=churn/ds={DAY}/{lakes.run_id(DAY)}.json")
    views.create(con, lake)
    assert values(con, "SELECT id, revision FROM predictions_by_version ORDER BY id") == [("a", 1), ("b", 0)]


def test_predictions_revision_rolled_back_uncovers_the_one_before(con: Any, lake: Lake) -> None:
    partition = Partition("churn", DAY, "v1")
    lakes.add_day(lake, DAY, ["a"])
    for number in (1, 2):
        file = part(lake, partition, ["a"], number=number, reason="changed", revision=number)
        lakes.add_run(lake, partition, number=number, scored=1, committed=[file], reason="changed")
    no_rows = lakes.prediction_rows({"id": ["a"]}, run="x", ds=DAY).slice(0, 0)
    lakes.write_parquet(lake.workspace.path(partition.part(2)), no_rows)
    views.create(con, lake)
    assert values(con, "SELECT revision FROM predictions") == [1]


def test_predictions_are_those_of_the_version_that_completed_last(con: Any, lake: Lake) -> None:
    lakes.add_day(lake, DAY, ["a"], version="v2", number=0)
    lakes.add_day(lake, DAY, ["a"], version="v1", number=1)
    lakes.add_run(lake, Partition("churn", DAY, "v3"), number=2, state=State.failed)
    part(lake, Partition("churn", DAY, "v3"), ["a"], number=2)
    views.create(con, lake)
    assert values(con, "SELECT model_version FROM predictions") == ["v1"]
    assert values(con, "SELECT model_version FROM predictions_by_version ORDER BY ALL") == ["v1", "v2", "v3"]


def test_predictions_of_a_day_that_never_was_complete_are_not_current(con: Any, lake: Lake) -> None:
    partition = Partition("churn", DAY, "v1")
    part(lake, partition, ["a"])
    lakes.add_run(lake, partition, state=State.failed)
    views.create(con, lake)
    assert values(con, "SELECT count(*) FROM predictions") == [0]
    assert values(con, "SELECT id FROM predictions_by_version") == ["a"]


committed = st.lists(
    st.tuples(st.sampled_from(["v1", "v2"]), st.sets(st.sampled_from("abcd"), min_size=1)), min_size=1, max_size=5
)


@pytest.mark.slow
@settings(max_examples=25)
@given(runs=committed)
def test_predictions_equal_those_of_a_plain_model_of_the_lake(
    runs: list[tuple[str, set[str]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    lake = lakes.open_lake(tmp_path_factory.mktemp("lake"))
    newest: dict[tuple[str, str], int] = {}
    for number, (version, ids) in enumerate(runs):
        partition, files = Partition("churn", DAY, version), []
        by_revision: dict[int, list[str]] = {}
        for each in sorted(ids):
            newest[version, each] = newest.get((version, each), -1) + 1
            by_revision.setdefault(newest[version, each], []).append(each)
        for revision, keys in by_revision.items():
            reason = "changed" if revision else "new"
            files.append(part(lake, partition, keys, number=number, reason=reason, revision=revision))
        reason = "changed" if max(by_revision) else "new"
        lakes.add_run(lake, partition, number=number, scored=len(ids), committed=files, reason=reason)
    with connect(threads=1) as con:
        views.create(con, lake)
        found = values(con, "SELECT model_version, id, revision FROM predictions_by_version")
        current = values(con, "SELECT model_version, id, revision FROM predictions")
    assert sorted(found) == sorted((*key, revision) for key, revision in newest.items())
    last = runs[-1][0]
    assert sorted(current) == sorted((*key, revision) for key, revision in newest.items() if key[0] == last)


def test_views_read_what_the_flow_writes(workspace: Workspace) -> None:
    rows = {"id": ["a", "b", "b", "c", None], "a": [1.0, None, None, 3.0, 1.0], "b": [1.0, 2.0, 2.0, 3.0, 1.0]}
    workspace.day(rows)
    record = workspace.complete()
    with connect() as con:
        lake = Lake.open(workspace.settings.lake)
        views.create(con, lake)
        unscored.create(con, lake, workspace.context().job)
        assert values(con, "SELECT id, revision FROM predictions ORDER BY id") == [("a", 0), ("c", 0)]
        assert values(con, "SELECT count(*) FROM unscored WHERE ds = '2026-01-01'") == [5]
        assert record.ledger is not None
        assert values(con, "SELECT count(*) FROM quarantine") == [record.ledger.quarantined.rows]
        (run,) = ask(con, "SELECT * FROM runs")
    assert {name: run[name] for name in record.ledger.counts()} == record.ledger.counts()
    assert (run["run_id"], run["state"], run["balanced"]) == (record.run_id, "complete", True)
    assert run["rows_per_s"] > 0
    assert sum(share for share in run["busy"].values() if share is not None) == pytest.approx(1)
    read, written = (
        sum(getattr(stage, name) or 0 for stage in record.stages) for name in ("bytes_read", "bytes_written")
    )
    assert (run["bytes_read"], run["bytes_written"]) == (read, written)


# Jobs, keys and columns that differ


def test_predictions_jobs_with_different_keys_stand_in_one_view(con: Any, lake: Lake) -> None:
    lakes.add_day(lake, DAY, [1, 2], job="churn", key="id")
    lakes.add_day(lake, DAY, ["x"], job="fraud", key="card", labels=["bad"])
    views.create(con, lake)
    assert ask(con, "SELECT job, id, card, prediction, key_text FROM predictions ORDER BY job, id") == [
        {"job": "churn", "id": 1, "card": None, "prediction": "0", "key_text": "1"},
        {"job": "churn", "id": 2, "card": None, "prediction": "1", "key_text": "2"},
        {"job": "fraud", "id": None, "card": "x", "prediction": "bad", "key_text": "x"},
    ]


def test_predictions_composite_keys_that_read_alike_are_not_confused(con: Any, lake: Lake) -> None:
    partition = Partition("churn", DAY, "v1")
    for number, (first, second) in enumerate([("a,b", "c"), ("a", "b,c"), ("a\\", "b,c")]):
        rows = lakes.prediction_rows(
            {"shop": [first], "customer": [second]}, run=lakes.run_id(DAY, number), ds=DAY, revision=number
        )
        file = lakes.add_part(lake, partition, rows)
        lakes.add_run(
            lake, partition, number=number, key=("shop", "customer"), scored=1, committed=[file], reason="changed"
        )
    views.create(con, lake)
    found = values(con, "SELECT key_text FROM predictions ORDER BY revision")
    assert found == ["a\\,b,c", "a,b\\,c", "a\\\\,b\\,c"]


def test_predictions_key_that_changed_between_days_is_read_as_it_was(con: Any, lake: Lake) -> None:
    lakes.add_day(lake, "2026-01-01", ["a"], carry={"shop": ["s"]})
    lakes.add_run(lake, Partition("churn", "2026-01-01", "v1"), number=1, state=State.failed, key=("id", "shop"))
    partition = Partition("churn", "2026-01-02", "v1")
    rows = lakes.prediction_rows({"id": ["a"], "shop": ["s"]}, run=lakes.run_id("2026-01-02"), ds="2026-01-02")
    lakes.add_run(lake, partition, key=("id", "shop"), scored=1, committed=[lakes.add_part(lake, partition, rows)])
    views.create(con, lake)
    assert values(con, "SELECT key_text FROM predictions ORDER BY ds") == ["a", "a,s"]


def test_predictions_nan_in_a_carried_column_is_seen(con: Any, lake: Lake) -> None:
    lakes.add_day(lake, DAY, ["a", "b"], carry={"limit": pa.array([1.0, float("nan")])})
    views.create(con, lake)
    assert values(con, 'SELECT max("limit")::VARCHAR FROM predictions') == ["nan"]
    assert values(con, 'SELECT key_text FROM predictions WHERE "limit" > 2') == ["b"]


@pytest.mark.parametrize("lasting", [False, True])
def test_predictions_maximum_without_nan_is_a_number_in_any_client(lake: Lake, lasting: bool) -> None:
    lakes.add_day(lake, DAY, ["a", "b"], carry={"limit": pa.array([1.0, 2.0])})
    with duckdb.connect() if lasting else connect() as client:
        views.create(client, lake, lasting=lasting)
        assert client.sql('SELECT max("limit") FROM predictions').fetchall() == [(2.0,)]


def test_predictions_key_column_called_like_sql_needs_no_care(con: Any, lake: Lake) -> None:
    lakes.add_day(lake, DAY, [7], key='select "x"; DROP')
    views.create(con, lake)
    assert values(con, "SELECT key_text FROM predictions") == ["7"]


def test_predictions_file_with_more_classes_adds_columns(con: Any, lake: Lake) -> None:
    lakes.add_day(lake, "2026-01-01", ["a"], classes=2)
    lakes.add_day(lake, "2026-01-02", ["a"], classes=3)
    views.create(con, lake)
    found = values(con, "SELECT ds, prob_class_2 IS NULL FROM predictions ORDER BY ds")
    assert found == [("2026-01-01", True), ("2026-01-02", False)]


def test_predictions_types_that_do_not_go_together_become_text(con: Any, lake: Lake) -> None:
    lakes.add_day(lake, "2026-01-01", ["a"], job="one", carry={"note": pa.array([1], pa.int64())})
    lakes.add_day(lake, "2026-01-01", ["a"], job="two", carry={"note": pa.array([0], pa.date32())})
    lakes.add_day(lake, "2026-01-02", ["a"], job="two", carry={"note": pa.array([["x"]], pa.list_(pa.string()))})
    views.create(con, lake)
    assert values(con, "SELECT note FROM predictions ORDER BY job, ds") == ["1", "1970-01-01", "[x]"]


def test_predictions_columns_that_differ_in_case_are_one(con: Any, lake: Lake) -> None:
    lakes.add_day(lake, "2026-01-01", ["a"], carry={"Shop": ["s"]})
    lakes.add_day(lake, "2026-01-02", ["a"], carry={"shop": ["t"]})
    views.create(con, lake)
    assert values(con, "SELECT shop FROM predictions ORDER BY ds") == ["s", "t"]


# Runs and quarantine


def test_runs_that_do_not_add_up_say_so(con: Any, lake: Lake) -> None:
    record = lakes.add_day(lake, DAY, ["a", "b"])
    assert record.ledger is not None
    short = record.ledger.model_copy(update={"scored": record.ledger.scored.model_copy(update={"rows": 1})})
    lakes.put_record(lake, record.with_(run_id=lakes.run_id(DAY, 1), ledger=short))
    lakes.add_run(lake, Partition("churn", DAY, "v1"), number=2, state=State.planned)
    views.create(con, lake)
    assert values(con, "SELECT balanced FROM runs ORDER BY run_id") == [True, False, None]


def test_quarantine_newest_file_of_a_day_counts_even_without_rows(con: Any, lake: Lake) -> None:
    rows = lakes.input_rows(["a", "b"])
    for ds in ("2026-01-01", "2026-01-02"):
        lakes.add_quarantine(lake, "churn", ds, lakes.run_id(ds), rows, [["null:age"], ["null:age", "infinite:income"]])
    lakes.add_quarantine(lake, "churn", "2026-01-01", lakes.run_id("2026-01-01", 1), rows.slice(0, 0), [])
    lakes.add_quarantine(lake, "churn", "2026-01-02", lakes.run_id("2026-01-02", 1), rows.slice(1, 1), [["null:age"]])
    views.create(con, lake)
    assert values(con, "SELECT ds, id, reasons FROM quarantine") == [("2026-01-02", "b", ["null:age"])]


def test_run_record_that_is_damaged_is_named(con: Any, lake: Lake) -> None:
    lakes.add_day(lake, DAY)
    key = f"runs/job=churn/ds={DAY}/{lakes.run_id(DAY, 1)}.json"
    lake.storage.write(key, b'{"run_id": ')
    with pytest.raises(LakeDamaged, match=lakes.run_id(DAY, 1)):
        views.create(con, lake)


def test_memory_that_is_too_small_is_not_blamed_on_a_run_record(con: Any, lake: Lake) -> None:
    lakes.add_day(lake, DAY)
    con.execute("SET memory_limit = '10MB'")
    with pytest.raises(OutOfMemory), translated_errors("the lake"), views._damage_named(lake):
        con.sql("SELECT list(range) FROM range(10_000_000)").fetchall()


def test_part_file_that_is_cut_off_is_named(con: Any, lake: Lake) -> None:
    lakes.add_day(lake, DAY)
    path = lake.workspace.path(Partition("churn", DAY, "v1").part(0))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UnreadableFile, match="part-00000000"):
        views.create(con, lake)


# Which files are read


@pytest.mark.parametrize("view", ["predictions", "predictions_by_version", "predictions_history"])
def test_filter_on_a_partition_reads_its_files_only(con: Any, lake: Lake, view: str) -> None:
    for ds in ("2026-01-01", "2026-01-02", "2026-01-03"):
        lakes.add_day(lake, ds, ["a", "b"], job="churn")
        lakes.add_day(lake, ds, ["a", "b"], job="fraud", version="v7")
    views.create(con, lake)
    assert files_read(con, f"SELECT prediction_proba FROM {view}") == 6
    assert files_read(con, f"SELECT prediction_proba FROM {view} WHERE ds = '2026-01-02'") == 2
    assert files_read(con, f"SELECT prediction_proba FROM {view} WHERE ds >= '2026-01-02' AND job = 'fraud'") == 2
    assert files_read(con, f"SELECT prediction_proba FROM {view} WHERE model_version = 'v7'") == 3


def test_files_that_are_no_parts_are_not_read(con: Any, lake: Lake) -> None:
    lakes.add_day(lake, DAY, ["a"])
    folder = lake.workspace.path(Partition("churn", DAY, "v1").folder)
    for name in (".part-00000001.parquet.tmp", "_x.parquet", ".y.parquet", "part-1.parquet"):
        (folder / name).write_bytes(b"not Parquet")
    found = views.create(con, lake)
    assert [Path(file).name for file in found] == ["part-00000000.parquet"]
    assert values(con, "SELECT id FROM predictions") == ["a"]


def test_create_makes_the_named_views_and_what_they_rest_on(con: Any, lake: Lake) -> None:
    lakes.add_day(lake, DAY)
    assert views.create(con, lake, ["runs"]) == []
    names = "SELECT view_name FROM duckdb_views() WHERE schema_name = 'main' AND NOT internal ORDER BY ALL"
    assert values(con, names) == ["runs"]
    with connect() as other:
        views.create(other, lake, ["predictions"])
        assert values(other, names) == ["predictions", "predictions_by_version", "runs"]


# The input


def job_with(folder: Path, input_text: str) -> Any:
    (folder / "job").mkdir()
    (folder / "job" / "job.toml").write_text(JOB + input_text)
    (folder / "job" / "rows.sql").write_text("SELECT * FROM orders JOIN users USING (id)")
    return read_job(folder / "job", Settings())


def test_unscored_has_the_day_of_its_folder(con: Any, lake: Lake, tmp_path: Path) -> None:
    for ds in ("2026-01-01", "2026-01-02"):
        lakes.add_input(lake, ds, lakes.input_rows([ds, "x"]))
    lakes.add_input(lake, "2026-01-02", lakes.input_rows(["hidden"]), ".rows.parquet")
    unscored.create(con, lake, job_with(tmp_path, f'path = "{lakes.PATTERN}"'))
    assert values(con, "SELECT ds, id FROM unscored WHERE id <> 'x' ORDER BY ds") == [
        ("2026-01-01", "2026-01-01"),
        ("2026-01-02", "2026-01-02"),
    ]
    assert files_read(con, "SELECT id FROM unscored WHERE ds = '2026-01-01'") == 1


def test_unscored_elsewhere_takes_the_day_from_the_path(con: Any, lake: Lake, tmp_path: Path) -> None:
    """The folder above also has a day in its name, and the rows have their own column `ds`."""
    source = tmp_path / "export-2020-02-02"
    for ds in ("2026-01-01", "2026-01-02"):
        rows = lakes.input_rows([1, 2]).append_column("ds", pa.array(["?", "?"]))
        lakes.write_parquet(source / ds / "rows.parquet", rows)
    unscored.create(con, lake, job_with(tmp_path, f'path = "{source}/{{ds}}/*.parquet"'))
    assert values(con, "SELECT DISTINCT ds FROM unscored ORDER BY ds") == ["2026-01-01", "2026-01-02"]
    assert files_read(con, "SELECT id FROM unscored WHERE ds = '2026-01-01'") == 1


def test_unscored_without_input_is_empty(con: Any, lake: Lake, tmp_path: Path) -> None:
    unscored.create(con, lake, job_with(tmp_path, f'path = "{lakes.PATTERN}"'))
    assert ask(con, "SELECT ds FROM unscored") == []


def test_sources_of_a_select_are_views_of_their_own(con: Any, lake: Lake, tmp_path: Path) -> None:
    lakes.write_parquet(lake.workspace.path("orders/ds=2026-01-01/o.parquet"), lakes.input_rows([1]))
    text = 'select = "rows.sql"\n[input.sources]\norders = "orders/ds={ds}/*.parquet"\nusers = "users/{ds}.parquet"\n'
    unscored.create(con, lake, job_with(tmp_path, text))
    assert values(con, "SELECT ds, id FROM orders") == [("2026-01-01", 1)]
    assert ask(con, "SELECT ds FROM users") == []
