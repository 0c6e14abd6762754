"""The views `exports` and `flags`, and what a rollback does to them, to files and to people."""

from __future__ import annotations

import dataclasses
import json
import uuid
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.care.erase import erase
from pipeline.database.sql_files import find
from pipeline.publish.delivery import DeliveryState
from pipeline.query.catalog import write_catalog
from pipeline.query.running import bind_parameters, run_query
from tests import lakes
from tests.calling import Cli
from tests.orchestration.receivers import web_hook
from tests.publish.drop import DAYS, Drop
from tests.publish.test_export_sender import withdrawn
from tests.s3 import BUCKET, S3Server
from tests.workspace import DAY, Workspace, table

EXPORTS = "SELECT ds, key_text, export_group, export_rank, campaign FROM exports ORDER BY ALL"
FLAGS = "SELECT ds, case_id, key_text, status, alert FROM flags ORDER BY ALL"


@pytest.fixture
def drop(tmp_path: Path) -> Drop:
    return Drop(tmp_path)


def test_views_without_any_delivery_are_empty(drop: Drop) -> None:
    drop.day({"a": 0.5})
    assert drop.ask(EXPORTS) == drop.ask(FLAGS) == []


def test_exports_show_the_last_export_of_a_day_that_was_not_withdrawn(drop: Drop) -> None:
    drop.job('score = "prediction_proba"\nholdout = { campaign = "x", share = 0.5 }')
    first = drop.send({number: 0.5 + number / 100 for number in range(8)})
    rows = drop.ask(EXPORTS)
    assert [row[1] for row in sorted(rows, key=lambda row: row[3])] == [*"76543210"]
    assert {row[2] for row in rows} == {"target", "holdout"}
    assert {row[4] for row in rows} == {"x"}
    second = drop.send({0: 0.9}, number=1, revision=1)
    assert len(drop.ask(EXPORTS)) == 8
    assert drop.ask("SELECT DISTINCT run_id FROM exports") == [(second.run_id,)]
    withdrawn(drop, second.run_id, DAYS[0])
    assert drop.ask("SELECT DISTINCT run_id FROM exports") == [(first.run_id,)]


def test_campaign_lift_compares_outcomes_of_those_sent_and_held_out(drop: Drop) -> None:
    drop.job('holdout = { campaign = "x", share = 0.5 }')
    drop.send(dict.fromkeys(range(400), 0.5))
    group = dict(drop.ask("SELECT key_text::INTEGER, export_group FROM exports"))
    sent = [key for key, which in group.items() if which == "target"]
    held = [key for key, which in group.items() if which == "holdout"]
    good = {*sent[:30], *held[:10]}
    known = [*sent[:100], *held[:50]]
    labels = pa.table({"id": known, "label": [str(int(key in good)) for key in known]})
    lakes.write_parquet(drop.root / f"lake/labels/job=churn/ds={DAYS[0]}/a.parquet", labels)
    named = find("campaign_lift")
    with run_query(drop.lake, named.text, bind_parameters(named, {})) as result, result.stream() as (_, batches):
        ((*about, sent_rows, sent_rate, held_rows, held_rate, lift, margin),) = [
            tuple(row.values()) for batch in batches for row in batch.to_pylist()
        ]
    assert about == ["churn", "spring", "x", DAYS[0]]
    assert (sent_rows, held_rows) == (100, 50)
    assert (sent_rate, held_rate, lift) == (0.3, 0.2, pytest.approx(0.1))
    assert margin == pytest.approx(1.96 * (0.3 * 0.7 / 100 + 0.2 * 0.8 / 50) ** 0.5)


def test_flags_show_each_day(drop: Drop) -> None:
    drop.job("enter = 0.9\nleave = 0.5", kind="flags")
    drop.send({"a": 0.95, "b": 0.1})
    drop.send({"a": 0.4, "b": 0.92}, DAYS[1])
    assert drop.ask(FLAGS) == [
        (DAYS[0], "a", "a", "entered", "sent"),
        (DAYS[1], "a", "a", "left", "earlier"),
        (DAYS[1], "b", "b", "entered", "sent"),
    ]


def test_catalog_shows_deliveries_that_are_made_later(drop: Drop) -> None:
    drop.job("enter = 0.9", kind="flags")
    drop.send({"a": 0.95})
    path = write_catalog(drop.lake, drop.context.job)
    drop.send({"a": 0.95}, DAYS[1])
    with duckdb.connect(str(path), read_only=True) as con:
        assert con.sql(FLAGS).fetchall() == drop.ask(FLAGS)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Apprise imports what Python deprecates
