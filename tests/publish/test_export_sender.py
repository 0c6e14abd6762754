"""Exports: files, manifest, changes, what the lake keeps, withdrawal."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.errors import DeliveryFailed, DeliveryRefused, JobError, StorageUnavailable
from pipeline.job.targets import ExportTarget
from pipeline.publish.delivery import DeliveryState, DeliveryStore
from pipeline.publish.export_sender import ExportSender
from pipeline.records import State
from pipeline.storage import open_storage
from pipeline.storage.parquet import read_metadata
from tests import lakes
from tests.publish.drop import DAYS, Drop
from tests.s3 import BUCKET, S3Server

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def drop(tmp_path: Path) -> Drop:
    return Drop(tmp_path)


def test_export_has_the_highest_and_a_manifest_and_sending_it_again_changes_nothing(drop: Drop) -> None:
    drop.job('score = "prediction_proba"\ntop = 2')
    record = drop.day({"a": 0.5, "b": 0.9, "c": 0.75, "d": 0.75})
    delivery = drop.publish(record)
    assert drop.path().read_text().splitlines() == [
        '"id","prediction","prediction_proba","prob_class_0","prob_class_1","export_rank"',
        '"b",1,0.9,0.5,0.5,1',
        '"c",0,0.75,0.5,0.5,2',
    ]
    manifest = drop.current
    assert (manifest["state"], manifest["run_id"], manifest["ds"]) == ("complete", record.run_id, DAYS[0])
    assert (manifest["model_version"], manifest["model_digest"]) == ("v1", "digest-of-v1")
    assert (manifest["candidates"], manifest["sent"], manifest["digest"]) == (4, 2, delivery.digest)
    folder = drop.root / "drop/churn/spring" / manifest.pop("folder")
    assert json.loads((folder / "manifest.json").read_text()) == manifest
    before = drop.files()
    assert drop.publish(record).attempts == 1
    assert drop.files() == before


def test_files_are_the_same_whatever_the_threads(drop: Drop) -> None:
    scores = {f"k{number}": number * 7919 % 601 / 601 for number in range(4000)}
    limits = 'score = "prediction_proba"\nshare = 0.4\nholdout = { campaign = "x", share = 0.1 }'
    record = drop.day(scores)
    digests = set()
    for threads in (1, 3):
        drop.job(limits, more=f"[engine]\nthreads = {threads}")
        digests.add(drop.publish(record, replace_newer=True).digest)
    assert len(digests) == 1
    assert drop.read().num_rows + drop.read("holdout").num_rows == 1600


def test_changes_are_those_since_the_last_export(drop: Drop) -> None:
    drop.job('columns = ["id", "prediction_proba"]\nscore = "prediction_proba"\nchanges = true')
    drop.send({"a": 0.5, "b": 0.6, "c": 0.7})
    assert (drop.keys("added"), drop.current["changes_since"]) == (["c", "b", "a"], None)
    drop.send({"a": 0.5, "b": 0.9, "d": 0.7}, DAYS[1])
    assert {what: drop.keys(what) for what in ("rows", "added", "changed", "removed")} == {
        "rows": ["b", "d", "a"],
        "added": ["d"],
        "changed": ["b"],
        "removed": ["c"],
    }
    assert drop.current["changes_since"]["ds"] == DAYS[0]


def test_changes_of_an_export_that_is_repeated_are_the_same(drop: Drop) -> None:
    drop.job("changes = true")
    drop.send({"a": 0.5})
    record = drop.day({"a": 0.5, "b": 0.5}, DAYS[1])
    first = drop.publish(record)
    assert drop.publish(record, replace_newer=True).digest == first.digest
    assert drop.keys("added") == ["b"]


def test_changes_after_a_withdrawal_are_relative_to_what_the_receiver_has(drop: Drop) -> None:
    drop.job("changes = true")
    first = drop.day({"a": 0.5})
    drop.publish(first)
    second = drop.send({"a": 0.5, "b": 0.5}, DAYS[1])
    withdrawn(drop, second.run_id, DAYS[1])
    drop.publish(first)
    assert (drop.current["run_id"], drop.keys("removed"), drop.keys("added")) == (first.run_id, ["b"], [])


def withdrawn(drop: Drop, run_id: str, ds: str) -> None:
    """Does what a rollback does to deliveries."""
    record = drop.lake.records.read("churn", ds, run_id)
    (target,) = drop.context.job.publish
    assert isinstance(target, ExportTarget)
    store = DeliveryStore(drop.lake)
    (delivery,) = store.of_run(record)
    ExportSender().withdraw(drop.context, target, delivery, None)
    store.change(record, target, "export", lambda stored: stored.with_(state=DeliveryState.withdrawn))
    lakes.put_record(drop.lake, record.with_(state=State.rolled_back))


def test_withdrawn_export_says_so_in_both_manifests(drop: Drop) -> None:
    drop.job()
    delivery = drop.send({"a": 0.5})
    withdrawn(drop, delivery.run_id, DAYS[0])
    folder = drop.root / "drop/churn/spring" / drop.current["folder"]
    for manifest in (drop.current, json.loads((folder / "manifest.json").read_text())):
        assert (manifest["state"], manifest["reason"]) == ("withdrawn", f"run {delivery.run_id} was rolled back")
    assert drop.path().read_text().count("\n") == 2


def test_withdrawn_export_that_is_not_current_leaves_the_current_one(drop: Drop) -> None:
    drop.job()
    older = drop.send({"a": 0.5})
    drop.send({"a": 0.6}, DAYS[1])
    withdrawn(drop, older.run_id, DAYS[0])
    assert (drop.current["state"], drop.current["ds"]) == ("complete", DAYS[1])


def test_parquet_names_run_and_model_in_its_metadata(drop: Drop) -> None:
    drop.job('format = "parquet"\nholdout = { campaign = "spring", share = 0.5 }')
    record = drop.day(dict.fromkeys(range(40), 0.5))
    drop.publish(record)
    metadata = read_metadata(drop.path())
    assert (metadata["run_id"], metadata["model_digest"], metadata["ds"]) == (record.run_id, "digest-of-v1", DAYS[0])
    held, sent = set(drop.keys("holdout")), set(drop.keys())
    assert held
    assert sent
    assert (held & sent, len(held | sent)) == (set(), 40)
    assert set(drop.read("holdout").column("export_group").to_pylist()) == {"holdout"}


def test_json_lines_have_an_object_per_row(drop: Drop) -> None:
    drop.job('format = "jsonl"\ncolumns = ["id", "prediction_proba"]')
    drop.send({"a": 0.5, "b": float("nan")})
    lines = [json.loads(line) for line in drop.path().read_text().splitlines()]
    assert lines == [{"id": "a", "prediction_proba": 0.5}, {"id": "b", "prediction_proba": None}]


def test_spreadsheet_safe_changes_texts_but_no_key(drop: Drop) -> None:
    drop.job("spreadsheet_safe = true", carry='["note"]')
    drop.send({"u1": 0.5}, carry={"note": ["=1+1"]})
    assert drop.read().column("note").to_pylist() == ["'=1+1"]
    with pytest.raises(DeliveryRefused, match="a key looks like a formula"):
        drop.send({"=u1": 0.5}, DAYS[1], carry={"note": ["x"]})
    assert drop.current["ds"] == DAYS[0]


def test_export_that_is_refused_leaves_nothing_behind(drop: Drop) -> None:
    drop.job('suppress = [{ name = "out", path = "lists/out.csv", max_age = "30d" }]')
    record = drop.day({"u1": 0.5, "u2": 0.5})
    with pytest.raises(DeliveryFailed, match="suppression list out: it is missing"):
        drop.publish(record)
    assert drop.files() == {}
    (drop.root / "lake/lists").mkdir()
    (drop.root / "lake/lists/out.csv").write_text("id\nu1\n")
    assert drop.publish(record).rows == 1
    assert drop.keys() == ["u2"]
    assert drop.current["suppressed"][0]["removed"] == 1


def test_export_that_failed_midway_shows_no_manifest(drop: Drop, monkeypatch: pytest.MonkeyPatch) -> None:
    drop.job('holdout = { campaign = "x", share = 0.5 }')
    record = drop.day(dict.fromkeys(range(30), 0.5))

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipeline.publish.manifest.Place.show", fail)
    with pytest.raises(StorageUnavailable, match="the disk is full"):
        drop.publish(record)
    assert not [name for name in drop.files() if name.endswith(".json")]
    assert not list((drop.root / "drop/.writing").iterdir())
    monkeypatch.undo()
    drop.publish(record)
    assert len(drop.files()) == 4


def test_place_within_the_lake_is_refused(drop: Drop) -> None:
    (drop.root / "link").symlink_to(drop.root / "lake")
    record = drop.day({"a": 0.5})
    for to in (f"{drop.root}/lake/x", f"{drop.root}/link/x"):
        drop.job(to=to)
        with pytest.raises(JobError, match="writes into the lake"):
            drop.publish(record)


def test_export_without_a_place_lies_in_the_lake(drop: Drop) -> None:
    drop.job(to="")
    delivery = drop.send({"a": 0.5})
    assert delivery.place.startswith(f"{drop.root}/lake/handed_over/churn/spring/{DAYS[0]}/")
    assert (Path(delivery.place) / "manifest.json").is_file()


def test_export_into_an_object_store(drop: Drop, s3: S3Server) -> None:
    drop.job(to=f"s3://{BUCKET}/drop")
    delivery = drop.send({"a": 0.5})
    storage = open_storage(f"s3://{BUCKET}/drop")
    manifest = json.loads(storage.read("churn/spring/current.json") or b"{}")
    content = storage.read(f"churn/spring/{manifest['folder']}/spring.csv") or b""
    assert content.decode().splitlines()[1].startswith('"a"')
    assert delivery.place == f"s3://{BUCKET}/drop/churn/spring/{manifest['folder']}"


def test_older_day_is_held_and_readers_keep_the_newer_one_unless_a_person_asks(drop: Drop) -> None:
    drop.job()
    drop.send({"a": 0.6}, DAYS[1])
    before = drop.files()
    older = drop.day({"a": 0.5})
    assert drop.publish(older).state is DeliveryState.held
    assert drop.files() == before
    assert drop.publish(older, replace_newer=True).state is DeliveryState.delivered
    assert drop.current["ds"] == DAYS[0]


def test_newer_day_that_failed_when_it_was_sent_again_still_holds_an_older_one(drop: Drop) -> None:
    drop.job()
    newer, older = drop.day({"a": 0.6}, DAYS[1]), drop.day({"a": 0.5})
    drop.publish(newer)
    drop.job('score = "nothing"')
    with pytest.raises(JobError, match="names 'nothing'"):
        drop.publish(newer)
    drop.job()
    held = drop.publish(older)
    assert (held.state, held.reason) == (DeliveryState.held, f"{DAYS[1]}, a newer period, was delivered before")
    assert drop.ask("SELECT DISTINCT ds FROM exports") == [(DAYS[1],)]


def test_newer_day_whose_delivery_was_not_recorded_holds_an_older_one(drop: Drop) -> None:
    drop.job()
    newer, older = drop.day({"a": 0.6}, DAYS[1]), drop.day({"a": 0.5})
    drop.publish(newer)
    for file in drop.lake.storage.files("deliveries"):
        drop.lake.storage.delete(file.path)
    held = drop.publish(older)
    assert (held.state, held.reason) == (DeliveryState.held, f"{DAYS[1]}, a newer period, was exported before")
    assert drop.current["ds"] == DAYS[1]


PUBLISHER = """
import os, signal, sys
from pathlib import Path
from pipeline.storage import LocalStorage
from tests.publish.drop import Drop

