"""What works on a disk works on S3: the whole way by the command line, then what only an object store does."""

from __future__ import annotations

import dataclasses
import json
import uuid
from pathlib import Path

import boto3
import pytest

from pipeline.care.rollback import rollback
from pipeline.care.verify import verify
from pipeline.context import Context
from pipeline.demo import train
from pipeline.errors import SchemaMismatch
from pipeline.flow.day import Outcome, run_day
from pipeline.job.loading import find_job
from pipeline.lake.layout import Lake
from pipeline.packaged import resources
from pipeline.query.running import run_query
from pipeline.records import State
from tests.conftest import Lakescore
from tests.s3 import BUCKET, SECRET, S3Server
from tests.workspace import DAY, Workspace, changed, table, write_table

FEATURES = "age,income,tenure_days,num_purchases,avg_transaction_value,days_since_last_purchase"


@pytest.fixture
def url(s3: S3Server) -> str:
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"


def run(workspace: Workspace, url: str) -> Outcome:
    machine = dataclasses.replace(workspace.settings, lake=f"{url}/lake")
    return run_day(Context.open(find_job("toy", machine), machine), DAY)


def keys(url: str) -> list[str]:
    prefix = url.removeprefix(f"s3://{BUCKET}/") + "/"
    found = boto3.resource("s3").Bucket(BUCKET).objects.filter(Prefix=prefix)
    return sorted(each.key.removeprefix(prefix) for each in found)


def day(workspace: Workspace, url: str, rows: object, name: str = "data.parquet") -> None:
    path = workspace.root / "upload.parquet"
    write_table(rows, path)
    Lake.open(f"{url}/lake").storage.replace(f"unscored/ds={DAY}/{name}", path)


@pytest.mark.slow
def test_text_is_imported_from_the_bucket_and_errors_name_its_objects(
    workspace: Workspace, url: str, tmp_path: Path
) -> None:
    toml = workspace.job(reads='format = "csv"') / "job.toml"
    toml.write_text(toml.read_text().replace("unscored/ds={ds}/*.parquet", "unscored/{ds}/*.csv"))
    lake = Lake.open(f"{url}/lake")
    lake.storage.write(f"unscored/{DAY}/one.csv", b"id,a,b\nu1,1,2\n")
    lake.storage.write(f"unscored/{DAY}/two.csv", b"id,a,b\nu2,2,x\n")
    with pytest.raises(SchemaMismatch, match="'b' must hold numbers") as error:
        run(workspace, url)
    assert error.value.where == f"{url}/lake/unscored/{DAY}/two.csv, line 2"
    assert not [key for key in keys(url) if key.startswith("lake/imported")]
    lake.storage.write(f"unscored/{DAY}/two.csv", b"id,a,b\nu2,2,3\n")
    assert run(workspace, url).record is not None
    assert run(workspace, url).up_to_date
    assert f"lake/imported/job=toy/ds={DAY}/unscored.parquet" in keys(url)
    with run_query(lake, "SELECT id FROM predictions ORDER BY id") as result, result.stream() as (_, batches):
        assert [row["id"] for batch in batches for row in batch.to_pylist()] == ["u1", "u2"]
    assert not list((tmp_path / "scratch").glob("*/.writing/*"))


@pytest.mark.slow
def test_withdrawn_keys_are_marked_once_taken_back_and_return(workspace: Workspace, url: str) -> None:
    workspace.job(policy='withdrawn = "mark"')
    rows = table(20)
    day(workspace, url, rows)
    run(workspace, url)
    lake = Lake.open(f"{url}/lake")

    def current() -> list[tuple[str, int]]:
        with run_query(lake, "SELECT id, revision FROM predictions") as result, result.stream() as (_, batches):
            return sorted((row["id"], row["revision"]) for batch in batches for row in batch.to_pylist())

    names = rows["id"].to_pylist()
    fewer = rows.slice(0, 18)
    for content, marks in ((fewer, 2), (fewer.take(list(range(17, -1, -1))), 0)):
        day(workspace, url, content)
        record = run(workspace, url).record
        assert record is not None
        assert record.marked.rows == marks
        assert current() == sorted((name, 0) for name in names[:18])
    marked = lake.records.of_day("toy", DAY)[1]
    rollback(lake, marked.run_id)
    assert current() == sorted((name, 0) for name in names)
    run(workspace, url)
    day(workspace, url, rows)
    run(workspace, url)
    assert current() == sorted([*((name, 0) for name in names[:18]), *((name, 2) for name in names[18:])])
    assert list(verify(lake)) == []


@pytest.mark.slow
def test_run_again_changed_and_late_rows_are_scored_once(workspace: Workspace, url: str) -> None:
    rows = table(200)
    day(workspace, url, rows)
    first = run(workspace, url).record
    assert first is not None
    assert first.ledger is not None
    assert first.ledger.scored.rows == 200
    assert run(workspace, url).up_to_date
    day(workspace, url, changed(rows, "a", {0: 9.0, 1: None}))
    day(workspace, url, table({"id": ["late"], "a": [1.0], "b": [1.0]}), "late.parquet")
    second = run(workspace, url).record
    assert second is not None
    assert second.state is State.complete
    assert second.ledger is not None
    counts = second.ledger.counts()
    assert (counts["scored"], counts["unchanged"], counts["quarantined"]) == (2, 198, 1)
    stored = [key for key in keys(url) if "/part-" in key]
    assert stored[0].endswith("/part-00000000.parquet")
    assert not [key for key in keys(url) if ".staging" in key], "each prediction is uploaded once"
    assert not list(Lake.open(f"{url}/lake").workspace.root.rglob("*.parquet")), "staging is cleared away"


@pytest.mark.slow
def test_command_line_all_of_it_works(
    workspace: Workspace, url: str, lakescore: Lakescore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAKESCORE_LAKE", f"{url}/lake")
    monkeypatch.setenv("LAKESCORE_MODELS", f"{url}/models")
    monkeypatch.setenv("LAKESCORE_JOBS", str(resources() / "dags" / "jobs"))
    checkpoint = workspace.root / "trained.pt"
    train(checkpoint)
    register = ["models", "register", checkpoint, "--name", "batch_inference", "--version", "v1"]
    lakescore(*register, "--features", FEATURES, "--alias", "production")
    assert json.loads(lakescore("models", "list", "--json").stdout)[0]["version"] == "v1"
    lakescore("generate", "--date", "2026-01-01", "--rows", 500, "--create")
    csv = Path(workspace.root / "more.csv")
    header = f"id,{FEATURES}\n"
    csv.write_text(header + "".join(f"x{i},30,50000,100,2,35.5,{i}\n" for i in range(50)))
    lakescore("import", csv, "--date", "2026-01-02")
    done = lakescore("run", "--date", "2026-01-01")
    assert SECRET not in done.stdout + done.stderr
    assert done.stderr.count("httpfs cannot be loaded") <= 1
    lakescore("backfill", "--from", "2026-01-01", "--to", "2026-01-02")
    lakescore("import", csv, "--date", "2026-01-02", "--replace")
    assert "up to date" in lakescore("run", "--date", "2026-01-01").stdout
    again = json.loads(lakescore("run", "--date", "2026-01-02", "--json").stdout)
    assert again[0]["state"] == "up to date", "the same rows under the same name have the same tag"
    lakescore("status")
    query = "SELECT ds, count(*) AS n FROM predictions GROUP BY ds ORDER BY ds"
    assert json.loads(lakescore("query", query, "--format", "json").stdout) == [
        {"ds": "2026-01-01", "n": 500},
        {"ds": "2026-01-02", "n": 50},
    ]
    lakescore("catalog")
