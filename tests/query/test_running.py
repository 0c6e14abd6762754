"""The sandbox for SQL from people, and the named queries."""

from __future__ import annotations

import re
import time
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from pipeline.database import sql_files
from pipeline.errors import LakescoreError, QueryRefused, UnreadableFile, UsageError
from pipeline.lake.layout import Lake, Partition
from pipeline.query import running as query
from pipeline.query.running import PARAMETER_TYPES, Limits, bind_parameters, parameters_of, run_query
from pipeline.records import State
from tests import lakes

DAYS = ("2026-01-01", "2026-01-02")


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Two days of one job; on the second, `b` has moved from class 1 to 0, `c` is gone and `d` has appeared."""
    lake = lakes.open_lake(tmp_path / "lake")
    lakes.add_day(lake, DAYS[0], ["a", "b", "c"], labels=[0, 1, 1], probabilities=[0.5, 0.75, 1.0])
    lakes.add_day(lake, DAYS[1], ["a", "b", "d"], labels=[0, 0, 1], probabilities=[0.75, 0.75, 1.0])
    return lake


def ask(lake: Lake, text: str, values: dict[str, Any] | None = None, **options: Any) -> list[tuple[Any, ...]]:
    with run_query(lake, text, values, **options) as result, result.stream() as (_, batches):
        return [tuple(row.values()) for batch in batches for row in batch.to_pylist()]


def named(lake: Lake, name: str, **given: str) -> list[dict[str, Any]]:
    found = sql_files.find(name)
    with run_query(lake, found.text, bind_parameters(found, given)) as result, result.stream() as (_, batches):
        return [row for batch in batches for row in batch.to_pylist()]


def everything_below(folder: Path) -> dict[str, tuple[int, int]]:
    """Returns the size and time of each file."""
    found = {}
    for path in folder.rglob("*"):
        stat = path.lstat()
        found[str(path)] = (stat.st_size, stat.st_mtime_ns)
    return found


# What a query may be


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SELECT count(*) FROM predictions", [(6,)]),
        ("select count(*) from predictions; ", [(6,)]),
        ("SELECT 1 -- ; DROP TABLE x", [(1,)]),
        ("FROM range(2)", [(0,), (1,)]),
        ("VALUES (1)", [(1,)]),
        ("WITH RECURSIVE t AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM t WHERE n < 3) SELECT max(n) FROM t", [(3,)]),
        ("SELECT unnest([1, 2]) UNION SELECT 2 ORDER BY 1", [(1,), (2,)]),
        ("SELECT id FROM predictions QUALIFY row_number() OVER (ORDER BY id, ds) = 1", [("a",)]),
        ("SELECT count(*) FROM predictions WHERE id IN (SELECT id FROM predictions_history WHERE id = 'a')", [(2,)]),
        ("PIVOT (FROM runs SELECT job, ds) ON ds IN ('2026-01-01', '2026-01-02') USING count(*)", [("churn", 1, 1)]),
        ("SELECT ds FROM 'predictions' LIMIT 0", []),
    ],
)
def test_query_that_reads_is_answered(lake: Lake, text: str, expected: list[tuple[Any, ...]]) -> None:
    assert ask(lake, text) == expected


@pytest.mark.parametrize("text", ["DESCRIBE predictions", "SUMMARIZE predictions", "SHOW TABLES", "EXPLAIN FROM runs"])
def test_query_about_the_views_is_answered(lake: Lake, text: str) -> None:
    assert ask(lake, text)


def test_query_show_tables_lists_every_view(lake: Lake) -> None:
    assert {name for (name,) in ask(lake, "SHOW TABLES")} >= {
        "runs",
        "predictions",
        "predictions_history",
        "quarantine",
    }


def test_query_explain_analyze_tells_what_was_read(lake: Lake) -> None:
    ((_, plan),) = ask(lake, "EXPLAIN ANALYZE SELECT prediction FROM predictions WHERE ds = '2026-01-01'")
    assert "Total Files Read: 1" in plan


WRITES = """
    COPY (SELECT 1) TO '{out}'
    WITH x AS (COPY (SELECT 1) TO '{out}') SELECT * FROM x
    WITH x AS (COPY (SELECT 1) TO '{part}' (USE_TMP_FILE false)) SELECT * FROM x
    EXPLAIN ANALYZE COPY (SELECT 1) TO '{out}'
    EXPLAIN ANALYZE WITH x AS (COPY (SELECT 1) TO '{part}' (USE_TMP_FILE false)) SELECT * FROM x
    explain /* */ analyze copy (select 1) to '{part}' (use_tmp_file false)
    /* */ EXPLAIN ANALYZE COPY (SELECT 1) TO '{part}' (USE_TMP_FILE false)
    EXPLAIN (ANALYZE) COPY (SELECT 1) TO '{part}' (USE_TMP_FILE false)
    DESCRIBE (WITH x AS (COPY (SELECT 1) TO '{out}') FROM x)
    SELECT * FROM query('WITH x AS (COPY (SELECT 1) TO ''{out}'') FROM x')
    SELECT (WITH x AS (COPY (SELECT 1) TO '{out}') SELECT count(*) FROM x)
    EXPORT DATABASE '{out}'
    ATTACH '{out}' AS other
    CREATE TABLE t AS SELECT 1
    WITH x AS (DELETE FROM stored.run_records RETURNING *) SELECT * FROM x
    WITH x AS (INSERT INTO stored.run_records SELECT * FROM stored.run_records RETURNING *) SELECT * FROM x
    WITH x AS (UPDATE stored.run_records SET job = 'y' RETURNING *) SELECT * FROM x
    SELECT * FROM enable_logging(storage := 'file', storage_config := {{'path': '{out}'}})
    SELECT * FROM enable_profiling(save_location := '{out}')
    INSTALL httpfs
    LOAD '{out}'
    SET enable_external_access = true
    RESET lock_configuration
    PRAGMA enable_profiling
    CALL pragma_version()
    CHECKPOINT
    SELECT 1; COPY (SELECT 1) TO '{out}'
    BEGIN
    PREPARE p AS SELECT 1