drop, ds, left = Drop(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3])


def dying(method):
    def call(*arguments):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return method(*arguments)

    return call


for name in ("replace", "write", "update"):
    setattr(LocalStorage, name, dying(getattr(LocalStorage, name)))
drop.publish(drop.lake.records.last_complete("churn", ds))
"""


@pytest.mark.slow
def test_export_killed_before_any_write_shows_readers_complete_files_alone(drop: Drop) -> None:
    """A reader polls throughout; each attempt to export the second day is killed one write later than the last."""
    drop.job('changes = true\nholdout = { campaign = "x", share = 0.1 }')
    records = [drop.day({f"k{n}": (n + day) % 7 / 7 for n in range(3000)}, DAYS[day]) for day in (0, 1)]
    drop.publish(records[0])
    over, seen = threading.Event(), list[str]()

    def poll() -> None:
        while not over.is_set():
            manifest = drop.current
            folder = drop.root / "drop/churn/spring" / manifest["folder"]
            for file in manifest["files"]:
                content = (folder / file["name"]).read_bytes()
                assert hashlib.sha256(content).hexdigest() == file["sha256"]
            seen.append(manifest["ds"])

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(poll)
        try:
            for writes in range(30):
                command = [sys.executable, "-c", PUBLISHER, str(drop.root), DAYS[1], str(writes)]
                ended = subprocess.run(command, cwd=ROOT, check=False).returncode
                assert ended in (0, -signal.SIGKILL)
                if ended == 0:
                    break
        finally:
            over.set()
        reader.result()
    assert writes >= 9, "the record twice, five files, the table, and both manifests are written"
    assert seen == sorted(seen)
    assert drop.current["ds"] == DAYS[1]
    assert drop.current["sent"] + drop.current["held_out"] == 3000
    folders = list((drop.root / "drop/churn/spring" / DAYS[1]).iterdir())
    assert len(folders) == 1, "every attempt writes the same files"
