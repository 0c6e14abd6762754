"""The sender on a real server: what is written, what is refused, and what readers see after each failure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import redis

from pipeline.errors import CommitConflict, DeliveryFailed, DeliveryRefused, JobError, LakescoreError
from pipeline.lake.layout import Partition
from pipeline.publish import redis_generation
from pipeline.publish.delivery import DeliveryState, DeliveryStore
from pipeline.publish.redis_connection import translated
from pipeline.publish.redis_generation import Generation
from pipeline.publish.redis_reader import look_up
from pipeline.publish.stage import deliver_all
from pipeline.records import RunRecord
from tests import lakes
from tests.publish.conftest import Publisher
from tests.redis_server import RedisServer

DAYS = ("2026-01-01", "2026-01-02", "2026-01-03")
PREFIX = "churn:t0"


def sent(publisher: Publisher, record: RunRecord, *lines: str) -> LakescoreError | None:
    """Delivers a run to a Redis target with these lines, and returns the error if it failed."""
    return deliver_all(publisher.job("\n".join(('kind = "redis"', *lines))), record).error


def served(publisher: Publisher, key: str, *lines: str) -> dict[str, Any]:
    return look_up(publisher.job("\n".join(('kind = "redis"', *lines))).job, key)[1]


@pytest.fixture
def client(redis_url: str, redis_server: RedisServer) -> Any:
    """A client of an empty server with its default settings."""
    with redis_server.client() as found:
        yield found
        found.config_set("maxmemory", 0)
        found.config_set("maxmemory-policy", "noeviction")


@pytest.mark.parametrize("form", ["packed", "msgpack", "json"])
def test_value_is_read_as_it_was_predicted(publisher: Publisher, client: Any, form: str) -> None:
    record = publisher.day(DAYS[0], labels=[0, 1, 0, 1, 1], probabilities=[0.5, 0.625, 0.75, 0.875, 1.0])
    assert sent(publisher, record, f'format = "{form}"') is None
    expected = {"prediction": 1, "prediction_proba": 0.875, "prob_class_0": 0.5, "prob_class_1": 0.5}
    assert served(publisher, "u3", f'format = "{form}"') == expected


def test_packed_lists_are_fixed_numbers(publisher: Publisher, client: Any) -> None:
    record = publisher.day(DAYS[0])
    columns = 'columns = { items = "[prediction, 7]::UINTEGER[]", score = "prediction_proba", many = "[true]" }'
    assert sent(publisher, record, 'format = "packed"', columns) is None
    assert redis_generation.shown(_raw(client), PREFIX)["layout"] == "<2If1?"
    assert served(publisher, "u1", 'format = "packed"', columns) == {"items": [1, 7], "score": 0.75, "many": [True]}


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ('["id"]', "cannot be packed(?s:.*)UINTEGER"),
        ('{ x = "range(prediction)" }', "lists of 0 to 1 values"),
        ('{ x = "nullif(prediction, 1)" }', "2 rows with NULL"),
        ('["predictoin"]', "did you mean 'prediction'"),
        ("{ x = \"(SELECT 1 FROM '/etc/passwd')\" }", "are not columns"),
        ('{ x = "1, 2" }', "are not columns"),
    ],
)
def test_columns_that_cannot_be_packed_are_refused(
    publisher: Publisher, client: Any, columns: str, problem: str
) -> None:
    error = sent(publisher, publisher.day(DAYS[0]), 'format = "packed"', f"columns = {columns}")
    assert isinstance(error, JobError)
    with pytest.raises(JobError, match=problem):
        raise error
    assert not client.keys("*:{*")


def test_json_writes_what_has_no_number_as_null(publisher: Publisher, client: Any) -> None:
    columns = 'columns = { bad = "\'nan\'::DOUBLE", text = "id || \'}\\"\'" }'
    assert sent(publisher, publisher.day(DAYS[0]), columns) is None
    assert served(publisher, "u1", columns) == {"bad": None, "text": 'u1}"'}


def test_json_writes_what_has_no_number_within_a_list_as_null(publisher: Publisher, client: Any) -> None:
    nan = "CAST('nan' AS DOUBLE)"
    array = f"CAST([0.5, {nan}] AS FLOAT[2])"
    columns = f'columns = {{ flat = "[1.5, {nan}]", deep = "[[2.5], [{nan}, NULL]]", item = "{array}" }}'
    assert sent(publisher, publisher.day(DAYS[0]), columns) is None
    pointer = redis_generation.shown(_raw(client), PREFIX)
    text = client.get(f"{PREFIX}:{pointer['generation']}:{{u0}}")
    assert json.loads(text, parse_constant=pytest.fail) == {
        "flat": [1.5, None], "deep": [[2.5], [None, None]], "item": [0.5, None]
    }  # fmt: skip
    struct = f'columns = {{ pair = "{{score: {nan}}}" }}'
    assert isinstance(sent(publisher, publisher.day(DAYS[1]), struct), JobError)
    assert sent(publisher, publisher.day(DAYS[2]), struct, 'format = "msgpack"') is None


def test_where_chooses_the_rows(publisher: Publisher, client: Any) -> None:
    record = publisher.day(DAYS[0], labels=[0, 1, 0, 1, 1])
    assert sent(publisher, record, "where = \"prediction = 1 AND id <> 'u4'\"") is None
    assert redis_generation.shown(_raw(client), PREFIX)["rows"] == "2"
    assert len(client.keys("*:{*")) == 2


@pytest.mark.parametrize(
    "where",
    [
        "nonsense = 1",
        "1 = 1) OR (1 = 1",
        "true; DROP TABLE x",
        "EXISTS (FROM '/etc/passwd')",
        "id IN (SELECT id FROM parts)",
    ],
)
def test_where_that_is_no_condition_is_refused(publisher: Publisher, client: Any, where: str) -> None:
    error = sent(publisher, publisher.day(DAYS[0]), f'where = """{where}"""')
    assert isinstance(error, JobError)
    assert "`where` of the target 't0' is not a condition" in str(error)


def test_revised_and_withdrawn_rows_are_sent_as_the_views_show_them(publisher: Publisher, client: Any) -> None:
    first = publisher.day(DAYS[0], rows=3, labels=[0, 0, 0])
    partition = Partition.of(first)
    rows: dict[str, Any] = {"run": "r2", "ds": DAYS[0], "revision": 1}
    lakes.add_part(publisher.lake, partition, lakes.prediction_rows({"id": ["u0"]}, labels=[1], **rows))
    marked = lakes.prediction_rows({"id": ["u1"]}, labels=[0], **rows, reason="withdrawn")
    part = lakes.add_part(publisher.lake, partition, marked)
    second = lakes.add_run(publisher.lake, partition, number=1, scored=1, committed=[part])
    assert sent(publisher, second) is None
    assert redis_generation.shown(_raw(client), PREFIX)["rows"] == "2"
    assert (served(publisher, "u0")["prediction"], served(publisher, "u2")["prediction"]) == (1, 0)
    with pytest.raises(LakescoreError, match="nothing for the key 'u1'"):
        served(publisher, "u1")


# Who publishes


def test_another_lake_with_the_same_job_is_refused(publisher: Publisher, client: Any, tmp_path: Path) -> None:
    assert sent(publisher, publisher.day(DAYS[0])) is None
    other = Publisher(tmp_path / "other", lakes.open_lake(tmp_path / "other" / "lake"))
    error = sent(other, other.day(DAYS[1]))
    assert isinstance(error, DeliveryRefused)
    assert "another lake, job or target publishes to the same keys" in str(error)
    assert publisher.lake.identity() in str(error)
    assert "`prefix`" in str(error)
    assert redis_generation.shown(_raw(client), PREFIX)["ds"] == DAYS[0]
    assert sent(other, other.day(DAYS[2]), 'prefix = "other"') is None


def test_pointer_without_a_lake_is_read_and_replaced(publisher: Publisher, client: Any) -> None:
    assert sent(publisher, publisher.day(DAYS[0])) is None
    client.hdel(f"{PREFIX}:current", "lake")  # as earlier versions wrote it
    assert served(publisher, "u1")["prediction"] == 1
    assert sent(publisher, publisher.day(DAYS[1])) is None
    assert redis_generation.shown(_raw(client), PREFIX)["lake"] == publisher.lake.identity()


# Memory


def test_server_that_may_evict_keys_is_refused(publisher: Publisher, client: Any) -> None:
    client.config_set("maxmemory", "100mb")
    client.config_set("maxmemory-policy", "allkeys-lru")
    error = sent(publisher, publisher.day(DAYS[0]))
    assert isinstance(error, DeliveryRefused)
    assert "may evict keys" in str(error)
    assert not client.keys("*:{*")
    assert sent(publisher, publisher.day(DAYS[1]), "check_memory = false") is None
    client.config_set("maxmemory-policy", "volatile-lru")
    assert sent(publisher, publisher.day(DAYS[2])) is None
    assert isinstance(sent(publisher, publisher.day("2026-01-04"), 'ttl = "7d"'), DeliveryRefused)


@pytest.mark.parametrize("missing", ["maxmemory", "maxmemory_policy", "used_memory"])
def test_server_that_does_not_tell_its_memory_is_written_to_with_a_warning(
    publisher: Publisher, client: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, missing: str
) -> None:
    real = redis.Redis.info

    def info(self: Any, section: str | None = None) -> dict[str, Any]:
        return {name: value for name, value in real(self, section).items() if name != missing}

    monkeypatch.setattr(redis.Redis, "info", info)
    assert sent(publisher, publisher.day(DAYS[0])) is None
    assert f"does not tell {missing}: whether it has room" in caplog.text


def test_second_generation_that_does_not_fit_is_refused_before_it_is_written(publisher: Publisher, client: Any) -> None:
    assert sent(publisher, publisher.day(DAYS[0])) is None
    client.config_set("maxmemory", client.info("memory")["used_memory"] + 100_000)
    error = sent(publisher, publisher.day(DAYS[1], rows=5_000))
    assert isinstance(error, DeliveryFailed)
    assert "no room for a second generation" in str(error)
    assert len(client.keys("*:{*")) == 5


def test_server_that_gets_full_keeps_the_generation_before(publisher: Publisher, client: Any) -> None:
    first, second = publisher.day(DAYS[0]), publisher.day(DAYS[1], rows=20_000)
    assert sent(publisher, first) is None
    client.config_set("maxmemory", client.info("memory")["used_memory"] + 1_000_000)
    error = sent(publisher, second, "check_memory = false")
    assert isinstance(error, DeliveryFailed)
    assert "Redis is full" in str(error)
    assert redis_generation.shown(_raw(client), PREFIX)["ds"] == DAYS[0]
    assert len(client.keys("*:{*")) == 5
    client.config_set("maxmemory", 0)
    assert sent(publisher, second, "check_memory = false") is None
    assert len(client.keys("*:{*")) == 20_000


@pytest.mark.parametrize(
    ("put_in", "put_out"),
    [
        ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
        ("CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0"),
        ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
    ],
)
def test_server_that_takes_no_writes_for_a_while_is_tried_again_and_no_row_is_shown(
    client: Any, put_in: str, put_out: str
) -> None:
    """After a failover, say: in the middle of a generation, where the client quotes the command that failed."""
    writer = Generation(_raw(client), PREFIX, "2026-01-01/1")
    client.execute_command(put_in)
    try:
        with pytest.raises(redis.RedisError) as caught:
            writer.write([b"{customer-4711}"], [b"0.93"], None)
    finally:
        client.execute_command(put_out)
    error = translated(caught.value, "redis://127.0.0.1")
    assert isinstance(error, DeliveryFailed)
    assert "customer-4711" not in str(error)
    assert "0.93" not in str(error)


# Writers that meet


def _raw(client: Any) -> Any:
    return redis.Redis(port=client.get_connection_kwargs()["port"])


def generation(client: Any, order: str, name: str) -> Generation:
    return Generation(_raw(client), PREFIX, order, name=name)


def test_writer_that_was_overtaken_can_show_nothing(client: Any) -> None:
    slow, fast = generation(client, "2", "slow"), generation(client, "2", "fast")
    slow.claim()
    slow.write([slow.head() + b"a}"], [b"old"], None)
    fast.claim()
    fast.remove_left()
    assert not client.keys("*slow*")
    with pytest.raises(redis_generation.Fenced):
        slow.write([slow.head() + b"b}"], [b"old"], None)
    with pytest.raises(redis_generation.Fenced):
        slow.flip({}, None)
    fast.flip({"rows": "0"}, None)
    fast.flip({"rows": "0"}, None)  # an answer that was lost
    slow.abandon()
    assert client.hgetall(f"{PREFIX}:current") == {"generation": "fast", "order": "2", "rows": "0"}
    assert client.keys("*") == [f"{PREFIX}:current"]


def test_older_generation_is_refused_at_the_claim_and_at_the_flip(client: Any) -> None:
    old, new, older = generation(client, "1", "old"), generation(client, "2", "new"), generation(client, "0", "older")
    old.claim()
    new.claim()
    new.flip({}, None)
    with pytest.raises(redis_generation.Older):
        older.claim()
    client.hset(f"{PREFIX}:current", "writer", "old")
    with pytest.raises(redis_generation.Older):
        old.flip({}, None)
    old.replaces_newer = True
    old.flip({}, None)
    assert client.hget(f"{PREFIX}:current", "generation") == "old"


def test_abandoned_generation_that_is_shown_stays(client: Any) -> None:
    shown = generation(client, "1", "shown")
    shown.claim()
    shown.write([shown.head() + b"a}"], [b"x"], None)
    shown.flip({"rows": "1"}, None)
    shown.abandon()
    assert client.keys("*shown*") == [f"{PREFIX}:shown:{{a}}"]


def test_keys_that_vanish_before_they_are_counted_are_not_shown(
    publisher: Publisher, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = Generation.count

    def after_a_loss(self: Generation, slices: Any) -> int:
        client.delete(self.head().decode() + "u3}")
        return count(self, slices)

    monkeypatch.setattr(Generation, "count", after_a_loss)
    error = sent(publisher, publisher.day(DAYS[0]))
    assert isinstance(error, DeliveryFailed)
    assert "5 written, 4 found again" in str(error)
    assert not client.keys("*:{*")


def test_publisher_that_was_overtaken_says_so(
    publisher: Publisher, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def taken(self: Generation, slices: Any) -> int:
        client.hset(self.pointer, "writer", "another")
        return 5

    monkeypatch.setattr(Generation, "count", taken)
    error = sent(publisher, publisher.day(DAYS[0]))
    assert isinstance(error, CommitConflict)
    assert "another process has begun to publish" in str(error)


def test_older_period_is_held_even_if_the_lake_does_not_know_the_newer_one(publisher: Publisher, client: Any) -> None:
    old, new = publisher.day(DAYS[0]), publisher.day(DAYS[1])
    assert sent(publisher, new) is None
    for file in publisher.lake.storage.files("deliveries"):
        publisher.lake.storage.delete(file.path)
    assert sent(publisher, old) is None
    (delivery,) = DeliveryStore(publisher.lake).of("churn")
    assert delivery.state is DeliveryState.held
    assert DAYS[1] in str(delivery.reason)
    assert redis_generation.shown(_raw(client), PREFIX)["ds"] == DAYS[1]


# Time to live


def test_ttl_lets_the_pointer_vanish_before_its_keys(publisher: Publisher, client: Any) -> None:
    assert sent(publisher, publisher.day(DAYS[0]), 'ttl = "7d"') is None
    pointer, key = client.ttl(f"{PREFIX}:current"), client.ttl(client.keys("*:{u1}")[0])
    assert 7 * 86_400 - 60 <= pointer < key <= 7 * 86_400 + 60
    assert sent(publisher, publisher.day(DAYS[1])) is None
    assert client.ttl(f"{PREFIX}:current") == -1


def test_keys_of_another_job_or_target_are_refused(publisher: Publisher, client: Any) -> None:
    record = publisher.day(DAYS[0])
    two = ['kind = "redis"\nprefix = "shared"'] * 2
    done = deliver_all(publisher.job(*two), record)
    assert list(done.errors) == ["t1"]
    assert isinstance(done.error, DeliveryRefused)
    assert "job churn, target t1" in str(done.error)
    assert redis_generation.shown(_raw(client), "shared")["target"] == "t0"
    assert len(client.keys("*:{*")) == 5


def test_key_with_two_current_predictions_is_not_sent(publisher: Publisher, client: Any) -> None:
    first = publisher.day(DAYS[0], rows=2)
    partition = Partition.of(first)
    twice = lakes.prediction_rows({"id": ["u1"]}, run="r2", ds=DAYS[0])
    part = lakes.add_part(publisher.lake, partition, twice)
    error = sent(publisher, lakes.add_run(publisher.lake, partition, number=1, scored=1, committed=[part]))
    assert "1 key has more than one current prediction" in str(error)
    assert not client.keys("*")
