"""Other tools read the tree of files as docs/readers.md says, and see what our views show."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline import query
from pipeline.care.rollback import rollback
from pipeline.lake import Lake
from tests.workspace import DAY, Workspace, changed, table

DOCS = Path(__file__).parent.parent / "docs" / "readers.md"
SNIPPETS = dict(re.findall(r"```python (\w+)\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL))


@pytest.fixture
def history(workspace: Workspace) -> Workspace:
    """Two days; the first with changed rows, a rolled-back run, and a second model version with another class."""
    rows = table(40)
    workspace.day(rows)
    workspace.run()
    workspace.day(changed(rows, "a", {0: 5.0, 1: 5.0}))
    workspace.run()
    workspace.day(changed(rows, "a", {0: 6.0, 1: 5.0}))
    taken_back = workspace.complete()
    rollback(workspace.context().lake, taken_back.run_id)
    workspace.model("2", classes=3, seed=3)
    workspace.run()
    workspace.day(5, "2026-01-02")
    workspace.run("2026-01-02")
    return workspace


def ask(lake: Lake, text: str) -> list[dict[str, Any]]:
    with query.run(lake, text) as result, result.stream() as (schema, batches):
        return pa.Table.from_batches(batches, schema).to_pylist()


def length(rows: Any) -> int:
    """Returns how many rows a table of any of the tools has."""
    for arrow in ("to_arrow_table", "toArrow"):
        if hasattr(rows, arrow):
            rows = getattr(rows, arrow)()
    return len(rows)


@pytest.mark.parametrize(
    "tool", [pytest.param(tool, marks=pytest.mark.slow if tool == "spark" else ()) for tool in SNIPPETS]
)
def test_reader_sees_what_our_views_show(history: Workspace, tool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
    if tool == "spark":
        pytest.importorskip(
            "pyspark", reason="not installed: beside it and pandas 3, Great Expectations cannot be imported"
        )
    names: dict[str, Any] = {"folder": str(history.lake / "predictions" / "job=toy")}
    exec(SNIPPETS[tool], names)
    lake = history.context().lake
    counts = []
    for view in ("predictions_history", "predictions_by_version"):
        (row,) = ask(lake, f"SELECT count(*) AS n FROM {view} WHERE ds = '{DAY}'")
        counts.append(row["n"])
    assert [length(names["rows"]), length(names["current"])] == counts == [82, 80]
    if spark := names.get("spark"):
        spark.stop()


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
        (DAY, "2", 40, 0),
        (DAY, "v1", 0, 0),
        ("2026-01-02", "2", 5, 0),
        ("2026-01-03", "2", 40, 40),
    ]
