"""The sandbox for SQL from people, the named queries, and how rows come out."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from pipeline import queries, query
from pipeline.cli import query as commands
from pipeline.errors import LakescoreError, QueryRefused, UnreadableFile, UsageError
from pipeline.job import read_job
from pipeline.lake import Lake, Partition
from pipeline.records import State
from pipeline.settings import Settings
from tests import lakes

DAYS = ("2026-01-01", "2026-01-02")
ROOT = Path(__file__).parent.parent


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Two days of one job; on the second, `b` has moved from class 1 to 0, `c` is gone and `d` has appeared."""
    lake = lakes.open_lake(tmp_path / "lake")
    lakes.add_day(lake, DAYS[0], ["a", "b", "c"], labels=[0, 1, 1], probabilities=[0.5, 0.75, 1.0])
    lakes.add_day(lake, DAYS[1], ["a", "b", "d"], labels=[0, 0, 1], probabilities=[0.75, 0.75, 1.0])
    return lake


def ask(lake: Lake, text: str, values: dict[str, Any] | None = None, **options: Any) -> list[tuple[Any, ...]]:
    with query.run(lake, text, values, **options) as result, result.stream() as (_, batches):
        return [tuple(row.values()) for batch in batches for row in batch.to_pylist()]


def named(lake: Lake, name: str, **given: str) -> list[dict[str, Any]]:
    found = queries.find(name)
    with query.run(lake, found.text, query.bind(found, given)) as result, result.stream() as (_, batches):
        return [row for batch in batches for row in batch.to_pylist()]


def everything_below(folder: Path) -> dict[str, tuple[int, int]]:
    """Returns size and time of each file, whatever it is."""
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