"""
READS = """
    SELECT * FROM read_text('{secret}')
    SELECT * FROM read_blob('{secret}')
    SELECT * FROM read_csv('{secret}')
    SELECT * FROM read_json('{secret}')
    SELECT * FROM sniff_csv('{secret}')
    SELECT * FROM read_duckdb('{secret}')
    SELECT * FROM parquet_metadata('{outside}')
    SELECT * FROM read_parquet('{outside}')
    SELECT * FROM read_parquet('{staged}')
    SELECT * FROM read_parquet('{part}')
    SELECT * FROM system.main.read_parquet('{outside}')
    SELECT * FROM glob('{folder}/*')
    SELECT (SELECT max(file) FROM glob('/etc/*'))
    FROM range(1), LATERAL (SELECT * FROM read_text('{secret}'))
    WITH x AS (SELECT * FROM read_text('{secret}')) SELECT * FROM x
    EXPLAIN SELECT * FROM read_text('{secret}')
    EXPLAIN ANALYZE SELECT * FROM read_text('{secret}')
    DESCRIBE SELECT * FROM read_parquet('{outside}')
    SUMMARIZE (FROM read_parquet('{outside}'))
    SELECT * FROM query('SELECT * FROM read_text(''{secret}'')')
    SELECT * FROM query_table('{outside}')
    SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT 1'))
    SELECT * FROM pandas_scan(1)
    SELECT * FROM python_map_function(1, 2)
    FROM '{outside}'
    FROM '{secret}'
    FROM '{staged}'
    FROM '{link}'
    FROM '{folder}/predictions/../.staging/x.parquet'
    FROM '{folder}/.staging/*.parquet'
    FROM '{folder}/runs/job=churn/ds=2026-01-01/*.json'
    FROM stored.run_files
    SELECT getenv('HOME')
    FROM 'http://127.0.0.1:1/x.parquet'
