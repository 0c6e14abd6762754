"""A day that is scored in buckets has the same results as one that is scored as a whole.

Here the tasks run in a thread of this process, which is fast; `test_engines.py` lets the engines themselves run them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.buckets import stage
from pipeline.buckets.bucket import score_bucket
from pipeline.buckets.splitting import split
from pipeline.care.verify import verify
from pipeline.engines.threads import Threads
from pipeline.errors import LedgerImbalance, QualityStop, SchemaMismatch, StorageUnavailable
from pipeline.model.predictor import Predictor
from pipeline.records import RunRecord
from tests.buckets.days import check_equal, rows_of, same
from tests.workspace import DAY, Workspace, changed, table

ENGINE = '\n[engine]\nname = "processes"\nmin_rows = 1\nbuckets = 5\n'
JOB = """
[model]
name = "toy"

[input]
path = "unscored/ds={{ds}}/*.parquet"
key = ["shop", "id"]
carry = ["c", "d"]

[policy]
max_quarantined = 1.0
{policy}
{engine}
"""
SUITE = {
    "name": "input",
    "expectations": [
        {"type": "expect_column_values_to_be_between", "kwargs": {"column": "extra", "max_value": 900}},
        {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "d"}, "severity": "warning"},
    ],
}


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "open_engine", lambda _ctx: Threads(1))


def bucketed(workspace: Workspace, *, engine: str = ENGINE) -> Workspace:
    path = workspace.settings.jobs / "toy" / "job.toml"
    path.write_text(path.read_text() + engine)
    return workspace


def score_report(record: RunRecord) -> Any:
    return next(report for report in record.stages if report.stage == "score")


def days(rows: int) -> list[list[pa.Table]]:
    """Returns the files of a day as it changes: with duplicates across files, keys that are NULL, and bad values."""
    first = table(rows)
    first = first.append_column("shop", pa.array([number % 3 for number in range(rows)], pa.int32()))
    first = first.append_column("c", pa.array([f"c{number % 7}" for number in range(rows)]))
    first = first.append_column("d", pa.array([None if number % 11 == 0 else number for number in range(rows)]))
    first = first.append_column("extra", pa.array(range(rows)))
    first = changed(first, "a", {3: None, 5: float("inf"), 8: float("nan")})
    first = changed(first, "id", {10: None, 20: None})
    first = changed(first, "shop", {11: None})
    copies = first.slice(0, 40)
    conflicts = changed(first.slice(40, 10), "b", dict.fromkeys(range(10), 7.0))
    wider = first.set_column(first.schema.get_field_index("shop"), "shop", first.column("shop").cast(pa.int64()))
    files = [first.slice(0, rows // 2), wider.slice(rows // 2), pa.concat_tables([copies, conflicts])]
    later = changed(first, "a", dict.fromkeys(range(100, 150), 0.5))
    later = changed(later, "c", dict.fromkeys(range(150, 180), "other"))
    later = changed(later, "d", dict.fromkeys(range(160, 190))).slice(30)
    more = changed(first.slice(0, 25), "id", {number: f"new{number}" for number in range(25)})
    return [files, [later, more], [first, more]]


def write(workspace: Workspace, files: list[pa.Table]) -> None:
    for path in (workspace.lake / "unscored").glob("*/*"):
        path.unlink()
    for number, rows in enumerate(files):
        workspace.day(rows, file=f"part{number}.parquet")


def job(workspace: Workspace, policy: str, engine: str) -> Workspace:
    folder = workspace.settings.jobs / "toy"
    (folder / "job.toml").unlink()
    (folder / "job.toml").write_text(JOB.format(policy=policy, engine=engine))
    (folder / "input.json").write_text(json.dumps(SUITE))
    return workspace


@pytest.mark.slow
@pytest.mark.parametrize(
    "policy",
    [pytest.param("", id="kept"), pytest.param('carried_change = "publish"\nwithdrawn = "mark"', id="published")],
)
def test_days_in_buckets_are_those_of_one_machine(workspace: Workspace, tmp_path: Path, policy: str) -> None:
    whole = job(workspace.copy_to(tmp_path / "whole"), policy, "")
    parts = job(workspace.copy_to(tmp_path / "parts"), policy, ENGINE)
    for number, files in enumerate(days(1000)):
        records = []
        for each in (whole, parts):
            if number == 2:
                each.model("v2", seed=5)
            write(each, files)
            records.append(each.complete())
        one, other = records
        assert (score_report(one).buckets, score_report(other).buckets) == (None, 5)
        assert one.ledger is not None
        assert one.ledger.scored.rows > 0
        assert one.ledger.quarantined.rows > 50
        for name in ("ledger", "withdrawn", "marked", "carried_left", "dispositions"):
            assert getattr(one, name) == getattr(other, name), name
        assert one.statistics.reasons == other.statistics.reasons
        assert one.statistics.classes == other.statistics.classes
        assert [(c.name, c.outcome) for c in one.checks] == [(c.name, c.outcome) for c in other.checks]
        assert check_equal(parts.lake, whole.lake, ("shop", "id")) > 800
        check_profiles(parts.lake, whole.lake)
    assert not list(verify(parts.context().lake))
    assert not list(parts.lake.glob(".staging/job=*"))


def check_profiles(found: Path, expected: Path) -> None:
    """Asserts that two lakes have the same histograms; sums of numbers may differ by their order."""
    mine, theirs = (rows_of(lake, "profiles/job=toy/ds=*") for lake in (found, expected))
    assert len(mine) == len(theirs) > 0
    for one, other in zip(mine, theirs, strict=True):
        assert {name for name, value in one.items() if not same(value, other[name])} == set()


def test_small_day_is_scored_as_a_whole(workspace: Workspace) -> None:
    bucketed(workspace, engine=ENGINE.replace("min_rows = 1", "min_rows = 101"))
    workspace.day(100)
    assert score_report(workspace.complete()).buckets is None
    workspace.day(101)
    assert score_report(workspace.complete()).buckets == 5


def test_rows_of_one_file_are_split_by_several_tasks(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.buckets.splitting.TASK_ROWS", 100)
    bucketed(workspace)
    workspace.day(1000)
    workspace.day(30, file="small.parquet")
    workspace.day(table(60).slice(30), file="smaller.parquet")
    seen: list[dict[str, Any]] = []

    def watched(text: str) -> str:
        seen.append(json.loads(text)["piece"])
        return split(text)

    monkeypatch.setattr(stage, "split", watched)
    record = workspace.complete()
    assert [(len(piece["paths"]), piece["first"], piece["end"]) for piece in seen] == [
        *((1, first, first + 100) for first in range(0, 1000, 100)),
        (2, None, None),
    ]
    assert record.ledger is not None
    assert record.ledger.candidates.rows == 1060
    assert len(workspace.stored("SELECT DISTINCT id FROM predictions")) == record.ledger.scored.rows


def test_job_with_a_select_and_a_period_in_files_are_split(workspace: Workspace, tmp_path: Path) -> None:
    whole, parts = (workspace.copy_to(tmp_path / name) for name in ("whole", "parts"))
    for each, engine in ((whole, ""), (parts, ENGINE)):
        folder = each.settings.jobs / "toy"
        text = (folder / "job.toml").read_text().replace('path = "unscored/ds={ds}/*.parquet"', 'select = "rows.sql"')
        (folder / "job.toml").unlink()
        (folder / "job.toml").write_text(f'{text}\n[input.sources]\nrows = "unscored/ds={{ds}}/*.parquet"\n{engine}')
        (folder / "rows.sql").write_text("SELECT id, a + 1 AS a, b FROM rows WHERE a > 0")
        each.day(500)
    assert whole.complete().ledger == parts.complete().ledger
    assert check_equal(parts.lake, whole.lake) > 100


def test_text_is_split_by_the_rows_of_its_copy(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.buckets.splitting.TASK_ROWS", 100)
    whole, parts = (workspace.copy_to(tmp_path / name) for name in ("whole", "parts"))
    for each, engine in ((whole, ""), (parts, ENGINE)):
        (each.settings.jobs / "toy" / "job.toml").unlink()
        toml = each.job(reads='format = "csv"') / "job.toml"
        toml.write_text(toml.read_text().replace("*.parquet", "*.csv") + engine)
        folder = each.lake / "unscored" / f"ds={DAY}"
        folder.mkdir(parents=True)
        for name, first in (("a.csv", 0), ("b.csv", 250)):
            lines = (f"u{number},{number / 100},{-number / 50}" for number in range(first, first + 300))
            (folder / name).write_text("\n".join(["id,a,b", *lines]) + "\n")
    assert whole.complete().ledger == parts.complete().ledger
    assert check_equal(parts.lake, whole.lake) == 550


def test_type_that_a_file_cannot_hold_is_refused(workspace: Workspace) -> None:
    folder = workspace.settings.jobs / "toy"
    text = (folder / "job.toml").read_text().replace('path = "unscored/ds={ds}/*.parquet"', 'select = "rows.sql"')
    (folder / "job.toml").unlink()
    sources = '\n[input.sources]\nrows = "unscored/ds={ds}/*.parquet"\n'
    (folder / "job.toml").write_text(text.replace('key = ["id"]', 'key = ["id"]\ncarry = ["n"]') + sources + ENGINE)
    (folder / "rows.sql").write_text("SELECT id, a, b, 1::HUGEINT AS n FROM rows")
    workspace.day(100)
    with pytest.raises(SchemaMismatch, match="column n cannot be split") as raised:
        workspace.run()
    assert raised.value.got == "HUGEINT, which is read as DOUBLE"
    assert not workspace.lake.joinpath("predictions").exists()


def test_finished_buckets_of_a_run_that_was_killed_are_taken_up(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucketed(workspace)
    workspace.day(1000)
    left = iter(range(3))

    def until_killed(text: str) -> str:
        if next(left, None) is None:
            raise SystemExit
        return score_bucket(text)

    monkeypatch.setattr(stage, "score_bucket", until_killed)
    with pytest.raises(SystemExit):
        workspace.run()
    assert len(list(workspace.lake.glob(".staging/**/result.json"))) == 3
    monkeypatch.setattr(stage, "score_bucket", score_bucket)
    predict, predicted = Predictor.predict_arrow, [0]

    def counting(self: Predictor, matrix: Any, batch_rows: int) -> pa.RecordBatch:
        predicted[0] += len(matrix)
        return predict(self, matrix, batch_rows)

    monkeypatch.setattr(Predictor, "predict_arrow", counting)
    record = workspace.complete()
    assert record.dispositions["adopted"] > 0
    assert predicted[0] < 1000
    assert record.dispositions["scored"] == 1000
    assert sorted(row["id"] for row in workspace.stored()) == sorted(f"u{number}" for number in range(1000))


def test_attempts_that_are_not_returned_do_not_count(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    bucketed(workspace)
    workspace.day(1000)

    def twice(text: str) -> str:
        score_bucket(text)
        return score_bucket(text)

    monkeypatch.setattr(stage, "score_bucket", twice)
    record = workspace.complete()
    assert record.ledger is not None
    assert record.ledger.scored.rows == len(workspace.stored()) == 1000


@pytest.mark.parametrize("lost", ["split", "bucket", "returned twice"])
def test_rows_that_are_lost_or_doubled_stop_the_run(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    bucketed(workspace)
    workspace.day(1000)
    results: list[str] = []

    def without_a_file(text: str) -> str:
        found = json.loads(split(text))
        if any(found["files"].values()):
            found["files"].popitem()
        if lost == "split":
            found["rows"] -= 1
        return json.dumps(found)

    def the_first(text: str) -> str:
        results.append(score_bucket(text))
        return results[0]

    monkeypatch.setattr(
        stage, *(("score_bucket", the_first) if lost == "returned twice" else ("split", without_a_file))
    )
    with pytest.raises(LedgerImbalance, match="lost when the day was split" if lost == "split" else "do not add up"):
        workspace.run()
    assert not workspace.lake.joinpath("predictions").exists()


@pytest.mark.parametrize("rows", ["lost", "doubled"])
def test_staged_rows_that_are_lost_or_doubled_after_their_bucket_was_returned_are_not_committed(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, rows: str
) -> None:
    """The ledger of the bucket adds up: only that of the day, over the files that are to be published, does not."""
    bucketed(workspace, engine=f"{ENGINE}\n[quality]\nenabled = false\n")
    workspace.day(100)

    def altered_afterwards(text: str) -> str:
        result = score_bucket(text)
        path = workspace.lake / next(key for key in json.loads(result)["files"] if "/scored-" in key)
        staged = pq.read_table(path)
        path.unlink()
        pq.write_table(staged.slice(1) if rows == "lost" else pa.concat_tables([staged, staged.slice(0, 1)]), path)
        return result

    monkeypatch.setattr(stage, "score_bucket", altered_afterwards)
    with pytest.raises(LedgerImbalance, match="does not add up; nothing was committed"):
        workspace.run()
    assert not workspace.lake.joinpath("predictions").exists()


def test_errors_of_a_bucket_are_those_of_the_run(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace.job(policy='null_features = "fail"')
    bucketed(workspace)
    workspace.day(changed(table(100), "a", {7: None}))
    with pytest.raises(QualityStop, match="features are NULL"):
        workspace.run()


def test_input_that_changes_while_it_is_split_is_planned_again(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucketed(workspace)
    workspace.day(100)
    changes = iter([200])

    def change_first(text: str) -> str:
        if rows := next(changes, None):
            workspace.day(rows)
        return split(text)

    monkeypatch.setattr(stage, "split", change_first)
    record = workspace.complete()
    assert record.ledger is not None
    assert record.ledger.scored.rows == 200
    states = [each.state for each in workspace.context().lake.records.of_day("toy", DAY)]
    assert sorted(states) == ["complete", "superseded"]


def test_file_that_a_machine_does_not_see_is_named(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    bucketed(workspace)
    workspace.day(100)

    def elsewhere(text: str) -> str:
        task = json.loads(text)
        task["files"]["input"].append("elsewhere.parquet")
        return score_bucket(json.dumps(task))

    monkeypatch.setattr(stage, "score_bucket", elsewhere)
    with pytest.raises(StorageUnavailable, match="missing on the machine") as raised:
        workspace.run()
    assert str(raised.value.where).endswith("elsewhere.parquet")