def test_rollback_withdraws_files_exports_what_is_current_and_tells_people(
    workspace: Workspace, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (workspace.job() / "job.toml").open("a") as toml:
        toml.write(
            f'[[publish]]\nname = "spring"\nkind = "export"\nto = "{workspace.root}/drop"\nchanges = true\n'
            'announce.apprise = ["HOOK"]\n'
            '[[publish]]\nname = "high"\nkind = "flags"\nscore = "prediction_proba"\nenter = 0.0\n'
            'announce.apprise = ["HOOK"]\n'
        )
    current = workspace.root / "drop/toy/spring/current.json"
    with web_hook() as hook:
        monkeypatch.setenv("HOOK", hook.url)
        workspace.day(pa.table({"id": ["a", "b"], "a": [1.0, 2.0], "b": [1.0, 1.0]}))
        first = workspace.complete()
        workspace.day(pa.table({"id": ["a", "b", "c"], "a": [1.0, 2.0, 3.0], "b": [1.0, 1.0, 1.0]}))
        second = workspace.complete()
        assert json.loads(current.read_text())["run_id"] == second.run_id
        workspace.run()
        cli("rollback", second.run_id)
        cli("rollback", second.run_id)
        cli("publish", "--date", DAY, "--job", "toy")
    manifest = json.loads(current.read_text())
    assert (manifest["state"], manifest["run_id"], manifest["sent"]) == ("complete", first.run_id, 2)
    assert [each["rows"] for each in manifest["files"] if each["what"] == "removed"] == [1]
    states = {path.parent.name.partition(".")[0]: json.loads(path.read_text())["state"] for path in
              (workspace.root / "drop/toy/spring" / DAY).rglob("manifest.json")}  # fmt: skip
    assert states == {first.run_id: "complete", second.run_id: "withdrawn"}
    assert [each["title"] for each in hook.received] == [
        f"spring {DAY}: 2 rows",
        f"high {DAY}: 2 new cases",
        f"spring {DAY}: 3 rows",
        f"high {DAY}: 1 new case",
        f"spring {DAY}: withdrawn",
        f"high {DAY}: withdrawn",
        f"spring {DAY}: 2 rows",
    ]
    assert workspace.ask("SELECT DISTINCT target, run_id FROM exports") == [("spring", first.run_id)]
    assert {row[0] for row in workspace.ask("SELECT case_id FROM flags")} == {"a", "b"}
    found = workspace.ask("SELECT target, state FROM deliveries ORDER BY run_id, target")
    assert found == [(target, state) for state in (DeliveryState.delivered, DeliveryState.withdrawn)
                     for target in ("high", "spring")]  # fmt: skip


@pytest.mark.slow
def test_lake_in_an_object_store_exports_flags_and_erases(workspace: Workspace, s3: S3Server) -> None:
    """The export goes to a disk, the lists and tables are in the store."""
    root = f"s3://{BUCKET}/{uuid.uuid4().hex}/lake"
    workspace.settings = dataclasses.replace(workspace.settings, lake=root)
    with (workspace.job() / "job.toml").open("a") as toml:
        toml.write(
            f'[[publish]]\nname = "spring"\nkind = "export"\nto = "{workspace.root}/drop"\nchanges = true\n'
            'suppress = [{ name = "out", path = "lists/*.csv", max_age = "1h" }]\n'
            '[[publish]]\nname = "kept"\nkind = "export"\nformat = "parquet"\n'
            '[[publish]]\nname = "high"\nkind = "flags"\nscore = "prediction_proba"\nenter = 0.0\n'
        )
    context = workspace.context()
    storage = context.lake.storage
    storage.write("lists/out.csv", b"id\nu1\n")
    pq.write_table(table(4), workspace.root / "a.parquet")
    storage.create(f"unscored/ds={DAY}/a.parquet", workspace.root / "a.parquet")
    record = workspace.complete()
    assert record.warnings == ()
    current = json.loads((workspace.root / "drop/toy/spring/current.json").read_text())
    assert (current["sent"], current["suppressed"][0]["removed"]) == (3, 1)

    def found(query: str) -> list[object]:
        with run_query(context.lake, query) as result, result.stream() as (_, batches):
            return [value for batch in batches for row in batch.to_pylist() for value in row.values()]

    assert found("SELECT count(*) FROM exports GROUP BY target ORDER BY 1") == [3, 4]
    assert found("SELECT case_id FROM flags ORDER BY 1") == ["u0", "u1", "u2", "u3"]
    kept = json.loads(storage.read("handed_over/toy/kept/current.json") or b"{}")
    assert [file["rows"] for file in kept["files"]] == [4]
    erase(context.lake, context.job, "u2")
    assert found("SELECT count(*) FROM exports WHERE key_text = 'u2'") == [0]
    assert found("SELECT case_id FROM flags ORDER BY 1") == ["u0", "u1", "u3"]
    assert [file.path.rpartition("/")[2] for file in storage.files("handed_over/toy/kept")] == [
        "manifest.json",
        "current.json",
    ]