"""


@pytest.mark.parametrize("text", [line.strip() for line in (WRITES + READS).strip().splitlines()])
def test_query_that_is_an_attack_is_refused_and_changes_nothing(lake: Lake, tmp_path: Path, text: str) -> None:
    rows = lakes.input_rows(["secret"])
    lakes.write_parquet(tmp_path / "outside.parquet", rows)
    lakes.write_parquet(lake.workspace.path(".staging/x.parquet"), rows)
    (tmp_path / "secret.csv").write_text("a,b\n1,secret\n")
    link = lake.workspace.path("predictions/link.parquet")
    link.symlink_to(tmp_path / "outside.parquet")
    before = everything_below(tmp_path)
    places = {
        "out": lake.workspace.path("out.csv"),
        "part": lake.workspace.path(Partition("churn", DAYS[0], "v1").part(0)),
        "staged": lake.workspace.path(".staging/x.parquet"),
        "secret": tmp_path / "secret.csv",
        "outside": tmp_path / "outside.parquet",
        "folder": lake.workspace.root,
        "link": link,
    }
    with pytest.raises(QueryRefused) as refused:
        ask(lake, text.format(**places))
    assert "secret" not in str(refused.value).replace(str(places["secret"]), "")
    assert everything_below(tmp_path) == before


def test_query_part_of_a_view_may_be_named_as_a_file(lake: Lake) -> None:
    """It holds nothing that the view does not show."""
    part = lake.workspace.path(Partition("churn", DAYS[0], "v1").part(0))
    assert ask(lake, f"SELECT count(*) FROM '{part}'") == [(3,)]


OPENING = [
    line.strip() for line in READS.strip().splitlines() if not re.search("'{part}|_scan|_function|_serialized", line)
]


@pytest.mark.parametrize("text", ["SELECT 1 -- EXPLAIN \n; {copy}", "SELECT 1 /* EXPLAIN */; {copy}", "EXPLAIN {copy}"])
def test_query_whose_comment_says_explain_is_checked_as_it_runs(lake: Lake, text: str) -> None:
    path = lake.workspace.path(Partition("churn", DAYS[0], "v1").part(0))
    before = path.read_bytes()
    with pytest.raises(QueryRefused):
        ask(lake, text.format(copy=f"COPY (SELECT id FROM predictions_history) TO '{path}' (USE_TMP_FILE false)"))
    assert path.read_bytes() == before


@pytest.mark.parametrize("text", OPENING)
def test_query_lock_alone_keeps_other_files_closed(
    lake: Lake, tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if a query got past the check of its parse tree, the connection would open no other file."""
    lakes.write_parquet(tmp_path / "outside.parquet", lakes.input_rows(["secret"]))
    lakes.write_parquet(lake.workspace.path(".staging/x.parquet"), lakes.input_rows(["secret"]))
    (tmp_path / "secret.csv").write_text("a,b\n1,secret\n")
    monkeypatch.setattr(query, "check_query", lambda con, text, views: None)
    places = {"secret": tmp_path / "secret.csv", "outside": tmp_path / "outside.parquet", "folder": lake.workspace.root}
    places |= {"staged": lake.workspace.path(".staging/x.parquet"), "link": tmp_path / "outside.parquet"}
    try:
        found = ask(lake, f"{text.format(**places)} -- runs")  # this view alone, and not all
    except QueryRefused:
        return
    assert "secret" not in str(found)


def test_query_two_statements_are_counted(lake: Lake) -> None:
    with pytest.raises(QueryRefused, match="SELECT, SELECT"):
        ask(lake, "SELECT 1; SELECT 2")
    with pytest.raises(QueryRefused, match="nothing"):
        ask(lake, "-- only a comment")


def test_query_pivot_without_values_says_what_to_write(lake: Lake) -> None:
    with pytest.raises(QueryRefused, match=r"IN \('a', 'b'\)"):
        ask(lake, "PIVOT predictions ON ds USING count(*)")


def test_query_nested_too_deeply_is_refused(lake: Lake) -> None:
    with pytest.raises(QueryRefused):
        ask(lake, "SELECT " + "(" * 3000 + "1" + ")" * 3000)
    with pytest.raises(QueryRefused):
        ask(lake, "SELECT " + "+".join(["1"] * 900))


def test_query_that_is_misspelt_is_explained(lake: Lake) -> None:
    with pytest.raises(QueryRefused, match='Did you mean "predictions"'):
        ask(lake, "SELECT * FROM predictons")
    with pytest.raises(QueryRefused, match="syntax error"):
        ask(lake, "SELEC 1")
    with pytest.raises(QueryRefused, match="Conversion Error"):
        ask(lake, "SELECT id::INTEGER FROM predictions")


def test_query_parameter_is_a_value_not_text(lake: Lake) -> None:
    assert ask(lake, "SELECT $x", {"x": "'; DROP TABLE y"}) == [("'; DROP TABLE y",)]
    with pytest.raises(QueryRefused, match="x"):
        ask(lake, "SELECT $x")


# Limits


def test_query_that_never_ends_is_stopped(lake: Lake) -> None:
    with pytest.raises(QueryRefused, match=r"longer than 0\.5 s(.|\n)*--timeout"):
        ask(
            lake,
            "SELECT count(*) FROM range(10000000) a, range(10000000) b WHERE a.range * b.range = -1",
            limits=brief(0.5),
        )


