"""What Redis serves after each event, on a real server."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipeline.errors import LakescoreError
from pipeline.publish.delivery import DeliveryState, DeliveryStore
from pipeline.publish.redis_reader import look_up
from pipeline.records import State
from tests.calling import Cli
from tests.redis_server import RedisServer, free_port
from tests.workspace import DAY, Workspace, table

TARGET = """
[[publish]]
name = "serving"
kind = "redis"
"""


def publishing(workspace: Workspace, text: str = TARGET) -> Workspace:
    with (workspace.job() / "job.toml").open("a") as file:
        file.write(text)
    return workspace


def states(workspace: Workspace) -> list[tuple[str, str]]:
    found = DeliveryStore(workspace.context().lake).of("toy")
    return [(each.ds, each.state.value) for each in found]


def served(workspace: Workspace, key: str) -> tuple[dict[str, str], dict[str, Any]]:
    return look_up(workspace.context().job, key)


def test_run_publishes_its_period(workspace: Workspace, redis_url: str, redis_server: RedisServer) -> None:
    publishing(workspace).day(2500)
    record = workspace.complete()
    pointer, values = served(workspace, "u17")
    ((prediction, probability),) = workspace.ask(
        "SELECT prediction, prediction_proba FROM predictions WHERE id = 'u17'"
    )
    assert pointer["run_id"] == record.run_id
    assert (pointer["ds"], pointer["model_digest"], pointer["rows"]) == (DAY, record.model.digest, "2500")
    assert values["prediction"] == prediction
    assert values["prediction_proba"] == pytest.approx(probability)
    with redis_server.client() as client:
        assert client.dbsize() == 2501
    (delivery,) = DeliveryStore(workspace.context().lake).of_run(record)
    assert (delivery.state, delivery.rows, delivery.attempts) == (DeliveryState.delivered, 2500, 1)
    assert delivery.digest == pointer["sha256"]


def test_second_run_sends_nothing(workspace: Workspace, redis_url: str, redis_server: RedisServer) -> None:
    publishing(workspace).day(50)
    workspace.complete()
    before = workspace.files(), served(workspace, "u1")
    assert workspace.run().up_to_date
    (delivery,) = DeliveryStore(workspace.context().lake).of("toy")
    assert (workspace.files(), served(workspace, "u1")) == before
    assert delivery.attempts == 1


def test_period_without_rows_is_refused_unless_the_job_allows_it(workspace: Workspace, redis_url: str) -> None:
    publishing(workspace).day(5)
    workspace.day(5, ds="2026-01-02")
    workspace.complete()
    publishing(workspace, f'{TARGET}where = "prediction_proba > 2"\n')
    assert "serving: no row of 2026-01-02 is to be sent" in str(workspace.complete("2026-01-02").warnings)
    assert served(workspace, "u1")[0]["ds"] == DAY
    publishing(workspace, f'{TARGET}where = "prediction_proba > 2"\nmay_be_empty = true\n')
    workspace.complete("2026-01-02")
    with pytest.raises(LakescoreError, match="Redis has nothing for the key 'u1'"):
        served(workspace, "u1")


def test_last_key_that_is_erased_leaves_nothing_behind(workspace: Workspace, redis_url: str, cli: Cli) -> None:
    publishing(workspace, f"{TARGET}where = \"id = 'u1'\"\n").day(5)
    workspace.complete()
    cli("erase", "u1", "--job", "toy", "--yes")
    with pytest.raises(LakescoreError, match="Redis has nothing for the key 'u1'"):
        served(workspace, "u1")


@pytest.mark.slow
def test_next_period_replaces_the_one_before(workspace: Workspace, redis_url: str, redis_server: RedisServer) -> None:
    publishing(workspace).day(50)
    workspace.day(70, ds="2026-01-02")
    workspace.complete()
    workspace.complete("2026-01-02")
    pointer, _ = served(workspace, "u69")
    assert pointer["ds"] == "2026-01-02"
    with redis_server.client() as client:
        assert client.dbsize() == 71


@pytest.mark.slow
def test_older_period_is_held_unless_asked_for(workspace: Workspace, redis_url: str, cli: Cli) -> None:
    publishing(workspace).day(50)
    workspace.day(70, ds="2026-01-02")
    workspace.complete("2026-01-02")
    workspace.complete()
    assert states(workspace) == [("2026-01-02", "delivered"), (DAY, "held")]
    assert served(workspace, "u1")[0]["ds"] == "2026-01-02"
    refused = cli("publish", "--date", DAY, "--job", "toy", expect=2)
    assert "--force-older" in refused.stderr
    assert served(workspace, "u1")[0]["ds"] == "2026-01-02"
    cli("publish", "--date", DAY, "--job", "toy", "--force-older")
    assert served(workspace, "u1")[0]["ds"] == DAY
    assert sorted(states(workspace)) == [(DAY, "delivered"), ("2026-01-02", "superseded")]
    pointer, _ = served(workspace, "u1")
    cli("publish", "--date", DAY, "--job", "toy", "--force-older")
    assert served(workspace, "u1")[0] == pointer, "what readers see already is not sent again"
    cli("publish", "--date", "2026-01-02", "--job", "toy")
    assert served(workspace, "u1")[0]["ds"] == "2026-01-02"
    again = json.loads(cli("publish", "--date", DAY, "--job", "toy", "--json").stdout)
    assert again[0]["reason"].startswith("2026-01-02, a newer period, was delivered since")
    assert served(workspace, "u1")[0]["ds"] == "2026-01-02"


@pytest.mark.slow
def test_dead_server_costs_no_prediction_and_is_tried_again(
    workspace: Workspace, redis_url: str, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    monkeypatch.setenv("LAKESCORE_REDIS_URL", f"redis://user:secret@127.0.0.1:{free_port()}/0")
    publishing(workspace).day(50)
    failed = cli("run", "--date", DAY, "--job", "toy", expect=1)
    assert "serving: failed, Redis cannot be reached" in failed.stdout
    assert f"lakescore publish --job toy --date {DAY}" in failed.stdout
    assert "not published: DeliveryFailed: target serving: Redis cannot be reached" in failed.stderr
    assert "secret" not in failed.stdout + failed.stderr + "".join(map(str, workspace.files().values()))
    assert states(workspace) == [(DAY, "failed")]
    (record,) = workspace.context().lake.records.of_day("toy", DAY)
    assert record.state is State.complete
    monkeypatch.setenv("LAKESCORE_REDIS_URL", redis_url)
    assert "serving: 50 rows delivered to redis://" in cli("run", "--date", DAY, "--job", "toy").stdout
    assert states(workspace) == [(DAY, "delivered")]
    (record,) = workspace.context().lake.records.of_day("toy", DAY)
    assert not record.warnings


def test_lost_data_is_sent_again_by_publish(
    workspace: Workspace, redis_url: str, redis_server: RedisServer, cli: Cli
) -> None:
    publishing(workspace).day(50)
    workspace.complete()
    with redis_server.client() as client:
        client.flushall()
    cli("publish", "--date", DAY, "--job", "toy")
    assert served(workspace, "u1")[0]["rows"] == "50"


def test_every_target_that_failed_is_named_beside_those_that_did_not(
    workspace: Workspace, redis_url: str, cli: Cli
) -> None:
    others = "".join(TARGET.replace("serving", name) + f'url = "{name.upper()}"\n' for name in ("first", "last"))
    publishing(workspace, TARGET + others).day(50)
    record = workspace.complete()
    published = cli("publish", "--date", DAY, "--job", "toy", expect=2)
    rolled_back = cli("rollback", record.run_id, "--job", "toy", expect=2)
    for failed, state in ((published, "delivered"), (rolled_back, "withdrawn")):
        assert "target first: the environment variable FIRST is not set" in failed.stderr
        assert "target last: the environment variable LAST is not set" in failed.stderr
        assert "serving" in failed.stdout
        assert state in failed.stdout


def test_lookup_shows_what_redis_serves(workspace: Workspace, redis_url: str, cli: Cli) -> None:
    publishing(workspace).day(50)
    nothing = cli("lookup", "u1", "--job", "toy", expect=1)
    assert "nothing is published" in nothing.stderr
    assert "lakescore publish --job toy --date" in nothing.stderr
    misspelt = cli("lookup", "u1", "--job", "toy", "--target", "servign", expect=2)
    assert "did you mean 'serving'?" in misspelt.stderr
    workspace.complete()
    shown = cli("lookup", "u1", "--job", "toy").stdout
    assert DAY in shown
    assert "prediction_proba" in shown
    absent = cli("lookup", "u99", "--job", "toy", expect=1)
    assert "Redis has nothing for the key 'u99'" in absent.stderr


def test_deliveries_lists_them_newest_first(workspace: Workspace, redis_url: str, cli: Cli) -> None:
    publishing(workspace)
    workspace.lake.mkdir()
    assert "nothing has been delivered" in cli("deliveries", "--job", "toy").stdout
    misspelt = cli("deliveries", "--job", "toy", "--target", "servign", expect=2)
    assert "did you mean 'serving'?" in misspelt.stderr
    early = cli("publish", "--job", "toy", "--date", DAY, expect=2)
    assert f"lakescore run --job toy --date {DAY}" in early.stderr
    workspace.day(50)
    workspace.complete()
    assert "delivered" in cli("deliveries", "--job", "toy").stdout


@pytest.mark.slow
def test_view_shows_deliveries(workspace: Workspace, redis_url: str) -> None:
    publishing(workspace)
    assert workspace.ask("SELECT count(*) FROM deliveries") == [(0,)]
    workspace.day(50)
    record = workspace.complete()
    rows = workspace.ask("SELECT ds, run_id, target, kind, state, rows, model_version FROM deliveries")
    assert rows == [(DAY, record.run_id, "serving", "redis", "delivered", 50, "v1")]


@pytest.mark.slow
def test_page_and_message_show_deliveries(workspace: Workspace, redis_url: str, cli: Cli) -> None:
    publishing(workspace).day(50)
    record = workspace.complete()
    page = workspace.lake / "reports" / "job=toy" / f"ds={DAY}" / f"{record.run_id}.html"
    assert "What this run has sent" in page.read_text()
    assert "Target serving (redis): delivered, 50 rows" in cli("notify", "--date", DAY, "--job", "toy").stdout


@pytest.mark.slow
def test_rollback_serves_the_period_before(workspace: Workspace, redis_url: str, cli: Cli) -> None:
    publishing(workspace).day(50)
    workspace.day(70, ds="2026-01-02")
    first, second = workspace.complete(), workspace.complete("2026-01-02")
    shown = cli("rollback", second.run_id).stdout
    assert "withdrawn" in shown
    assert served(workspace, "u1")[0]["run_id"] == first.run_id
    assert sorted(states(workspace)) == [(DAY, "delivered"), ("2026-01-02", "withdrawn")]
    again = workspace.complete("2026-01-02")
    assert served(workspace, "u1")[0]["run_id"] == again.run_id


@pytest.mark.slow
def test_rollback_of_the_only_run_serves_nothing(
    workspace: Workspace, redis_url: str, redis_server: RedisServer, cli: Cli
) -> None:
    publishing(workspace).day(50)
    record = workspace.complete()
    cli("rollback", record.run_id)
    assert "nothing is published" in cli("lookup", "u1", "--job", "toy", expect=1).stderr
    with redis_server.client() as client:
        assert client.dbsize() == 0


@pytest.mark.slow
def test_rollback_of_a_base_sends_what_is_left(workspace: Workspace, redis_url: str, cli: Cli) -> None:
    rows = table(70)
    publishing(workspace).day(rows.slice(0, 50))
    first = workspace.complete()
    workspace.day(rows)
    second = workspace.complete()
    assert served(workspace, "u60")[0]["rows"] == "70"
    cli("rollback", first.run_id)
    pointer, _ = served(workspace, "u60")
    assert (pointer["run_id"], pointer["rows"]) == (second.run_id, "20")


@pytest.mark.slow
def test_rollback_with_a_dead_server_says_so_and_can_be_repeated(
    workspace: Workspace, redis_url: str, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    publishing(workspace).day(50)
    workspace.day(70, ds="2026-01-02")
    first, second = workspace.complete(), workspace.complete("2026-01-02")
    monkeypatch.setenv("LAKESCORE_REDIS_URL", f"redis://127.0.0.1:{free_port()}")
    cli("rollback", second.run_id, expect=75)
    monkeypatch.setenv("LAKESCORE_REDIS_URL", redis_url)
    assert served(workspace, "u1")[0]["run_id"] == second.run_id
    cli("rollback", second.run_id)
    assert served(workspace, "u1")[0]["run_id"] == first.run_id


@pytest.mark.slow
def test_erased_key_leaves_redis(workspace: Workspace, redis_url: str, cli: Cli) -> None:
    publishing(workspace).day(50)
    workspace.complete()
    cli("erase", "u7", "--job", "toy")
    assert "nothing for the key" in cli("lookup", "u7", "--job", "toy", expect=1).stderr
    assert served(workspace, "u8")[0]["rows"] == "49"