@pytest.mark.parametrize("text", OPENING)
def test_query_lock_alone_keeps_other_files_closed(
    lake: Lake, tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were a way found around the look at the parsed text, the connection still opens no other file."""
    lakes.write_parquet(tmp_path / "outside.parquet", lakes.input_rows(["secret"]))
    lakes.write_parquet(lake.workspace.path(".staging/x.parquet"), lakes.input_rows(["secret"]))
    (tmp_path / "secret.csv").write_text("a,b\n1,secret\n")
    monkeypatch.setattr(query, "check", lambda con, text: None)
    places = {"secret": tmp_path / "secret.csv", "outside": tmp_path / "outside.parquet", "folder": lake.workspace.root}
    places |= {"staged": lake.workspace.path(".staging/x.parquet"), "link": tmp_path / "outside.parquet"}
    try:
        found = ask(lake, text.format(**places))
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
    started = time.monotonic()
    with pytest.raises(QueryRefused, match=r"longer than 0\.5 s(.|\n)*--timeout"):
        ask(
            lake,
            "SELECT count(*) FROM range(10000000) a, range(10000000) b WHERE a.range * b.range = -1",
            limits=brief(0.5),
        )
    assert time.monotonic() - started < 10


def test_query_that_never_ends_is_stopped_after_its_first_rows(lake: Lake) -> None:
    text = "SELECT * FROM range(1000000) a, range(1000000) b"
    with query.run(lake, text, limits=brief(1.0)) as result, result.stream() as (_, batches):
        assert next(batches).num_rows > 0
        with pytest.raises(QueryRefused, match="longer than 1 s"):
            deque(batches, maxlen=0)


def test_query_time_of_whoever_takes_the_rows_does_not_count(lake: Lake) -> None:
    with query.run(lake, "FROM range(30000)", limits=brief(3.0)) as result, result.stream(10_000) as (_, batches):
        next(batches)
        time.sleep(3.2)
        assert sum(batch.num_rows for batch in batches) == 20_000


def test_query_that_needs_too_much_memory_says_so(lake: Lake) -> None:
    with pytest.raises(QueryRefused, match=r"more memory than 50MB(.|\n)*LAKESCORE_MEMORY_LIMIT"):
        ask(lake, "SELECT list(range) FROM range(20000000)", limits=query.Limits(memory_limit="50MB", threads=1))


def brief(timeout_s: float) -> query.Limits:
    return query.Limits(timeout_s=timeout_s, threads=1)


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


def test_named_queries_answer_on_an_empty_lake(tmp_path: Path) -> None:
    lake = Lake.open(str(tmp_path))
    for name, found in queries.named().items():
        needed = [key for key, each in query.parameters(found).items() if each.default is None]
        given = {key: DAYS[0] if key in ("ds", "from", "to") else "a" for key in needed}
        assert named(lake, name, **given) == [], name


@pytest.mark.parametrize("found", queries.named().values(), ids=queries.named())
def test_named_query_every_parameter_has_type_meaning_and_use(found: queries.NamedQuery) -> None:
    known = query.parameters(found)
    assert set(known) == duckdb.extract_statements(found.text)[0].named_parameters
    assert {each.type for each in known.values()} <= {*query.TYPES, "DATE"}


def test_bind_takes_defaults_and_types() -> None:
    text = (
        "-- A.\n-- $n BIGINT: how many, default 3 of them\n-- $share DOUBLE: of all\n-- $ds DATE: day, default NULL\n"
    )
    found = queries.NamedQuery("q", text)
    bound = query.bind(found, {"share": "0.5"})
    assert bound == {"n": 3, "share": 0.5, "ds": None}
    assert query.bind(found, {"share": "1", "ds": "2026-01-31", "n": "4"})["ds"].isoformat() == "2026-01-31"


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
        query.bind(queries.find("compare_days"), given)


# How rows come out

app = typer.Typer()
commands.add_to(app)


@pytest.fixture
def cli(lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command, in this process; raises what it raises."""
    monkeypatch.setenv("LAKESCORE_LAKE", str(lake.workspace.root))
    monkeypatch.setenv("LAKESCORE_JOBS", str(tmp_path / "jobs"))

    def call(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["query", *arguments], catch_exceptions=False)

    return call


MIXED = """
    SELECT * FROM (VALUES
        (1::HUGEINT, 'a"b', 'nan'::FLOAT, TIMESTAMPTZ '2026-01-01 00:00:00+00', [1.5, 'inf'::DOUBLE], NULL),
        (2, '', 0.5, NULL, NULL, {'x': 1})
    ) AS t (n, text, share, time, list, struct)
"""


def test_cli_csv_is_read_back(cli: Any) -> None:
    rows = list(csv.reader(io.StringIO(cli(MIXED, "--format", "csv").stdout)))
    assert rows == [
        ["n", "text", "share", "time", "list", "struct"],
        ["1", 'a"b', "nan", "2026-01-01 00:00:00.000000Z", "[1.5, inf]", ""],
        ["2", "", "0.5", "", "", "{'x': 1}"],
    ]


def test_cli_json_is_strict(cli: Any) -> None:
    def refuse(constant: str) -> Any:
        raise AssertionError(constant)

    assert json.loads(cli(MIXED, "--json").stdout, parse_constant=refuse) == [
        {"n": 1, "text": 'a"b', "share": None, "time": "2026-01-01 00:00:00+00", "list": [1.5, None], "struct": None},
        {"n": 2, "text": "", "share": 0.5, "time": None, "list": None, "struct": {"x": 1}},
    ]


def test_cli_parquet_goes_to_a_file_and_keeps_types(cli: Any, tmp_path: Path) -> None:
    target = tmp_path / "out.parquet"
    cli("FROM predictions ORDER BY ds, id", "--output", str(target))
    table = pq.read_table(target)
    assert table.num_rows == 6
    assert table.schema.field("scored_at").type == pa.timestamp("us", "UTC")
    assert table.column("id").to_pylist()[:2] == ["a", "b"]


@pytest.mark.parametrize("form", ["csv", "json", "parquet"])
def test_cli_no_rows_are_a_valid_file(cli: Any, tmp_path: Path, form: str) -> None:
    target = tmp_path / "out"
    cli("SELECT id FROM predictions WHERE false", "--format", form, "--output", str(target))
    if form == "parquet":
        assert pq.read_table(target).column_names == ["id"]
    else:
        assert target.read_text() == {"csv": '"id"\n', "json": "[]\n"}[form]


def test_cli_columns_of_one_name_are_told_apart(cli: Any) -> None:
    assert json.loads(cli("SELECT 1 AS a, 2 AS a", "--json").stdout) == [{"a": 1, "a_1": 2}]


def test_cli_file_of_a_query_that_fails_stays_as_it_was(cli: Any, tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    target.write_text("before")
    with pytest.raises(QueryRefused):
        cli("SELECT range, CASE WHEN range > 50000 THEN error('late') END FROM range(100000)", "--output", str(target))
    assert target.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_cli_table_says_how_many_rows_there_are_more(cli: Any) -> None:
    done = cli("SELECT range AS n FROM range(2500)", "--limit", "3")
    assert done.stdout.split()[-3:] == ["0", "1", "2"]
    assert "3 of 2,500 rows" in done.stderr


def test_cli_row_too_wide_for_a_table_is_shown_line_by_line(cli: Any) -> None:
    lines = cli("FROM runs WHERE ds = '2026-01-01'").stdout.splitlines()
    assert lines[0] == "row 1"
    assert ["model_version", "v1"] in [line.split() for line in lines]


def test_cli_lists_queries_with_their_parameters(cli: Any) -> None:
    assert "prediction_history" in cli("--list").stdout
    listed = {each["name"]: each for each in json.loads(cli("--list", "--json").stdout)["queries"]}
    assert listed["compare_days"]["parameters"]["from"]["meaning"] == "the earlier day"


def test_cli_job_is_the_parameter_of_a_named_query(cli: Any) -> None:
    assert len(json.loads(cli("daily_summary", "--param", "job=churn", "--json").stdout)) == 2
    assert json.loads(cli("daily_summary", "--param", "job=other", "--json").stdout) == []


def test_cli_unscored_is_the_input_of_the_job(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "jobs" / "churn").mkdir(parents=True)
    text = f'[model]\nname = "m"\n[input]\npath = "{lakes.PATTERN}"\nkey = ["id"]\n'
    (tmp_path / "jobs" / "churn" / "job.toml").write_text(text)
    rows = json.loads(
        cli("SELECT ds, count(*) AS n FROM unscored GROUP BY ds ORDER BY ds", "--job", "churn", "--json").stdout
    )
    assert rows == [{"ds": DAYS[0], "n": 3}, {"ds": DAYS[1], "n": 3}]
    job = read_job(tmp_path / "jobs" / "churn", Settings())
    assert ("unscored",) in ask(Lake.open(str(tmp_path / "lake")), "SHOW TABLES", job=job)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["daily_sumary"], "did you mean 'daily_summary'"),
        (["daily_summary", "--format", "xml"], "no format 'xml'"),
        (["daily_summary", "--format", "table", "--output", "x"], "for the terminal"),
        (["daily_summary", "--param", "ds"], "NAME=VALUE"),
        (["SELECT 1", "--param", "x=1"], "x"),
    ],
)
def test_cli_wrong_usage_is_explained(cli: Any, arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        cli(*arguments)


def test_cli_reader_that_has_seen_enough_is_no_error(lake: Lake) -> None:
    script = "import sys, typer; from pipeline.cli import query; app = typer.Typer(); query.add_to(app); app()"
    arguments = ["query", "FROM range(3000000)", "--format", "csv", "--lake", str(lake.workspace.root)]
    command = [sys.executable, "-c", script, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b'"range"\n'
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 0
