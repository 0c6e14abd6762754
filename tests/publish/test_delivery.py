"""Delivery records: what is stored, which state may follow which, and what a rollback during a delivery leaves."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from pipeline.errors import LakeDamaged
from pipeline.lake.layout import Lake
from pipeline.publish.delivery import Delivery, DeliveryState, DeliveryStore
from pipeline.publish.redis_reader import look_up
from pipeline.publish.redis_sender import RedisSender
from pipeline.publish.sending import Outgoing, Sent
from pipeline.publish.stage import after_rollback, deliver_all
from pipeline.records import RunRecord, State
from tests.publish.conftest import Publisher

DAY, NEXT_DAY = "2026-01-01", "2026-01-02"
TARGET = 'kind = "redis"'


def roll_back(lake: Lake, record: RunRecord) -> RunRecord:
    return lake.records.change(record, lambda stored: stored.with_(state=State.rolled_back))


def stored(publisher: Publisher, record: RunRecord) -> Delivery:
    found = DeliveryStore(publisher.lake).find(record, "t0")
    assert found is not None
    return found


def key(record: RunRecord) -> str:
    return f"deliveries/job=churn/ds={record.ds}/{record.run_id}.t0.json"


def test_record_names_run_model_and_what_was_sent(publisher: Publisher, redis_url: str) -> None:
    record = publisher.day(DAY)
    assert deliver_all(publisher.job(TARGET), record).error is None
    document = json.loads(publisher.lake.storage.read(key(record)) or b"")
    assert document["format"] == 1
    assert document["model"] == record.model.model_dump()
    assert (document["state"], document["rows"], len(document["digest"])) == ("delivered", 5, 64)
    assert document["place"].endswith("churn:t0:current")
    newer = {**document, "added_later": 1}
    publisher.lake.storage.write(key(record), json.dumps(newer).encode())
    assert stored(publisher, record).rows == 5


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda text: text[:-40], "cannot be read"),
        (
            lambda text: text.replace(b'"format": 1', b'"format": 2').replace(b'"format":1', b'"format":2'),
            "unknown format",
        ),
        (lambda text: text.replace(DAY.encode(), NEXT_DAY.encode()), "does not lie in its place"),
    ],
)
def test_damaged_record_is_named(
    publisher: Publisher, redis_url: str, change: Callable[[bytes], bytes], problem: str
) -> None:
    record = publisher.day(DAY)
    assert deliver_all(publisher.job(TARGET), record).error is None
    text = publisher.lake.storage.read(key(record)) or b""
    publisher.lake.storage.write(key(record), change(text))
    with pytest.raises(LakeDamaged, match=problem) as caught:
        stored(publisher, record)
    assert key(record) in str(caught.value.where)


def test_run_that_is_rolled_back_while_it_is_sent_is_taken_back(
    publisher: Publisher, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = publisher.day(DAY), publisher.day(NEXT_DAY)
    ctx, send = publisher.job(TARGET), RedisSender.send
    assert deliver_all(ctx, first).error is None

    def sent_and_rolled_back(self: RedisSender, outgoing: Outgoing) -> Sent:
        done = send(self, outgoing)
        if outgoing.record.run_id == second.run_id:
            after_rollback(ctx, roll_back(publisher.lake, second))
        return done

    monkeypatch.setattr(RedisSender, "send", sent_and_rolled_back)
    assert deliver_all(ctx, second).error is None
    assert stored(publisher, second).state is DeliveryState.withdrawn
    assert look_up(ctx.job, "u1")[0]["run_id"] == first.run_id


def test_rollback_after_a_writer_was_killed_before_it_recorded_its_delivery(
    publisher: Publisher, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = publisher.day(DAY), publisher.day(NEXT_DAY)
    ctx = publisher.job(TARGET)
    for record in (first, second):
        assert deliver_all(ctx, record).error is None
    begun: dict[str, Any] = {"state": "delivering", "details": {}, "delivered_at": None, "rows": 0}
    document = json.loads(publisher.lake.storage.read(key(second)) or b"") | begun
    publisher.lake.storage.write(key(second), json.dumps(document).encode())
    assert after_rollback(ctx, roll_back(publisher.lake, second)).error is None
    assert look_up(ctx.job, "u1")[0]["run_id"] == first.run_id


def test_run_of_which_another_is_current_is_not_sent(publisher: Publisher, redis_url: str) -> None:
    first = publisher.day(DAY)
    second = publisher.day(DAY, number=1, revision=1)
    assert deliver_all(publisher.job(TARGET), first).error is None
    assert stored(publisher, first).state is DeliveryState.superseded
    assert deliver_all(publisher.job(TARGET), second).error is None
    assert look_up(publisher.job(TARGET).job, "u1")[0]["run_id"] == second.run_id


def test_rollback_of_an_older_period_leaves_the_newer_one(publisher: Publisher, redis_url: str) -> None:
    first, second = publisher.day(DAY), publisher.day(NEXT_DAY)
    ctx = publisher.job(TARGET)
    for record in (first, second):
        assert deliver_all(ctx, record).error is None
    done = after_rollback(ctx, roll_back(publisher.lake, first))
    assert done.error is None
    assert stored(publisher, first).state is DeliveryState.withdrawn
    assert look_up(ctx.job, "u1")[0]["run_id"] == second.run_id


def test_withdrawn_delivery_stays_withdrawn(publisher: Publisher, redis_url: str) -> None:
    record = publisher.day(DAY)
    ctx = publisher.job(TARGET)
    assert deliver_all(ctx, record).error is None
    after_rollback(ctx, roll_back(publisher.lake, record))

    def delivered(found: Delivery) -> Delivery:
        return found.with_(state=DeliveryState.delivered)

    kept: Any = DeliveryStore(publisher.lake).change(record, ctx.job.publish[0], "redis", delivered)
    assert kept.state is DeliveryState.withdrawn
    assert stored(publisher, record).state is DeliveryState.withdrawn


def test_error_of_one_target_does_not_hold_up_the_others(publisher: Publisher, redis_url: str) -> None:
    record = publisher.day(DAY)
    ctx = publisher.job('kind = "redis"\nurl = "UNSET_VARIABLE"', TARGET)
    done = deliver_all(ctx, record)
    assert list(done.errors) == ["t0"]
    assert "target t0: the environment variable UNSET_VARIABLE is not set" in str(done.error)
    assert [(each.target, each.state) for each in done.deliveries] == [("t1", DeliveryState.delivered)]
