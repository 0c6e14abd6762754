"""Which stored predictions still hold: those of the same model, that is of the same digest, whatever it is called."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.care.rollback import rollback
from pipeline.care.verify import verify
from pipeline.errors import InputChanged
from pipeline.flow import single_stage
from pipeline.flow.preview import preview
from pipeline.flow.status import status
from pipeline.lake.layout import Lake
from pipeline.model.card import Card
from pipeline.model.registry import Registry
from pipeline.query.running import run_query
from pipeline.records import RunRecord, State
from tests.stages import commit, scored
from tests.workspace import DAY, Workspace, changed, table


def registry_rebuilt(workspace: Workspace, *, seed: int) -> Path:
    """Replaces the registry by one whose `v1` is another network; returns its checkpoint."""
    shutil.rmtree(workspace.settings.models)
    return workspace.model("v1", seed=seed)


def job_names_another_model(workspace: Workspace, *, seed: int) -> Path:
    """Makes the job name another model, which has a `v1` too; returns its checkpoint."""
    workspace.job(model="other")
    return workspace.model("v1", name="other", seed=seed)


ANOTHER = [registry_rebuilt, job_names_another_model]


def by_torch(checkpoint: Path, rows: pa.Table) -> dict[str, float]:
    """Returns the probability of class 1 of each row, by its id, as torch alone computes it."""
    state = torch.load(checkpoint, weights_only=True)["model_state_dict"]
    values = torch.tensor(np.column_stack([rows.column("a"), rows.column("b")]), dtype=torch.float32)
    for layer in range(3):
        values = torch.nn.functional.linear(values, state[f"fc{layer}.weight"], state[f"fc{layer}.bias"])
        values = torch.relu(values) if layer < 2 else torch.softmax(values, 1)
    return dict(zip(rows.column("id").to_pylist(), values[:, 1].tolist(), strict=True))


def shown(workspace: Workspace, query: str = "SELECT id, prob_class_1, reason, revision FROM predictions") -> list[Any]:
    with run_query(Lake.open(workspace.settings.lake), query) as result, result.stream() as (schema, batches):
        return pa.Table.from_batches(batches, schema).to_pylist()


def scores_shown(workspace: Workspace) -> dict[str, float]:
    return {row["id"]: row["prob_class_1"] for row in shown(workspace)}


def of_earlier_lakescore(workspace: Workspace, record: RunRecord) -> None:
    """Takes from a run record what earlier versions of Lakescore did not write."""
    path = workspace.lake / "runs" / f"job={record.job}" / f"ds={record.ds}" / f"{record.run_id}.json"
    document = json.loads(path.read_text())
    document["plan"].pop("other_models", None)
    path.unlink()
    path.write_text(json.dumps(document))


# Another model under the same version


@pytest.mark.slow
@pytest.mark.parametrize("change", ANOTHER)
def test_another_models_v1_scores_every_row_again_with_reason_model(workspace: Workspace, change: Any) -> None:
    rows = table(50)
    workspace.day(rows)
    workspace.run()
    checkpoint = change(workspace, seed=7)
    foreseen = preview(workspace.context(), DAY)
    assert (foreseen.dispositions["scored"], foreseen.reasons["model"]) == (50, 50)
    record = workspace.complete()
    assert record.ledger is not None
    assert (record.ledger.scored.rows, record.ledger.unchanged.rows) == (50, 0)
    assert record.statistics.reasons == {"model": 50}
    assert record.withdrawn == 0
    assert scores_shown(workspace) == pytest.approx(by_torch(checkpoint, rows), abs=1e-5)
    assert {(row["reason"], row["revision"]) for row in shown(workspace)} == {("model", 1)}
    assert workspace.run().up_to_date


@pytest.mark.slow
def test_another_models_v1_of_another_task_scores_every_row_again(workspace: Workspace) -> None:
    rows = table(20)
    workspace.day(rows)
    workspace.run()
    torch.manual_seed(7)
    layer = torch.nn.Linear(2, 1)
    path = workspace.root / "regression.pt"
    torch.save({"model_state_dict": {f"fc0.{name}": value for name, value in layer.state_dict().items()}}, path)
    registry, card = (
        Registry(Path(workspace.settings.models)),
        Card(signature={"task": "regression", "architecture": "mlp:relu"}),
    )
    registry.register(path, name="other", version="v1", features=("a", "b"), card=card, alias="production")
    workspace.job(model="other")
    record = workspace.complete()
    assert (record.statistics.reasons, record.warnings) == ({"model": 20}, ())
    values = torch.tensor(np.column_stack([rows.column("a"), rows.column("b")]), dtype=torch.float32)
    expected = dict(zip(rows.column("id").to_pylist(), layer(values)[:, 0].tolist(), strict=True))
    found = shown(workspace, "SELECT id, value, prediction FROM predictions")
    assert {row["id"]: row["value"] for row in found} == pytest.approx(expected, abs=1e-5)
    assert {row["prediction"] for row in found} == {None}
    workspace.day(rows.slice(0, 15))  # five rows are withdrawn
    assert workspace.complete().withdrawn == 5
    assert list(verify(workspace.context().lake)) == []


@pytest.mark.slow
def test_another_models_v1_scores_new_and_changed_rows_with_it_too(workspace: Workspace) -> None:
    rows = table(20)
    workspace.day(rows)
    workspace.run()
    checkpoint = registry_rebuilt(workspace, seed=7)
    new = table({"id": ["n1"], "a": [0.1], "b": [0.3]})
    rows = pa.concat_tables([changed(rows, "b", {3: 9.0}).slice(0, 18), new])  # u18 and u19 are withdrawn
    workspace.day(rows)
    record = workspace.complete()
    assert record.statistics.reasons == {"model": 18, "new": 1}
    assert record.withdrawn == 2
    found = {row["id"]: row for row in shown(workspace)}
    expected = by_torch(checkpoint, rows)
    assert {key: found[key]["prob_class_1"] for key in expected} == pytest.approx(expected, abs=1e-5)
    assert {key: (found[key]["reason"], found[key]["revision"]) for key in ("u3", "u4", "n1")} == {
        "u3": ("model", 1),
        "u4": ("model", 1),
        "n1": ("new", 0),
    }


@pytest.mark.slow
def test_model_that_comes_back_under_its_version_scores_again_where_the_other_was_last(workspace: Workspace) -> None:
    rows = table(10)
    workspace.day(rows)
    workspace.run()
    first = scores_shown(workspace)
    registry_rebuilt(workspace, seed=7)
    workspace.run()
    registry_rebuilt(workspace, seed=0)
    record = workspace.complete()
    assert record.statistics.reasons == {"model": 10}
    assert scores_shown(workspace) == first
    assert {row["revision"] for row in shown(workspace)} == {2}


def test_same_model_registered_again_scores_nothing(workspace: Workspace) -> None:
    workspace.day(10)
    workspace.run()
    registry_rebuilt(workspace, seed=0)
    assert workspace.run().up_to_date


@pytest.mark.slow
def test_run_beside_another_models_v1_ends_with_the_scores_of_its_own(workspace: Workspace) -> None:
    """Both plan an empty day; the other commits between this run's scoring and its commit."""
    rows = table(30)
    workspace.day(rows)
    ctx = workspace.context()
    mine = by_torch(workspace.root / "toy-v1.pt", rows)
    run_id = single_stage.run_task(ctx, "score", DAY)["run_id"]
    job_names_another_model(workspace, seed=7)
    workspace.run()
    workspace.job()
    done = single_stage.run_task(ctx, "commit", DAY, run_id)
    assert done["state"] == "complete"
    assert done["run_id"] != run_id
    assert scores_shown(workspace) == pytest.approx(mine, abs=1e-5)


