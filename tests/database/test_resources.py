"""What DuckDB takes of a machine, and what happens if it needs more."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import machine
from pipeline.context import Context
from pipeline.database.connection import connect, read_parquet, translated_errors
from pipeline.database.resources import Resources, batch_rows, most_processes, resources
from pipeline.errors import LakescoreError, OutOfMemory
from pipeline.flow.day import within_memory
from pipeline.job.config import Engine
from tests.workspace import Workspace

GB = 10**9


@pytest.fixture
def memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    found: int = getattr(request, "param", 64 * GB)
    monkeypatch.setattr(machine, "usable_memory", lambda: found)
    return found


@pytest.mark.usefixtures("memory")
@pytest.mark.parametrize(
    ("threads", "columns", "expected"),
    [
        (1, 0, ("350MB", 1)),
        (2, 6, ("350MB", 2)),
        (2, 1000, ("1450MB", 2)),
        (16, 6, ("657MB", 16)),
        (16, 1000, ("10200MB", 16)),
    ],
)
def test_resources_follow_threads_and_columns(threads: int, columns: int, expected: tuple[str, int]) -> None:
    assert resources(Engine(threads=threads), columns) == Resources(*expected)


@pytest.mark.parametrize("memory", [4 * GB], indirect=True)
def test_resources_fewer_threads_where_memory_is_short(memory: int) -> None:
    assert resources(Engine(threads=16), 1000) == Resources("2000MB", 2)
    assert resources(Engine(threads=16), 100_000) == Resources("2000MB", 1)
    assert memory == 4 * GB


@pytest.mark.parametrize("memory", [16 * GB], indirect=True)
def test_resources_of_several_processes_fit_the_machine(memory: int) -> None:
    one = Engine(threads=1)
    assert resources(one, 100_000) == Resources("8000MB", 1)
    assert resources(one, 100_000, processes=8) == Resources("1000MB", 1)
    assert resources(Engine(threads=1, memory_limit="4GB"), 6, processes=8) == Resources("1000MB", 1)
    assert resources(Engine(threads=1, memory_limit="350MiB"), 6, processes=8) == Resources("350MiB", 1)
    assert resources(one, 6, processes=64) == Resources("350MB", 1)  # less would be of no use
    assert most_processes() * 750_000_000 <= memory < (most_processes() + 1) * 750_000_000


@pytest.mark.usefixtures("memory")
@pytest.mark.parametrize(("limit", "threads"), [("350MB", 5), ("350MiB", 5), ("2GB", 16), ("10MB", 1)])
def test_resources_a_limit_that_is_set_is_kept(limit: str, threads: int) -> None:
    assert resources(Engine(memory_limit=limit, threads=16), 6) == Resources(limit, threads)


@pytest.mark.usefixtures("memory")
def test_batches_get_fewer_rows_with_more_columns() -> None:
    assert [batch_rows(columns) for columns in (0, 6, 12, 13, 200, 1000, 2000, 9000)] == [
        *(122_880, 122_880, 122_880, 115_384),
        *(8192, 8192, 4096, 2048),
    ]


@pytest.mark.parametrize("memory", [2 * GB], indirect=True)
def test_batches_of_all_workers_fit_into_memory(memory: int) -> None:
    assert batch_rows(1000, workers=1) == 8192
    assert 2048 <= batch_rows(1000, workers=8) < 8192
    assert 8 * batch_rows(1000, workers=8) * 1000 * 4 < memory


def use_up(con: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Asks for one value of all rows, which DuckDB cannot spill."""
    rows = read_parquet(con, [path])
    rows.aggregate("list(a)").to_arrow_reader(1000).read_all()


def test_out_of_memory_is_not_blamed_on_a_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"a": np.random.default_rng(0).normal(size=2_000_000)}), path)
    with connect("10MB", 1) as con, pytest.raises(OutOfMemory) as caught, translated_errors("the lake", [path]):
        use_up(con, path)
    error = caught.value
    assert (error.what, error.where, error.transient) == ("DuckDB ran out of memory", "the lake", False)
    assert error.got is not None
    assert "Out of Memory Error" in error.got
    assert error.next_step is not None
    assert "LAKESCORE_MEMORY_LIMIT" in error.next_step


def test_out_of_memory_a_stage_is_run_once_more_in_one_thread_and_small_batches(
    workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[tuple[int, int]] = []

    def work(ctx: Context) -> str:
        seen.append((ctx.resources(6).threads, ctx.batch_rows(6)))
        if len(seen) % 2:
            raise OutOfMemory("DuckDB ran out of memory")
        return "done"

    assert within_memory(workspace.context(), work) == "done"
    assert seen == [(2, 122_880), (1, 2048)]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    with pytest.raises(OutOfMemory):
        within_memory(replace(workspace.context(), frugal=True), work)
    assert len(seen) == 3


def test_run_within_a_limit_that_is_too_small_says_what_to_set(
    workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    workspace.day(200_000)
    with pytest.raises(LakescoreError) as caught:
        workspace.run(memory_limit="3MB")
    assert isinstance(caught.value, OutOfMemory)
    assert "once more" in caplog.text
    found = workspace.run().record
    assert found is not None
    engine = next(stage.engine for stage in found.stages if stage.engine)
    assert (engine.memory_limit, engine.database_threads) == ("350MB", 2)
