"""SQL in a suite: it counts rows of its own data, and reads nothing else."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from pipeline.errors import JobError, QualityStop
from pipeline.quality import queries
from pipeline.records import Rule
from tests.calling import Cli
from tests.quality.test_examine import BETWEEN, found, rejected, rule, suite
from tests.workspace import DAY, Workspace, changed, table


def sql(text: str) -> Rule:
    return Rule(name="r", type=queries.KIND, kwargs={"unexpected_rows_query": text})


@pytest.fixture(scope="module")
def con() -> duckdb.DuckDBPyConnection:
    made = duckdb.connect()
    made.sql("SELECT 1 AS a, 'x' AS b").create_view("rows_of_day")
    made.sql("SELECT 2 AS a").create_view("secret")
    return made


def test_query_over_the_batch_passes(con: duckdb.DuckDBPyConnection) -> None:
    queries.check(con, "rows_of_day", [sql("WITH x AS (SELECT * FROM {batch}) SELECT * FROM x WHERE b <> '{{'")])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SELECT * FROM secret, {batch}", "secret is not a source"),
        ("SELECT * FROM read_text('FILE'), {batch}", "may not call read_text"),
        ("SELECT * FROM 'FILE', {batch}", "is not a source"),
        ("WITH x AS (COPY (SELECT * FROM {batch}) TO 'FILE') SELECT * FROM x", "may only read"),
        ("DELETE FROM {batch}", "must be one SELECT"),
        ("SELECT * FROM {batch}; SELECT 1", "must be one SELECT"),
        ("SELECT 1", "must read {batch}"),
        ("SELECT '{batch.__class__}' FROM {batch}", "must read {batch}, and have no other field"),
        ("SELECT * FROM {batch} WHERE b LIKE '{%'", "unpaired brace|no other field"),
        ("SELECT nowhere FROM {batch}", "does not work"),
    ],
)
def test_query_that_does_more_is_refused(
    con: duckdb.DuckDBPyConnection, tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "file.txt"
    with pytest.raises(JobError, match=message):
        queries.check(con, "rows_of_day", [sql(text.replace("FILE", str(path)))])
    assert not path.exists()


def test_run_counts_the_rows_of_a_query_and_stops_at_a_forbidden_one(workspace: Workspace, cli: Cli) -> None:
    suite(
        workspace,
        rule(queries.KIND, "warning", unexpected_rows_query="SELECT * FROM {batch} WHERE a > 50", meta={"name": "big"}),
        rule(
            BETWEEN,
            column="a",
            max_value=50,
            row_condition={"type": "comparison", "column": {"name": "id"}, "operator": "==", "parameter": "u0"},
            meta={"name": "a_of_u0"},
        ),
        rule(
            "expect_column_pair_values_a_to_be_greater_than_b", column_A="b", column_B="c", meta={"name": "b_above_c"}
        ),
    )
    rows = changed(table(20), "a", {0: 99.0, 1: 99.0})
    workspace.day(rows.append_column("c", [[1000.0 if row == 3 else -1000.0 for row in range(20)]]))
    record = workspace.complete()
    assert (found(record, "big").outcome, found(record, "big").unexpected) == ("noted", 2)
    assert record.ledger is not None
    assert (record.ledger.scored.rows, record.ledger.quarantined.rows) == (18, 2)
    assert rejected(workspace) == {"u0": ["a_of_u0"], "u3": ["b_above_c"]}
    suite(workspace, rule(queries.KIND, unexpected_rows_query="SELECT * FROM candidates, {batch}", meta={"name": "q"}))
    with pytest.raises((JobError, QualityStop), match="candidates is not a source"):
        workspace.run()
    checked = cli("suite", "check", "--job", "toy", expect=2)
    assert "candidates is not a source" in checked.stderr
    assert DAY not in checked.stdout
