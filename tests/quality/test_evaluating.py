"""Great Expectations in a process of its own: the same findings, and an end with the command, whatever happens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import duckdb
import pytest

from pipeline.errors import LakescoreError, WorkerLost
from pipeline.quality.evaluating import OtherProcess
from pipeline.records import Rule
from pipeline.suite.suite import parse
from tests.conftest import ROOT
from tests.suite.test_expectations import DATA, EXPECTED

pytestmark = pytest.mark.slow

BETWEEN: dict[str, object] = {"type": "expect_column_values_to_be_between", "kwargs": {"column": "age", "min_value": 0}}
RUN = """
import sys, threading
from pathlib import Path
from types import SimpleNamespace
from pipeline import startup
startup.configure()
on = SimpleNamespace(enabled=True)
job = SimpleNamespace(folder=Path(sys.argv[1]), quality=on, report=on)
startup.import_ahead(SimpleNamespace(job=job), scores=False)
from pipeline.quality import evaluating
process = evaluating.other_process()
process._wait()
[thread.join() for thread in threading.enumerate() if thread.name.startswith("import")]
print(*(name in sys.modules for name in ("great_expectations", "pandas", *startup.OF_PAGES)), process._process.pid)
sys.stdout.flush()
sys.stdin.read()
"""
"""A process that runs one command with a suite, until it is killed."""
RARE = """
import sys
from pipeline.quality import gx_process
gx_process.import_ahead()
print(*sorted({"altair.vegalite", "botocore.session", "google.cloud", "psycopg2._psycopg", "scipy.stats.distributions"}
    & set(sys.modules)))
"""


def rules_of(expectations: list[dict[str, object]]) -> list[Rule]:
    return list(parse(json.dumps({"expectations": expectations}), "test"))


@pytest.fixture(scope="module")
def process() -> Iterator[OtherProcess]:
    made = OtherProcess()
    yield made
    made.close()


@pytest.fixture
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as made:
        made.sql(DATA).create_view("planted")
        yield made


def test_every_kind_gives_the_findings_of_this_process(process: OtherProcess, con: duckdb.DuckDBPyConnection) -> None:
    from pipeline.quality import gx_engine

    rules = rules_of(
        [
            {"type": kind, "kwargs": kwargs, "meta": {"name": f"rule {number}"}}
            for number, (kind, kwargs, _, _) in enumerate(EXPECTED)
        ]
    )
    for samples in (False, True):
        there = process.evaluate(con, "planted", rules, samples=samples)
        assert there == gx_engine.evaluate(con, "planted", rules, samples=samples)


def test_error_of_duckdb_reaches_the_finding(process: OtherProcess, con: duckdb.DuckDBPyConnection) -> None:
    rule: dict[str, object] = {"type": "expect_column_values_to_match_regex", "kwargs": {"column": "age", "regex": "("}}
    (found,) = process.evaluate(con, "planted", rules_of([rule]), samples=False)
    assert "regexp_matches" in str(found.error)


def test_process_that_dies_is_a_transient_error(con: duckdb.DuckDBPyConnection) -> None:
    process = OtherProcess()
    try:
        process._wait()
        os.kill(process._process.pid, signal.SIGKILL)
        with pytest.raises(WorkerLost, match="exit code -9"):
            process.evaluate(con, "planted", rules_of([BETWEEN]), samples=False)
    finally:
        process.close()


def test_failure_of_the_other_process_is_an_error_here() -> None:
    process = OtherProcess()
    try:
        process._wait()
        process._tell(("no view, no rules",))
        with pytest.raises(LakescoreError, match="ValueError"):
            process._receive()
    finally:
        process.close()


def test_command_imports_nothing_of_it_and_takes_the_process_along(tmp_path: Path) -> None:
    (tmp_path / "input.json").write_text(json.dumps({"expectations": [BETWEEN]}))
    command = [sys.executable, "-c", RUN, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        imported, with_pandas, *of_pages, pid = parent.stdout.readline().split()
        parent.kill()
    assert (imported, with_pandas) == ("False", "False")
    assert of_pages == ["True"] * 3
    with suppress(ProcessLookupError):
        while True:  # until the test's time is over
            os.kill(int(pid), 0)
            time.sleep(0.05)


def test_what_few_expectations_need_is_not_imported() -> None:
    done = subprocess.run([sys.executable, "-c", RARE], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