@pytest.mark.parametrize("stages", [("plan",), ("score",), ("score", "validate_output")])
def test_run_whose_model_is_replaced_between_two_stages_begins_anew(
    workspace: Workspace, stages: tuple[str, ...]
) -> None:
    rows = table(10)
    workspace.day(rows)
    run_id = None
    for name in stages:
        run_id = single_stage.run_task(workspace.context(), name, DAY, run_id)["run_id"]
    checkpoint = registry_rebuilt(workspace, seed=7)
    done = single_stage.run_task(workspace.context(), "commit", DAY, run_id)
    assert done["run_id"] != run_id
    assert scores_shown(workspace) == pytest.approx(by_torch(checkpoint, rows), abs=1e-5)
    (digest,) = shown(workspace, f"SELECT model_digest FROM runs WHERE run_id = '{done['run_id']}'")
    assert digest == {"model_digest": workspace.context().manifest().digest}


@pytest.mark.slow
def test_mix_of_an_earlier_lakescore_is_scored_again(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """It had compared fingerprints alone: 20 rows of one model and 5 of another, and the day seemed up to date."""
    checkpoint = mixed(workspace, monkeypatch)
    (found,) = verify(workspace.context().lake)
    assert (found.kind, found.what.partition(" not ")[0]) == ("mix", "20 of 25 current rows are")
    assert found.what.endswith(": run the day again")
    assert not workspace.run().up_to_date
    rows = pa.concat_tables([table(20), table({"id": list("abcde"), "a": [1.0] * 5, "b": [2.0] * 5})])
    assert scores_shown(workspace) == pytest.approx(by_torch(checkpoint, rows), abs=1e-5)
    assert workspace.run().up_to_date
    assert list(verify(workspace.context().lake)) == []


@pytest.mark.slow
def test_withdrawn_rows_of_another_model_are_no_mix_once_models_are_compared(workspace: Workspace) -> None:
    rows = table(20)
    workspace.day(rows)
    workspace.run()
    registry_rebuilt(workspace, seed=7)
    workspace.day(changed(rows.slice(0, 15), "a", {0: None}))  # 5 rows are withdrawn, and one is rejected
    record = workspace.complete()
    assert (record.withdrawn, record.statistics.reasons) == (5, {"model": 14})
    assert list(verify(workspace.context().lake)) == []


def mixed(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes the mix that an earlier Lakescore left; returns the checkpoint of the model that scored the last 5 rows."""
    rows = table(20)
    workspace.day(rows)
    of_earlier_lakescore(workspace, workspace.complete())
    checkpoint = registry_rebuilt(workspace, seed=7)
    workspace.day(pa.concat_tables([rows, table({"id": list("abcde"), "a": [1.0] * 5, "b": [2.0] * 5})]))
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.selecting.plan.of_other_models", lambda *_: (), raising=False)
        of_earlier_lakescore(workspace, workspace.complete())
    return checkpoint


# An alias that moves back


def v2_then_back_to_v1(workspace: Workspace) -> tuple[RunRecord, RunRecord]:
    """Runs a day with v1, then with v2, and names v1 `production` again; returns both records."""
    first = workspace.complete()
    workspace.model("v2", seed=3)
    second = workspace.complete()
    workspace.context().registry.promote("toy", "v1", "production")
    return first, second


def nothing_is_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planning is what reads data first."""

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("the day was planned")

    monkeypatch.setattr("pipeline.selecting.plan.plan", fail)
    monkeypatch.setattr("pipeline.selecting.plan.make_plan", fail)


def test_alias_back_at_a_complete_version_makes_it_current_without_reading_data(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = table(40)
    workspace.day(rows)
    first, second = v2_then_back_to_v1(workspace)
    nothing_is_planned(monkeypatch)
    record = workspace.complete()
    assert record.run_id not in (first.run_id, second.run_id)
    assert (record.state, record.model, record.renews) == (State.complete, first.model, first.run_id)
    assert record.ledger is not None
    assert record.ledger.balanced
    assert (record.ledger.candidates.rows, record.ledger.unchanged.rows, record.ledger.scored.rows) == (40, 40, 0)
    assert (record.committed, record.parts) == ((), first.parts)
    assert len(workspace.stored()) == 80
    assert scores_shown(workspace) == pytest.approx(by_torch(workspace.root / "toy-v1.pt", rows), abs=1e-5)
    assert workspace.run().up_to_date
    assert [finding.what for finding in verify(workspace.context().lake)] == []


@pytest.mark.slow
def test_alias_back_shows_the_versions_profile_and_drift_as_of_the_new_run(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.with_pages()
    workspace.day(table(200))
    workspace.day(table(300), "2026-01-02")
    workspace.run()
    first = workspace.complete("2026-01-02")
    workspace.model("v2", seed=3)
    workspace.complete("2026-01-02")
    workspace.context().registry.promote("toy", "v1", "production")
    query = "SELECT DISTINCT column_name, rows, run_id FROM profiles WHERE model_version = 'v1' AND ds = '2026-01-02'"
    before = shown(workspace, query)
    nothing_is_planned(monkeypatch)
    record = workspace.complete("2026-01-02")
    after = shown(workspace, query)
    assert {row.pop("run_id") for row in before} == {first.run_id}
    assert {row.pop("run_id") for row in after} == {record.run_id}
    assert sorted(map(str, after)) == sorted(map(str, before))
    drift = "SELECT DISTINCT run_id FROM drift WHERE model_version = 'v1' AND ds = '2026-01-02'"
    assert shown(workspace, drift) == [{"run_id": record.run_id}]


@pytest.mark.slow
def test_alias_back_leaves_days_that_are_not_run_as_they_are(workspace: Workspace) -> None:
    for ds in (DAY, "2026-01-02"):
        workspace.day(10, ds)
        workspace.run(ds)
    workspace.model("v2", seed=3)
    for ds in (DAY, "2026-01-02"):
        workspace.run(ds)
    workspace.context().registry.promote("toy", "v1", "production")
    workspace.run()
    found = shown(workspace, "SELECT DISTINCT ds, model_version FROM predictions ORDER BY ds")
    assert [tuple(row.values()) for row in found] == [(DAY, "v1"), ("2026-01-02", "v2")]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["input", "job", "part", "mark"])
def test_alias_back_where_anything_has_changed_since_plans_the_day(workspace: Workspace, what: str) -> None:
    rows = table(10)
    workspace.day(rows)
    first, _ = v2_then_back_to_v1(workspace)
    if what == "input":
        workspace.day(changed(rows, "a", {0: 5.0}))
    elif what == "job":
        workspace.job(policy='null_features = "score"')
    elif what == "part":
        rollback(workspace.context().lake, first.run_id)
    else:
        (workspace.lake / "predictions" / "job=toy" / f"ds={DAY}" / "model_version=v1" / "_SUCCESS").unlink()
    record = workspace.complete()
    assert record.renews is None
    assert record.model.version == "v1"
    assert record.statistics.reasons == {"input": {"changed": 1}, "part": {"model": 10}}.get(what, {})
    assert workspace.run().up_to_date


@pytest.mark.slow
def test_check_stage_after_an_alias_moved_back_leaves_nothing_to_do(workspace: Workspace) -> None:
    workspace.day(10)
    first, _ = v2_then_back_to_v1(workspace)
    done = single_stage.run_task(workspace.context(), "check", DAY)
    assert (done["up_to_date"], done["state"], done["model_version"]) == (True, "complete", "v1")
    record = workspace.context().lake.records.read("toy", DAY, done["run_id"])
    assert record.renews == first.run_id
    assert shown(workspace, "SELECT DISTINCT model_version FROM predictions") == [{"model_version": "v1"}]


def test_plan_after_an_alias_moved_back_counts_without_reading_and_is_not_up_to_date(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.day(10)
    v2_then_back_to_v1(workspace)
    nothing_is_planned(monkeypatch)
    found = preview(workspace.context(), DAY)
    assert not found.up_to_date
    assert (found.model.version, found.dispositions["scored"], found.dispositions["unchanged"]) == ("v1", 0, 10)


@pytest.mark.slow
def test_run_that_renews_another_can_be_rolled_back(workspace: Workspace) -> None:
    workspace.day(10)
    v2_then_back_to_v1(workspace)
    record = workspace.complete()
    rollback(workspace.context().lake, record.run_id)
    assert shown(workspace, "SELECT DISTINCT model_version FROM predictions") == [{"model_version": "v2"}]
    assert workspace.complete().model.version == "v1"
    assert shown(workspace, "SELECT DISTINCT model_version FROM predictions") == [{"model_version": "v1"}]


# Change times of the input


def rewrite_in_place(path: Path, content: bytes) -> None:
    """Gives a file other content; size, inode and modification time stay."""
    before = path.stat()
    assert len(content) == before.st_size
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.slow
def test_input_rewritten_in_place_with_its_size_and_time_is_noticed(workspace: Workspace) -> None:
    path = workspace.day({"id": ["u0", "u1"], "a": [1.0, 2.0], "b": [1.0, 1.0]})
    workspace.run()
    assert workspace.run().up_to_date
    other = workspace.day({"id": ["u0", "u1"], "a": [1.5, 2.0], "b": [1.0, 1.0]}, file="other")
    content = other.read_bytes()
    other.unlink()
    rewrite_in_place(path, content)
    assert status(workspace.context().lake, workspace.context().job, None)[0].note == "the input changed since"
    assert workspace.complete().statistics.reasons == {"changed": 1}


@pytest.mark.slow
def test_input_whose_mode_or_links_change_is_planned_again_and_nothing_is_scored(workspace: Workspace) -> None:
    path = workspace.day(5)
    workspace.run()
    path.chmod(0o600)
    assert workspace.complete().dispositions["unchanged"] == 5
    os.link(path, workspace.root / "backup")
    assert workspace.complete().dispositions["unchanged"] == 5
    assert workspace.run().up_to_date


def test_record_of_an_earlier_version_without_change_times_compares_as_before(workspace: Workspace) -> None:
    path = workspace.day(5)
    workspace.run()
    (record,) = (workspace.lake / "runs").rglob("*.json")
    record.write_text(record.read_text().replace('"changed_ns"', '"unknown"'))
    path.chmod(0o600)
    assert workspace.run().up_to_date


def test_input_that_changes_its_mode_while_a_run_waits_is_noticed_by_the_commit(workspace: Workspace) -> None:
    path = workspace.day(5)
    ctx = workspace.context()
    record = scored(ctx)
    path.chmod(0o600)
    with pytest.raises(InputChanged, match="changed while it was scored"):
        commit(ctx, record)
