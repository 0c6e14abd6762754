"""People are told about deliveries: once, with links or files for exports, with counts alone for flags."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from pipeline.errors import DeliveryFailed
from pipeline.notify.announcing import announce
from pipeline.publish.delivery import DeliveryStore
from pipeline.publish.stage import deliver_all
from tests.orchestration.receivers import Hook, web_hook
from tests.publish.drop import DAYS, Drop
from tests.publish.test_export_sender import withdrawn

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Apprise imports what Python deprecates


@pytest.fixture
def drop(tmp_path: Path) -> Drop:
    return Drop(tmp_path)


def test_export_is_announced_once_with_counts_and_links(drop: Drop, monkeypatch: pytest.MonkeyPatch) -> None:
    drop.job(
        'changes = true\nholdout = { campaign = "x", share = 0.5 }\n'
        'announce = { apprise = ["HOOK"], link = "https://files.example.org/drop" }'
    )
    record = drop.day(dict.fromkeys(range(40), 0.5))
    delivery = drop.publish(record)
    with web_hook() as hook:
        monkeypatch.setenv("HOOK", hook.url)
        announce(drop.context, record)
        announce(drop.context, record)
    (received,) = hook.received
    assert received["title"] == f"spring {DAYS[0]}: {delivery.rows} rows"
    text = received["message"]
    for part in (
        f"Rows: {delivery.rows}, {40 - delivery.rows} held out of it",
        f"{delivery.rows} added, 0 changed, 0 removed",
        f"https://files.example.org/drop/churn/spring/{drop.current['folder']}/spring.csv ({delivery.rows} rows",
        record.run_id,
        delivery.digest,
    ):
        assert part in text
    assert not received["attachments"]


def test_export_may_be_attached_without_those_who_are_held_out(drop: Drop, monkeypatch: pytest.MonkeyPatch) -> None:
    drop.job('holdout = { campaign = "x", share = 0.5 }\nannounce = { apprise = ["HOOK"], attach = true }')
    record = drop.day(dict.fromkeys(range(40), 0.5))
    drop.publish(record)
    with web_hook() as hook:
        monkeypatch.setenv("HOOK", hook.url)
        announce(drop.context, record)
    (attached,) = hook.received[0]["attachments"]
    assert attached["filename"] == "spring.csv"
    assert base64.b64decode(attached["base64"]) == drop.path().read_bytes()


def test_channel_that_fails_is_tried_again_and_the_others_are_not(drop: Drop, monkeypatch: pytest.MonkeyPatch) -> None:
    drop.job('announce = { apprise = ["GOOD", "DEAD"] }')
    record = drop.day({"a": 0.5})
    drop.publish(record)
    with web_hook() as good, web_hook() as mended:
        monkeypatch.setenv("GOOD", good.url)
        monkeypatch.setenv("DEAD", "json://127.0.0.1:9/")
        with pytest.raises(DeliveryFailed, match="a message did not reach DEAD"):
            announce(drop.context, record)
        monkeypatch.setenv("DEAD", mended.url)
        announce(drop.context, record)
        announce(drop.context, record)
        assert (len(good.received), len(mended.received)) == (1, 1)


def test_nothing_is_announced_before_it_is_delivered(drop: Drop, monkeypatch: pytest.MonkeyPatch) -> None:
    drop.job('announce = { apprise = ["HOOK"] }')
    record = drop.day({"a": 0.5})
    with web_hook() as hook:
        monkeypatch.setenv("HOOK", hook.url)
        with pytest.raises(DeliveryFailed, match="spring is not delivered yet"):
            announce(drop.context, record)
    assert hook.received == []


@pytest.mark.slow
def test_withdrawal_is_told_to_those_who_were_told_and_so_is_what_is_current_again(
    drop: Drop, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop.job('announce = { apprise = ["HOOK"] }')
    first = drop.day({"a": 0.5})
    with web_hook() as hook:
        monkeypatch.setenv("HOOK", hook.url)
        drop.publish(first)
        announce(drop.context, first)
        second = drop.day({"a": 0.5, "b": 0.5}, DAYS[1])
        drop.publish(second)
        announce(drop.context, second)
        withdrawn(drop, second.run_id, DAYS[1])
        announce(drop.context, second)
        drop.publish(first)
        announce(drop.context, first)
    assert [each["title"] for each in hook.received] == [
        f"spring {DAYS[0]}: 1 row",
        f"spring {DAYS[1]}: 2 rows",
        f"spring {DAYS[1]}: withdrawn",
        f"spring {DAYS[0]}: 1 row",
    ]


def flag(drop: Drop, hook: Hook, scores: dict[str, float], ds: str, number: int = 0) -> list[str]:
    """Delivers and announces flags. Returns the texts of the messages that were sent."""
    before = len(hook.received)
    record = drop.day(scores, ds, number=number, revision=number)
    drop.publish(record)
    announce(drop.context, record)
    announce(drop.context, record)
    return [each["title"] + "\n" + each["message"] for each in hook.received[before:]]


def test_flags_are_announced_by_counts_without_keys_and_each_case_once(
    drop: Drop, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop.job('enter = 0.9\nleave = 0.5\nbudget = 1\nannounce = { apprise = ["HOOK"] }', kind="flags")
    with web_hook() as hook:
        monkeypatch.setenv("HOOK", hook.url)
        (first,) = flag(drop, hook, {"secret-a": 0.95, "secret-b": 0.92, "secret-c": 0.1}, DAYS[0])
        assert flag(drop, hook, {"secret-a": 0.95, "secret-b": 0.6}, DAYS[1]) == []
        (third,) = flag(drop, hook, {"secret-b": 0.91}, DAYS[2])
        assert flag(drop, hook, {"secret-b": 0.91}, DAYS[2], number=1) == []
    assert f"spring {DAYS[0]}: 1 new case" in first
    assert "Cases: 1 new, 2 open, 0 closed" in first
    assert "Cut by the budget of 1: 1" in first
    assert f"reports/job=churn/ds={DAYS[0]}" in first
    assert "Cases: 1 new, 1 open, 1 closed" in third
    assert "secret" not in first + third


def test_deliveries_of_a_run_are_all_tried_though_one_fails(drop: Drop, monkeypatch: pytest.MonkeyPatch) -> None:
    other = (
        f'[[publish]]\nname = "other"\nkind = "export"\nto = "{drop.root}/drop"\nannounce = {{ apprise = ["HOOK"] }}'
    )
    drop.job('announce = { apprise = ["DEAD"] }', more=other)
    record = drop.day({"a": 0.5})
    deliver_all(drop.context, record)
    assert len(DeliveryStore(drop.lake).of_run(record)) == 2
    with web_hook() as hook:
        monkeypatch.setenv("HOOK", hook.url)
        monkeypatch.setenv("DEAD", "json://127.0.0.1:9/")
        with pytest.raises(DeliveryFailed, match="DEAD"):
            announce(drop.context, record)
    assert [each["title"] for each in hook.received] == [f"other {DAYS[0]}: 1 row"]
