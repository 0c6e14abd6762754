"""The stages of a run share the views of its input; each alone opens its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from pipeline.context import Shared
from pipeline.lake.layout import Partition
from pipeline.selecting import input as inputs
from pipeline.selecting import opening
from pipeline.selecting.opening import INPUT
from pipeline.selecting.plan import plan
from pipeline.selecting.views import select
from tests.workspace import DAY, Workspace, table


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The days whose input was opened, once for each time."""
    days: list[str] = []
    real = inputs.input_rows

    def input_rows(con: Any, ctx: Any, files: Any, ds: str) -> Any:
        days.append(ds)
        return real(con, ctx, files, ds)

    monkeypatch.setattr(opening, "input_rows", input_rows)
    return days


def test_run_opens_its_input_once(workspace: Workspace, opened: list[str]) -> None:
    workspace.day(100)
    workspace.complete()
    assert opened == [DAY]


def test_next_day_of_a_backfill_opens_its_own(workspace: Workspace, opened: list[str]) -> None:
    for ds in (DAY, "2026-01-02"):
        workspace.day(100, ds)
        assert workspace.complete(ds).ledger.scored.rows == 100  # type: ignore[union-attr]
    assert opened == [DAY, "2026-01-02"]


def test_rows_that_break_rules_make_new_views_in_the_same_connection(workspace: Workspace, opened: list[str]) -> None:
    rows = table(100)
    repeated = rows.slice(0, 3)
    workspace.day(table({name: [*rows[name].to_pylist(), *repeated[name].to_pylist()] for name in rows.column_names}))
    most = sorted(rows["a"].to_pylist())[89]
    rule = {"type": "expect_column_values_to_be_between", "kwargs": {"column": "a", "max_value": most}}
    (workspace.settings.jobs / "toy" / "input.json").write_text(json.dumps({"expectations": [rule]}))
    ledger = workspace.complete().ledger
    assert ledger is not None
    assert (ledger.scored.rows, ledger.quarantined.rows, ledger.duplicates.rows) == (90, 10, 3)
    assert opened == [DAY]


@pytest.mark.parametrize("held", [True, False])
def test_small_day_is_held_and_a_large_one_is_not(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, held: bool
) -> None:
    values = 100 * (table(100).num_columns + 1)  # and `ds`
    monkeypatch.setattr("pipeline.database.holding.VALUES", values if held else values - 1)
    workspace.day(100)
    ctx = workspace.context()
    record = plan(ctx, DAY)
    with select(ctx, record.plan, Partition.of(record)) as selected:
        tables = [name for (name,) in selected.con.execute("SELECT table_name FROM duckdb_tables()").fetchall()]
        assert (INPUT in tables) == held
        assert selected.rows.aggregate("count(*)").fetchall() == [(100,)]


class Openings:
    """Values that note when they are opened and closed."""

    def __init__(self) -> None:
        self.log: list[str] = []

    @contextmanager
    def __call__(self, name: str) -> Iterator[str]:
        self.log.append(f"open {name}")
        yield name
        self.log.append(f"close {name}")


def test_shared_value_stays_open_until_another_takes_its_place() -> None:
    shared, opening_ = Shared(), Openings()
    for name in ("a", "a", "b"):
        with shared.use(name, lambda name=name: opening_(name)) as value:  # type: ignore[misc]
            assert value == name
    assert opening_.log == ["open a", "close a", "open b"]
    shared.close()
    assert opening_.log[-1] == "close b"


def test_shared_value_in_use_is_not_replaced() -> None:
    shared, opening_ = Shared(), Openings()
    with shared.use("a", lambda: opening_("a")), shared.use("b", lambda: opening_("b")):
        assert opening_.log == ["open a", "open b"]
    assert opening_.log == ["open a", "open b", "close b"]


def test_shared_value_is_closed_after_an_error() -> None:
    shared, opening_ = Shared(), Openings()
    use = partial(shared.use, "a", lambda: opening_("a"))
    with pytest.raises(ZeroDivisionError), use(), use():
        raise ZeroDivisionError
    assert opening_.log == ["open a", "close a"]
    with shared.use("a", lambda: opening_("a")):
        pass
    assert opening_.log[-1] == "open a"