def test_query_that_never_ends_is_stopped_after_its_first_rows(lake: Lake) -> None:
    text = "SELECT * FROM range(1000000) a, range(1000000) b"
    with run_query(lake, text, limits=brief(1.0)) as result, result.stream() as (_, batches):
        assert next(batches).num_rows > 0
        with pytest.raises(QueryRefused, match="longer than 1 s"):
            deque(batches, maxlen=0)


def test_query_time_of_whoever_takes_the_rows_does_not_count(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    passed_s = [0.0]
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + passed_s[0])
    monkeypatch.setattr(query, "time", clock)
    with run_query(lake, "FROM range(30000)", limits=brief(30.0)) as result, result.stream(10_000) as (_, batches):
        next(batches)
        passed_s[0] += 1000.0
        assert sum(batch.num_rows for batch in batches) == 20_000


def test_query_that_needs_too_much_memory_says_so(lake: Lake) -> None:
    with pytest.raises(QueryRefused, match=r"more memory than 50MB(.|\n)*LAKESCORE_MEMORY_LIMIT"):
        ask(lake, "SELECT list(range) FROM range(20000000)", limits=Limits(memory_limit="50MB", threads=1))


def brief(timeout_s: float) -> Limits:
    return Limits(timeout_s=timeout_s, threads=1)


def test_query_over_a_damaged_page_names_no_file_as_fine(lake: Lake) -> None:
    path = lake.workspace.path(Partition("churn", DAYS[0], "v1").part(0))
    content = bytearray(path.read_bytes())
    content[8:40] = bytes(32)
    path.write_bytes(content)
    with pytest.raises(LakescoreError):
        ask(lake, "SELECT * FROM predictions")
    path.write_bytes(b"")
    with pytest.raises(UnreadableFile, match="part-00000000"):
        ask(lake, "SELECT * FROM predictions")


# Named queries


def test_daily_summary_counts_each_day(lake: Lake) -> None:
    partition = Partition("churn", DAYS[1], "v1")
    rows = lakes.prediction_rows({"id": ["a"]}, run=lakes.run_id(DAYS[1], 1), ds=DAYS[1], labels=[1], revision=1)
    file = lakes.add_part(lake, partition, rows)
    lakes.add_run(lake, partition, number=1, scored=1, unchanged=2, quarantined=4, committed=[file], reason="changed")
    lakes.add_run(lake, Partition("churn", "2026-01-03", "v1"), state=State.failed)
    first, second, third = named(lake, "daily_summary")
    assert (first["ds"], first["rows"], first["mean_confidence"], first["runs"]) == (DAYS[0], 3, 0.75, 1)
    assert {name: second[name] for name in ("rows", "revised", "candidates", "quarantined", "runs", "last_run")} == {
        "rows": 3,
        "revised": 1,
        "candidates": 7,
        "quarantined": 4,
        "runs": 2,
        "last_run": "complete",
    }
    assert (third["ds"], third["rows"], third["candidates"], third["last_run"]) == ("2026-01-03", 0, None, "failed")
    assert [row["ds"] for row in named(lake, "daily_summary", **{"from": DAYS[1], "to": DAYS[1]})] == [DAYS[1]]
    assert named(lake, "daily_summary", job="other") == []


@pytest.mark.parametrize("labels", [[0, 1, 2, 2], ["cat", "dog", "emu", "emu"]])
def test_class_distribution_of_any_number_of_classes(tmp_path: Path, labels: list[Any]) -> None:
    lake = lakes.open_lake(tmp_path / "lake")
    lakes.add_day(lake, DAYS[0], list("abcd"), labels=labels, classes=3)
    lakes.add_day(lake, DAYS[1], list("abcd"), labels=labels, classes=3)
    found = named(lake, "class_distribution", ds=DAYS[0])
    assert [(row["prediction"], row["rows"], row["share"]) for row in found] == [
        (labels[0], 1, 0.25),
        (labels[1], 1, 0.25),
        (labels[2], 2, 0.5),
    ]
    assert len(named(lake, "class_distribution")) == 6


