"""Running a day: what is scored and what is not, as days and models change."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.errors import (
    InputChanged,
    InputEmpty,
    InputMissing,
    QualityStop,
    RunEnded,
    StorageError,
    StorageUnavailable,
)
from pipeline.flow import day as flow
from pipeline.flow.preview import preview
from pipeline.flow.status import status
from pipeline.lake.layout import Lake
from pipeline.model.predictor import Predictor
from pipeline.query.running import run_query
from pipeline.records import State
from pipeline.scoring import stage as scoring
from pipeline.storage import give_name
from tests.workspace import DAY, Workspace, changed, table

ROOT = Path(__file__).parent.parent.parent


def identities(folder: Path) -> dict[Path, tuple[int, int, int]]:
    stats = {path: path.stat() for path in folder.rglob("*")}
    return {path: (stat.st_ino, stat.st_size, stat.st_mtime_ns) for path, stat in stats.items()}


def test_run_first_time_scores_every_row_once(workspace: Workspace) -> None:
    workspace.day(100)
    record = workspace.complete()
    assert record.state is State.complete
    assert record.ledger is not None
    assert record.ledger.counts() == {
        "candidates": 100,
        "scored": 100,
        "unchanged": 0,
        "quarantined": 0,
        "duplicates": 0,
        "overtaken": 0,
    }
    assert record.ledger.balanced
    rows = workspace.stored()
    assert sorted(row["id"] for row in rows) == sorted(f"u{i}" for i in range(100))
    assert {(row["reason"], row["revision"], row["run_id"]) for row in rows} == {("new", 0, record.run_id)}


def test_run_unchanged_day_writes_nothing(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace.day(100)
    workspace.run()
    before = identities(workspace.lake)
    monkeypatch.setattr(flow, "peak_memory_bytes", lambda: 10**15)  # nor its own memory
    outcome = workspace.run()
    assert outcome.up_to_date
    assert identities(workspace.lake) == before


def test_run_touched_input_scores_nothing(workspace: Workspace) -> None:
    path = workspace.day(100)
    workspace.run()
    os.utime(path)
    outcome = workspace.run()
    assert not outcome.up_to_date
    assert outcome.record is not None
    assert outcome.record.ledger is not None
    assert outcome.record.ledger.unchanged.rows == 100
    assert len(workspace.stored()) == 100
    assert workspace.run().up_to_date


def test_run_new_and_changed_rows_scores_only_these_with_reason_and_revision(workspace: Workspace) -> None:
    rows = table(100)
    workspace.day(rows)
    workspace.run()
    new = table({"id": ["n1", "n2"], "a": [0.1, 0.2], "b": [0.3, 0.4]})
    workspace.day(pa.concat_tables([changed(rows, "b", {3: 9.0, 4: 9.0, 5: 9.0}), new]))
    ledger = workspace.complete().ledger
    assert ledger is not None
    assert (ledger.scored.rows, ledger.unchanged.rows) == (5, 97)
    found = workspace.stored(
        "SELECT id, reason, revision FROM predictions WHERE reason <> 'new' OR id LIKE 'n%' ORDER BY id"
    )
    assert [tuple(row.values()) for row in found] == [
        ("n1", "new", 0),
        ("n2", "new", 0),
        ("u3", "changed", 1),
        ("u4", "changed", 1),
        ("u5", "changed", 1),
    ]


def test_run_row_changed_back_scores_it_a_third_time(workspace: Workspace) -> None:
    rows = table(10)
    for version in (rows, changed(rows, "a", {0: 7.0}), rows):
        workspace.day(version)
        workspace.run()
    revisions = workspace.stored("SELECT revision, fingerprint FROM predictions WHERE id = 'u0' ORDER BY revision")
    assert [row["revision"] for row in revisions] == [0, 1, 2]
    assert revisions[0]["fingerprint"] == revisions[2]["fingerprint"] != revisions[1]["fingerprint"]


def test_run_new_model_version_scores_all_with_reason_model(workspace: Workspace) -> None:
    workspace.day(10)
    workspace.run()
    workspace.model("v2", seed=2)
    record = workspace.complete()
    assert record.statistics.reasons == {"model": 10}
    assert len(workspace.stored()) == 20


def test_run_bad_rows_quarantines_them_and_scores_the_rest(workspace: Workspace) -> None:
    rows = table(20)
    rows = changed(rows, "a", {0: None, 1: float("nan"), 2: float("inf"), 3: 1e300})
    rows = changed(rows, "id", {4: None})
    copies = rows.slice(5, 2)
    conflict = changed(rows.slice(7, 1), "b", {0: 5.0})
    workspace.day(pa.concat_tables([rows, copies, conflict]))
    record = workspace.complete()
    assert record.ledger is not None
    assert record.ledger.counts() == {
        "candidates": 23,
        "scored": 14,
        "unchanged": 0,
        "quarantined": 7,
        "duplicates": 2,
        "overtaken": 0,
    }
    (path,) = (workspace.lake / "quarantine").rglob("*.parquet")
    found = sorted((row["reasons"][0], row["id"] or "") for row in pq.read_table(path).to_pylist())
    assert found == [
        ("conflicting_duplicate", "u7"),
        ("conflicting_duplicate", "u7"),
        ("infinite:a", "u2"),
        ("infinite:a", "u3"),
        ("null:a", "u0"),
        ("null:a", "u1"),
        ("null_key", ""),
    ]


def test_run_repaired_rows_are_scored_and_leave_the_quarantine(workspace: Workspace) -> None:
    rows = table(10)
    workspace.day(changed(rows, "a", {0: None}))
    workspace.run()
    workspace.day(rows)
    record = workspace.complete()
    assert record.ledger is not None
    assert (record.ledger.scored.rows, record.ledger.quarantined.rows) == (1, 0)
    newest = max((workspace.lake / "quarantine").rglob("*.parquet"))
    assert pq.read_table(newest).num_rows == 0


@pytest.mark.parametrize(
    ("policy", "values"),
    [
        ('null_features = "fail"', {"id": ["x"], "a": pa.array([None], pa.float64()), "b": [1.0]}),
        ('infinite_features = "fail"', {"id": ["x"], "a": [float("inf")], "b": [1.0]}),
        ('null_keys = "fail"', {"id": pa.array([None], pa.string()), "a": [1.0], "b": [1.0]}),
        ('conflicting_duplicates = "fail"', {"id": ["x", "x"], "a": [1.0, 2.0], "b": [1.0, 1.0]}),
    ],
)
def test_run_policy_fail_stops_and_commits_nothing(
    workspace: Workspace, policy: str, values: dict[str, object]
) -> None:
    workspace.job(policy=policy)
    workspace.day(values)
    with pytest.raises(QualityStop, match=policy.split(" ", maxsplit=1)[0]):
        workspace.run()
    assert not list((workspace.lake).rglob("part-*"))


def test_run_more_bad_rows_than_allowed_stops_and_keeps_them_for_inspection(workspace: Workspace) -> None:
    job = workspace.job() / "job.toml"
    job.write_text(job.read_text().replace("max_quarantined = 1.0", "max_quarantined = 0.1"))
    workspace.day(changed(table(10), "a", {0: None, 1: None}))
    with pytest.raises(QualityStop, match=r"2 of 10 rows"):
        workspace.run()
    assert not list(workspace.lake.rglob("part-*"))
    assert list(workspace.lake.rglob("rejected-*.parquet"))
    (record,) = workspace.context().lake.records.of_day("toy", DAY)
    assert record.state is State.stopped


def test_run_null_policy_score_passes_nan_to_the_model(workspace: Workspace) -> None:
    checks = '[quality]\noff = ["probabilities_finite", "probabilities_sum"]'  # this model returns NaN for NaN
    workspace.job(policy='null_features = "score"', schedule=checks)
    workspace.day(changed(table(4), "a", {0: None}))
    record = workspace.complete()
    assert record.ledger is not None
    assert record.ledger.scored.rows == 4


def test_run_several_key_columns_and_carried_columns(workspace: Workspace) -> None:
    folder = workspace.job(reads='carry = ["country"]')
    path = folder / "job.toml"
    path.write_text(path.read_text().replace('key = ["id"]', 'key = ["shop", "customer id"]'))
    rows = {
        "shop": [1, 1, 2, None],
        "customer id": ["x", "y", "x", "z"],
        "country": ["UK", "FR", "UK", "UK"],
        "a": [1.0, 2.0, 3.0, 4.0],
        "b": [1.0, 2.0, 3.0, 4.0],
    }
    workspace.day(rows)
    first = workspace.complete().ledger
    assert first is not None
    assert (first.scored.rows, first.quarantined.rows) == (3, 1)
    workspace.day({**rows, "b": [9.0, 2.0, 3.0, 4.0]})
    second = workspace.complete().ledger
    assert second is not None
    assert (second.scored.rows, second.unchanged.rows) == (1, 2)
    found = workspace.stored('SELECT shop, "customer id" AS c, country, revision FROM predictions ORDER BY ALL')
    assert [tuple(row.values()) for row in found] == [
        (1, "x", "UK", 0),
        (1, "x", "UK", 1),
        (1, "y", "FR", 0),
        (2, "x", "UK", 0),
    ]


@pytest.mark.slow
def test_run_lookback_scores_late_rows_of_earlier_days(workspace: Workspace) -> None:
    workspace.job(schedule="lookback_days = 2")
    workspace.day(10, "2026-01-01")
    workspace.day(10, "2026-01-03")
    ctx = workspace.context()
    assert [outcome.ds for outcome in flow.run(ctx, "2026-01-03")] == ["2026-01-03", "2026-01-01"]
    workspace.day(table({"id": ["late"], "a": [1.0], "b": [1.0]}), "2026-01-01", file="late.parquet")
    today, earlier = flow.run(ctx, "2026-01-03")
    assert today.up_to_date
    assert earlier.record is not None
    assert earlier.record.statistics.reasons == {"new": 1}


def test_run_missing_input_fails_or_is_skipped_as_the_job_says(workspace: Workspace) -> None:
    workspace.day(3, "2026-02-01")
    with pytest.raises(InputMissing, match=r"got +2026-02-01"):
        workspace.run(DAY)
    workspace.job(policy='missing_input = "skip"')
    outcome = workspace.run(DAY)
    assert (outcome.record, outcome.skipped) == (None, f"there is no input for {DAY}")


@pytest.mark.parametrize(
    ("policy", "skipped"),
    [
        ('missing_input = "skip"', True),
        ('missing_input = "skip"\nempty_input = "fail"', False),
        ('empty_input = "skip"', True),
        ("", False),
    ],
)
def test_run_of_files_without_rows_is_a_case_of_its_own(workspace: Workspace, policy: str, skipped: bool) -> None:
    workspace.job(policy=policy)
    workspace.day(table(5).slice(0, 0))
    if skipped:
        assert workspace.run().skipped == f"the input of {DAY} has no rows"
    else:
        with pytest.raises(InputEmpty, match="empty_input = 'skip'"):
            workspace.run()
    workspace.day(5)
    assert workspace.complete().dispositions["scored"] == 5


def test_run_input_through_a_select_of_the_job(workspace: Workspace) -> None:
    folder = workspace.job()
    text = (folder / "job.toml").read_text()
    text = text.replace('path = "unscored/ds={ds}/*.parquet"', 'select = "features.sql"')
    text += '\n[input.sources]\norders = "unscored/ds={ds}/*.parquet"\n'
    (folder / "job.toml").write_text(text)
    (folder / "features.sql").write_text(
        "SELECT who AS id, sum(price) AS a, count(*) AS b FROM orders WHERE day = $ds GROUP BY who"
    )
    workspace.day({"who": ["x", "x", "y", "z"], "price": [1.0, 2.0, 3.0, 4.0], "day": [DAY, DAY, DAY, "2020-01-01"]})
    workspace.run()
    assert [row["id"] for row in workspace.stored()] == ["x", "y"]


def test_run_input_changed_during_the_run_plans_again(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace.day(10)
    real = scoring.score
    late = iter(["late.parquet"])

    def score_while_a_file_arrives(*arguments: object) -> object:
        record = real(*arguments)  # type: ignore[arg-type]
        if (name := next(late, None)) is not None:
            workspace.day({"id": ["late"], "a": [1.0], "b": [1.0]}, file=name)
        return record

    monkeypatch.setattr(scoring, "score", score_while_a_file_arrives)
    record = workspace.complete()
    assert record.ledger is not None
    assert record.ledger.scored.rows == 11
    states = [each.state for each in workspace.context().lake.records.of_day("toy", DAY)]
    assert states == [State.complete, State.superseded]
    assert not list((workspace.lake / ".staging").rglob("*.parquet"))


@pytest.mark.slow
def test_run_input_that_keeps_changing_is_a_transient_error(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = workspace.day(10)
    real = scoring.score

    def score_while_the_input_moves(*arguments: object) -> object:
        record = real(*arguments)  # type: ignore[arg-type]
        os.utime(path)
        return record

    monkeypatch.setattr(scoring, "score", score_while_the_input_moves)
    with pytest.raises(InputChanged) as caught:
        workspace.run()
    assert caught.value.transient
    assert not list(workspace.lake.rglob("part-*"))


def test_backfill_failed_day_is_reported_and_the_next_one_runs(workspace: Workspace) -> None:
    for ds in ("2026-01-01", "2026-01-02", "2026-01-03"):
        workspace.day(5, ds)
    (workspace.lake / "unscored/ds=2026-01-02/data.parquet").write_bytes(b"PAR1 no parquet")
    days = ["2026-01-01", "2026-01-02", "2026-01-03"]
    outcomes = list(flow.backfill(workspace.context(), days))
    assert [outcome.failed for outcome in outcomes] == [False, True, False]
    assert "ds=2026-01-02/data.parquet" in str(outcomes[1].error)


@pytest.mark.parametrize("batch_rows", [pytest.param(1, marks=pytest.mark.slow), 100, 8192, 1_000_000])
@pytest.mark.parametrize("files", [1, 7])
def test_run_probabilities_equal_a_plain_loop(
    workspace: Workspace, tmp_path: Path, batch_rows: int, files: int
) -> None:
    rows = table(10_000)
    shuffled = rows.take(np.random.default_rng(files).permutation(10_000))
    for number in range(files):
        part = shuffled.slice(number * 10_000 // files, (number + 1) * 10_000 // files - number * 10_000 // files)
        workspace.day(part, file=f"{number}.parquet")
    folder = workspace.job()
    (folder / "job.toml").write_text((folder / "job.toml").read_text() + f"\n[engine]\nbatch_rows = {batch_rows}\n")
    workspace.run()
    state = torch.load(tmp_path / "toy-v1.pt", weights_only=True)["model_state_dict"]
    x = torch.tensor(np.column_stack([rows["a"], rows["b"]]), dtype=torch.float32)  # (10000, 2)
    for layer in range(3):
        x = x @ state[f"fc{layer}.weight"].T + state[f"fc{layer}.bias"]
        x = torch.relu(x) if layer < 2 else torch.softmax(x, 1)
    expected = dict(zip(rows["id"].to_pylist(), x.tolist(), strict=True))
    stored = workspace.stored("SELECT id, prob_class_0, prob_class_1, prediction, prediction_proba FROM predictions")
    assert len(stored) == 10_000
    for row in stored:
        assert (row["prob_class_0"], row["prob_class_1"]) == pytest.approx(expected[row["id"]], abs=1e-6)
        assert row["prediction"] == int(row["prob_class_1"] > row["prob_class_0"])
        assert row["prediction_proba"] == max(row["prob_class_0"], row["prob_class_1"])


def test_run_rows_withdrawn_from_the_input_are_reported_and_keep_their_prediction(workspace: Workspace) -> None:
    rows = table(10)
    workspace.day(rows)
    workspace.run()
    workspace.day(rows.slice(3))
    ctx = workspace.context()
    assert preview(ctx, DAY).withdrawn == 3
    record = workspace.complete()
    assert (record.withdrawn, len(workspace.stored())) == (3, 10)
    assert preview(ctx, DAY).withdrawn == 3
    (day,) = status(ctx.lake, ctx.job, record.model)
    assert day.withdrawn == 3
    assert day.note == "3 predicted rows are no longer in the input"


@pytest.mark.parametrize("rejects", [False, True])
def test_run_rows_withdrawn_are_told_apart_from_changed_and_rejected_ones(
    workspace: Workspace, *, rejects: bool
) -> None:
    rows = table(20)
    workspace.day(rows)
    workspace.run()
    rows = changed(rows, "a", {3: 5.0, 4: 6.0, 5: None if rejects else 7.0})
    new = table({"id": ["new"], "a": [0.1], "b": [0.2]})
    workspace.day(pa.concat_tables([rows.slice(2), rows.slice(6, 2), new]))
    record = workspace.complete()
    assert record.ledger is not None
    assert (record.ledger.quarantined.rows, record.ledger.duplicates.rows) == (int(rejects), 2)
    assert record.withdrawn == 2 == preview(workspace.context(), DAY).withdrawn


def ask(lake: Lake, text: str) -> list[dict[str, Any]]:
    with run_query(lake, text) as result, result.stream() as (_, batches):
        return [row for batch in batches for row in batch.to_pylist()]


def test_run_of_a_job_that_goes_back_to_an_older_model_shows_its_predictions_again(workspace: Workspace) -> None:
    workspace.day(10)
    workspace.run()
    workspace.model("v2", seed=9)
    workspace.run()
    registry = workspace.context().registry
    registry.promote("toy", "v1", "production")
    outcome = workspace.run()
    assert not outcome.up_to_date
    assert outcome.record is not None
    assert outcome.record.ledger is not None
    assert outcome.record.ledger.unchanged.rows == 10
    ctx = workspace.context()
    assert ask(ctx.lake, "SELECT DISTINCT model_version AS v FROM predictions") == [{"v": "v1"}]
    assert workspace.run().up_to_date


def test_run_reads_files_whose_names_look_like_patterns(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "lake [1]*")
    workspace.job()
    workspace.model()
    workspace.day(table({"id": ["p1"], "a": [1.0], "b": [1.0]}), file="part[1].parquet")
    workspace.day(table({"id": ["p2"], "a": [2.0], "b": [2.0]}), file="part1.parquet")
    record = workspace.complete()
    assert record.ledger is not None
    assert record.ledger.counts()["scored"] == 2
    workspace.day(table({"id": ["p1"], "a": [7.0], "b": [1.0]}), file="part[1].parquet")
    assert workspace.complete().statistics.reasons == {"changed": 1}
    lake = workspace.context().lake
    found = ask(lake, "SELECT id, revision FROM predictions ORDER BY id")
    assert found == [{"id": "p1", "revision": 1}, {"id": "p2", "revision": 0}]


@pytest.mark.slow
def test_day_of_a_timestamp_does_not_depend_on_the_zone_of_the_machine(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = workspace.settings.jobs / "toy"
    text = (folder / "job.toml").read_text()
    path = 'path = "unscored/ds={ds}/*.parquet"'
    (folder / "job.toml").unlink()
    text = text.replace(path, 'select = "rows.sql"').replace('key = ["id"]', 'key = ["id"]\ncarry = ["day"]')
    text = text.replace("[policy]", '[input.sources]\nraw = "unscored/ds={ds}/*.parquet"\n\n[policy]')
    (folder / "job.toml").write_text(text)
    (folder / "rows.sql").write_text(
        "SELECT id, hour(seen) AS a, b, seen::DATE::VARCHAR AS day FROM raw WHERE seen >= '2026-01-01 23:00'"
    )
    evening = [datetime(2026, 1, 1, 22, 30, tzinfo=UTC), datetime(2026, 1, 1, 23, 30, tzinfo=UTC)]
    rows = pa.table({"id": ["u", "v"], "b": [1.0, 1.0], "seen": pa.array(evening, pa.timestamp("us", "UTC"))})
    script = "import sys; from pipeline.cli.app import main; main()"
    command = [sys.executable, "-c", script, "run", "--job", "toy", "--date", DAY, "--json"]
    ledgers = []
    for zone in ("Asia/Tokyo", "America/New_York", "Europe/Berlin"):
        workspace.day(rows)  # written again, so that the next run compares each row
        environment = {**os.environ, "TZ": zone, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=workspace.root, env=environment, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        (day,) = json.loads(done.stdout)
        ledgers.append((day["ledger"]["scored"], day["ledger"]["unchanged"]))
    assert ledgers == [(1, 0), (0, 1), (0, 1)]
    assert [(row["id"], row["day"]) for row in workspace.stored()] == [("v", "2026-01-01")]


def test_run_staging_that_is_removed_while_it_scores_is_a_transient_error_that_says_so(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.day(50)
    real = give_name

    def remove_first(temporary: Path, target: Path) -> None:
        shutil.rmtree(target.parent)
        real(temporary, target)

    monkeypatch.setattr("pipeline.staging.writer.give_name", remove_first)
    with pytest.raises(RunEnded, match=r"staged files of run .* were removed while it was active"):
        workspace.run()
    monkeypatch.undo()
    assert workspace.complete().state is State.complete


def test_run_that_is_refused_memory_says_so(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: 8 bytes")

    workspace.day(50)
    monkeypatch.setattr(Predictor, "predict_arrow", refused)
    with pytest.raises(StorageUnavailable, match="not enough memory"):
        workspace.run()


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of a file's size")
def test_run_that_may_not_write_so_large_a_file_names_the_limit(workspace: Workspace) -> None:
    workspace.day(20_000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(StorageError, match=r"larger than this process may write(?s:.)*100,000 bytes \(ulimit -f\)"):
            workspace.run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert workspace.complete().state is State.complete
