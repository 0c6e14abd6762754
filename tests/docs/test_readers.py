"""Other tools read the tree of files as docs/readers.md says, and see what our views show."""

from __future__ import annotations

import multiprocessing
import re
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.care.rollback import rollback
from pipeline.lake.layout import Lake
from pipeline.query.running import run_query
from tests.workspace import DAY, Workspace, changed, kept_as_it_is, table

DOCS = Path(__file__).parent.parent.parent / "docs" / "readers.md"
SNIPPETS = dict(re.findall(r"```python (\w+)\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """Two days; the first with changed rows, a rolled-back run, two withdrawn keys, and a second model version.

    That version has another class.
    """
    workspace, rows = Workspace(tmp_path_factory.mktemp("history")), table(40)
    workspace.job(policy='withdrawn = "mark"')
    workspace.model()
    workspace.day(rows)
    workspace.run()
    workspace.day(changed(rows, "a", {0: 5.0, 1: 5.0}))
    workspace.run()
    workspace.day(changed(rows, "a", {0: 6.0, 1: 5.0}))
    taken_back = workspace.complete()
    rollback(workspace.context().lake, taken_back.run_id)
    workspace.day(rows.slice(0, 38))
    workspace.run()
    workspace.model("2", classes=3, seed=3)
    workspace.run()
    workspace.day(5, "2026-01-02")
    workspace.run("2026-01-02")
    with kept_as_it_is(workspace):
        yield workspace


@pytest.fixture
def history(made: Workspace, tmp_path: Path) -> Workspace:
    return made.copy_to(tmp_path)


def ask(lake: Lake, text: str) -> list[dict[str, Any]]:
    with run_query(lake, text) as result, result.stream() as (schema, batches):
        return pa.Table.from_batches(batches, schema).to_pylist()


def length(rows: Any) -> int:
    """Returns how many rows a table of any of the tools has."""
    for arrow in ("to_arrow_table", "toArrow"):
        if hasattr(rows, arrow):
            rows = getattr(rows, arrow)()
    return len(rows)


def lengths(tool: str, folder: str) -> list[int]:
    """Runs the snippet of a tool, and returns how many rows it found."""
    names: dict[str, Any] = {"folder": folder}
    exec(SNIPPETS[tool], names)
    found = [length(names["rows"]), length(names["current"])]
    if spark := names.get("spark"):
        spark.stop()
    return found


@pytest.mark.parametrize(
    "tool", [pytest.param(tool, marks=pytest.mark.slow if tool == "spark" else ()) for tool in SNIPPETS]
)
def test_reader_sees_what_our_views_show(history: Workspace, tool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
    folder = str(history.lake / "predictions" / "job=toy")
    lake = history.context().lake
    counts = []
    for view in ("predictions_history", "predictions_by_version"):
        (row,) = ask(lake, f"SELECT count(*) AS n FROM {view} WHERE ds = '{DAY}'")
        counts.append(row["n"])
    # Java outlives the session of Spark and keeps its configuration: no other test of this process may meet it.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) if tool == "spark" else nullcontext() as own:
        found = own.submit(lengths, tool, folder).result() if own else lengths(tool, folder)
    assert found == counts == [84, 76]


def test_all_tools_are_documented() -> None:
    assert set(SNIPPETS) == {"pyarrow", "polars", "pandas", "duckdb", "spark"}


def test_more_classes_and_new_columns_stay_queryable_with_the_old(history: Workspace) -> None:
    folder = history.job(reads='carry = ["country"]')
    rows = table(40).append_column("country", pa.array(["UK"] * 40)).append_column("unheard_of", pa.array(range(40)))
    history.day(rows, "2026-01-03")
    history.run("2026-01-03")
    assert (folder / "job.toml").exists()
    text = "SELECT ds, model_version, count(prob_class_2) AS third, count(country) AS c FROM predictions_by_version"
    found = ask(history.context().lake, f"{text} GROUP BY ALL ORDER BY ALL")
    assert [tuple(row.values()) for row in found] == [
        (DAY, "2", 38, 0),
        (DAY, "v1", 0, 0),
        ("2026-01-02", "2", 5, 0),
        ("2026-01-03", "2", 40, 40),
    ]
