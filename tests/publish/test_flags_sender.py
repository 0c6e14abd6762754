"""Cases that open and close, and alerts that are sent once each, within a budget."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.database.connection import connect
from pipeline.errors import DeliveryRefused, JobError
from pipeline.job.targets import FlagsTarget
from pipeline.lake.layout import Lake, Partition
from pipeline.publish.announced import announcement_key
from pipeline.publish.delivery import Delivery, DeliveryState
from pipeline.publish.flags_sender import FlagsSender
from pipeline.publish.sending import Outgoing
from pipeline.records import RunRecord
from tests import lakes

MONDAY = datetime(2026, 1, 5, tzinfo=UTC)


class Nights:
    """Sends flags of one day after another, as the stage does."""

    def __init__(self, root: Path, **options: Any) -> None:
        self.lake: Lake = lakes.open_lake(root)
        self.target = FlagsTarget.model_validate(
            {"name": "fraud", "kind": "flags", "score": "s", "enter": 0.9, **options}
        )
        self.known: list[Delivery] = []

    def send(self, day: int, scores: dict[str, float], *, run: int = 0, told: bool = True) -> Delivery:
        """`scores` are of the keys; of a key `a:1`, `a` is the case. Returns the delivery, which is kept."""
        ds = f"{MONDAY + timedelta(days=day):%Y-%m-%d}"
        record = lakes.add_run(self.lake, Partition("churn", ds, "v1"), number=run)
        with connect() as con:
            con.execute("CREATE TABLE t (key_text VARCHAR, s DOUBLE, account VARCHAR)")
            for key, score in scores.items():
                con.execute("INSERT INTO t VALUES ($k, $s, split_part($k, ':', 1))", {"k": key, "s": score})
            con.execute("CREATE VIEW outgoing AS FROM t")
            context: Any = SimpleNamespace(lake=self.lake)
            outgoing = Outgoing(context, self.target, record, con, len(scores), None, tuple(self.known), MONDAY)
            sent = FlagsSender().send(outgoing)
        done = delivery(record, sent, MONDAY + timedelta(minutes=len(self.known)))
        self.known = [each for each in self.known if each.run_id != record.run_id] + [done]
        if told:
            self.lake.storage.write(announcement_key(done), b'{"deliveries": [{"channel": "HOOK", "error": null}]}')
        return done

    def withdraw(self, done: Delivery) -> None:
        self.known = [
            each.with_(state=DeliveryState.withdrawn) if each.run_id == done.run_id else each for each in self.known
        ]

    def table(self, done: Delivery, *columns: str) -> list[tuple[Any, ...]]:
        rows = pq.read_table(self.lake.workspace.path(done.details["table"])).to_pylist()
        return sorted(tuple(row[name] for name in columns) for row in rows)

    def alerts(self, done: Delivery) -> dict[str, str]:
        return {case: alert for case, alert in self.table(done, "__case", "alert")}  # noqa: C416 - typed


def delivery(record: RunRecord, sent: Any, at: datetime) -> Delivery:
    return Delivery(
        job=record.job,
        ds=record.ds,
        run_id=record.run_id,
        target="fraud",
        kind="flags",
        state=DeliveryState.delivered,
        model=record.model,
        at=at,
        delivered_at=at,
        rows=sent.rows,
        digest=sent.digest,
        details=dict(sent.details),
    )


def nights_of(nights: Nights, scores: Sequence[float | None]) -> list[list[tuple[Any, ...]]]:
    sent = [nights.send(day, {} if score is None else {"a": score}) for day, score in enumerate(scores)]
    return [nights.table(each, "status", "alert", "quiet") for each in sent]


def test_case_between_the_thresholds_stays_open_and_alerts_once(tmp_path: Path) -> None:
    found = nights_of(Nights(tmp_path, leave=0.7), [0.8, 0.95, 0.75, 0.91, 0.69, 0.8, 0.9])
    assert found == [
        [],
        [("entered", "sent", 0)],
        [("stays", "earlier", 0)],
        [("stays", "earlier", 0)],
        [("left", "earlier", 1)],
        [],
        [("entered", "sent", 0)],
    ]


def test_case_that_is_quiet_for_less_than_the_limit_stays_open(tmp_path: Path) -> None:
    found = nights_of(Nights(tmp_path, close_after=3), [0.95, None, None, 0.95, None, None, None, 0.95])
    assert [rows[0] for rows in found] == [
        ("entered", "sent", 0),
        ("stays", "earlier", 1),
        ("stays", "earlier", 2),
        ("stays", "earlier", 0),
        ("stays", "earlier", 1),
        ("stays", "earlier", 2),
        ("left", "earlier", 3),
        ("entered", "sent", 0),
    ]


def test_budget_takes_the_highest_and_records_what_was_cut_which_comes_again(tmp_path: Path) -> None:
    nights = Nights(tmp_path, budget=2, leave=0.5)
    first = nights.send(0, {"a": 0.91, "b": 0.99, "c": 0.95, "d": 0.95})
    assert nights.alerts(first) == {"a": "cut", "b": "sent", "c": "sent", "d": "cut"}
    assert {name: first.details[name] for name in ("open", "entered", "alerts", "new_alerts", "cut")} == {
        "open": 4,
        "entered": 4,
        "alerts": 2,
        "new_alerts": 2,
        "cut": 2,
    }
    second = nights.send(1, {"a": 0.6, "b": 0.99, "d": 0.9, "e": 0.97})
    assert nights.alerts(second) == {"a": "none", "b": "earlier", "c": "earlier", "d": "sent", "e": "sent"}


def test_case_that_was_cut_takes_nothing_of_the_budget_on_a_day_without_a_row_of_it(tmp_path: Path) -> None:
    nights = Nights(tmp_path, budget=1, close_after=3)
    nights.send(0, {"a": 0.99, "b": 0.95})
    second = nights.send(1, {"c": 0.95})
    assert nights.alerts(second) == {"a": "earlier", "b": "none", "c": "sent"}
    assert second.details["alerts"] == 1


def test_rows_of_a_case_are_one_case_with_the_key_of_the_highest(tmp_path: Path) -> None:
    nights = Nights(tmp_path, case="account")
    done = nights.send(0, {"a:1": 0.91, "a:2": 0.99, "a:3": 0.1, "b:1": 0.2})
    assert nights.table(done, "__case", "key_text", "score") == [("a", "a:2", 0.99)]


def test_second_run_of_a_day_alerts_no_case_again_and_keeps_the_budget(tmp_path: Path) -> None:
    nights = Nights(tmp_path, budget=2)
    nights.send(0, {"a": 0.95})
    again = nights.send(0, {"a": 0.95, "b": 0.96, "c": 0.97}, run=1)
    assert nights.alerts(again) == {"a": "sent", "b": "cut", "c": "sent"}
    assert again.details["new_alerts"] == 1


def test_same_rows_again_are_the_same_table_and_alert_nobody_again(tmp_path: Path) -> None:
    nights = Nights(tmp_path, budget=1)
    first = nights.send(0, {"a": 0.95, "b": 0.96}, told=False)
    assert nights.send(0, {"b": 0.96, "a": 0.95}, told=True).digest == first.digest
    for _ in range(2):
        again = nights.send(0, {"b": 0.96, "a": 0.95})
        assert (again.digest, again.details["new_alerts"]) == (first.digest, 0)


def test_case_that_nobody_was_told_about_is_alerted_by_the_next_run_of_the_day(tmp_path: Path) -> None:
    nights = Nights(tmp_path)
    nights.send(0, {"a": 0.95}, told=False)
    assert nights.send(0, {"a": 0.95}, run=1).details["new_alerts"] == 1


@pytest.mark.parametrize(("told", "alert"), [(True, "earlier"), (False, "sent")])
def test_case_of_a_withdrawn_run_opens_anew_and_alerts_only_if_nobody_was_told(
    tmp_path: Path, told: bool, alert: str
) -> None:
    nights = Nights(tmp_path)
    nights.withdraw(nights.send(0, {"a": 0.95}, told=told))
    done = nights.send(1, {"a": 0.95})
    assert nights.table(done, "status", "alert", "since") == [("entered", alert, "2026-01-06")]


def test_older_day_goes_on_from_the_day_before_it(tmp_path: Path) -> None:
    nights = Nights(tmp_path)
    nights.send(0, {"a": 0.95})
    nights.send(2, {"b": 0.95})
    done = nights.send(1, {"a": 0.95, "b": 0.95})
    assert nights.table(done, "__case", "status") == [("a", "stays"), ("b", "entered")]


def test_unknown_case_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="did you mean 'account'"):
        Nights(tmp_path, case="acount").send(0, {"a": 1.0})


def test_row_without_a_case_is_refused(tmp_path: Path) -> None:
    nights = Nights(tmp_path, case="account")
    with connect() as con:
        con.execute("CREATE VIEW outgoing AS SELECT 'k' AS key_text, 1.0::DOUBLE AS s, NULL::VARCHAR AS account")
        record = lakes.add_run(nights.lake, Partition("churn", "2026-01-05", "v1"))
        context: Any = SimpleNamespace(lake=nights.lake)
        with pytest.raises(DeliveryRefused, match="1 row has no account"):
            FlagsSender().send(Outgoing(context, nights.target, record, con, 1, None, (), MONDAY))


@pytest.mark.parametrize("options", [{"leave": 0.95}, {"announce": {"attach": True}}, {"enter": float("nan")}])
def test_target_that_contradicts_itself_is_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="1 validation error"):
        Nights(tmp_path, **options)