def test_prediction_history_shows_every_revision_and_which_is_current(lake: Lake) -> None:
    partition = Partition("churn", DAYS[0], "v1")
    rows = lakes.prediction_rows({"id": ["b"]}, run=lakes.run_id(DAYS[0], 1), ds=DAYS[0], reason="changed", revision=1)
    file = lakes.add_part(lake, partition, rows)
    lakes.add_run(lake, partition, number=1, scored=1, committed=[file], reason="changed")
    found = named(lake, "prediction_history", key="b")
    assert [(row["ds"], row["revision"], row["reason"], row["is_current"]) for row in found] == [
        (DAYS[1], 0, "new", True),
        (DAYS[0], 1, "changed", True),
        (DAYS[0], 0, "new", False),
    ]
    assert len(named(lake, "prediction_history", key="b", ds=DAYS[0])) == 2
    assert named(lake, "prediction_history", key="nobody") == []


@pytest.mark.parametrize(("key", "values"), [("7", [7]), ("2026-01-31", None), ("a,b", None)])
def test_prediction_history_finds_keys_of_any_type(tmp_path: Path, key: str, values: list[Any] | None) -> None:
    lake = lakes.open_lake(tmp_path / "lake")
    columns: dict[str, Any] = {"id": values}
    if key == "2026-01-31":
        columns = {"day": pa.array([20484], pa.date32())}
    elif key == "a,b":
        columns = {"shop": ["a"], "customer": ["b"]}
    partition = Partition("churn", DAYS[0], "v1")
    file = lakes.add_part(lake, partition, lakes.prediction_rows(columns, run=lakes.run_id(DAYS[0]), ds=DAYS[0]))
    lakes.add_run(lake, partition, key=tuple(columns), scored=1, committed=[file])
    assert len(named(lake, "prediction_history", key=key)) == 1


def test_run_performance_shows_speed_of_the_newest_first(lake: Lake) -> None:
    found = named(lake, "run_performance")
    assert [row["ds"] for row in found] == [DAYS[1], DAYS[0]]
    assert (found[0]["wall_s"], found[0]["rows_per_s"], found[0]["peak_memory_mb"]) == (2.0, 1.5, 400)


def test_compare_days_counts_moves_between_classes(lake: Lake) -> None:
    zero, one = named(lake, "compare_days", **{"from": DAYS[0], "to": DAYS[1]})
    assert zero == {
        "job": "churn",
        "class": 0,
        "rows_from": 1,
        "rows_to": 2,
        "stayed": 1,
        "moved_in": 1,
        "moved_out": 0,
        "appeared": 0,
        "gone": 0,
        "mean_from": 0.5,
        "mean_to": 0.75,
        "mean_shift": 0.25,
    }
    assert (one["moved_out"], one["appeared"], one["gone"], one["mean_shift"]) == (1, 1, 1, None)


@pytest.mark.slow
def test_named_queries_answer_on_an_empty_lake(tmp_path: Path) -> None:
    lake = Lake.open(str(tmp_path))
    for name, found in sql_files.named().items():
        needed = [key for key, each in parameters_of(found).items() if each.default is None]
        given = {key: DAYS[0] if key in ("ds", "from", "to") else "a" for key in needed}
        assert named(lake, name, **given) == [], name


@pytest.mark.parametrize("found", sql_files.named().values(), ids=sql_files.named())
def test_named_query_every_parameter_has_type_meaning_and_use(found: sql_files.NamedQuery) -> None:
    known = parameters_of(found)
    assert set(known) == duckdb.extract_statements(found.text)[0].named_parameters
    assert {each.type for each in known.values()} <= {*PARAMETER_TYPES, "DATE"}


def test_bind_takes_defaults_and_types() -> None:
    text = (
        "-- A.\n-- $n BIGINT: how many, default 3 of them\n-- $share DOUBLE: of all\n-- $ds DATE: day, default NULL\n"
    )
    found = sql_files.NamedQuery("q", text)
    bound = bind_parameters(found, {"share": "0.5"})
    assert bound == {"n": 3, "share": 0.5, "ds": None}
    assert bind_parameters(found, {"share": "1", "ds": "2026-01-31", "n": "4"})["ds"] == "2026-01-31"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"compare_days needs from, to(.|\n)*the earlier day"),
        ({"from": DAYS[0]}, "needs to"),
        ({"from": DAYS[0], "to": "2026-02-30"}, "day is out of range"),
        ({"from": DAYS[0], "to": DAYS[1], "jop": "x"}, "no parameter 'jop', did you mean 'job'"),
    ],
)
def test_bind_what_does_not_fit_is_named_with_its_meaning(given: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        bind_parameters(sql_files.find("compare_days"), given)
