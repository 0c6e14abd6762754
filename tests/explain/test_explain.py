"""`explain`: every prediction of a key, the input row it was made from, replay and attribution."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from pipeline.care.rollback import rollback
from pipeline.database.connection import connect
from pipeline.errors import OutOfMemory, UsageError
from pipeline.explain import inputs, key_lookup
from pipeline.explain.explaining import Answer, explain
from pipeline.explain.found import FoundPrediction
from pipeline.ingest.generate import generate_day
from pipeline.ingest.importing import import_files
from pipeline.model import golden
from pipeline.model.card import Card
from pipeline.model.registry import Registry
from pipeline.records import State
from pipeline.tabular import sources
from tests import small_models
from tests.explain.history import DAY2, add_history
from tests.workspace import DAY, Workspace, changed, kept_as_it_is, table


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    workspace = Workspace(tmp_path_factory.mktemp("history"))
    workspace.job()
    workspace.model()
    add_history(workspace)
    with kept_as_it_is(workspace):
        yield workspace


@pytest.fixture
def history(made: Workspace, tmp_path: Path) -> Workspace:
    return made.copy_to(tmp_path)


def ask(workspace: Workspace, key: str, ds: str | None = None, *, replay: bool = False) -> Answer:
    return explain(workspace.context(), key, ds, replay=replay)


def named(found: Answer) -> list[tuple[Any, ...]]:
    return [(each.ds, each.model_version, each.revision, each.current, each.reason) for each in found.predictions]


@pytest.mark.slow
def test_explain_lists_every_prediction_newest_day_and_current_one_first(history: Workspace) -> None:
    assert named(ask(history, "u3")) == [
        (DAY2, "v2", 0, True, "new"),
        (DAY, "v2", 0, True, "model"),
        (DAY, "v1", 1, False, "changed"),
        (DAY, "v1", 0, False, "new"),
    ]
    assert len(history.stored("SELECT ds FROM predictions WHERE id = 'u3'")) == 4


def test_explain_only_the_newest_revision_is_current(workspace: Workspace) -> None:
    rows = table(10)
    workspace.day(rows)
    workspace.run()
    workspace.day(changed(rows, "a", {3: 9.0}))
    workspace.run()
    assert [(each.revision, each.current) for each in ask(workspace, "u3").predictions] == [(1, True), (0, False)]


def test_explain_of_one_day_reads_no_other(history: Workspace) -> None:
    assert {each.ds for each in ask(history, "u3", DAY).predictions} == {DAY}


def test_explain_says_what_the_run_record_knows(history: Workspace) -> None:
    (each, *_) = ask(history, "u3", DAY2).predictions
    record = history.context().lake.records.last_complete("toy", DAY2)
    assert record is not None
    assert (each.run_id, each.model_digest, each.state) == (record.run_id, record.model.digest, State.complete)
    assert sum(each.checks.values()) == len(record.checks)
    assert any("nulls:a" in finding or "class_share" in finding for finding in each.findings) == bool(each.findings)
    stored = history.stored(f"SELECT * FROM predictions WHERE id = 'u3' AND ds = '{DAY2}'")[0]
    assert each.outputs["prob_class_1"] == stored["prob_class_1"]
    assert (history.lake / each.part).is_file()


def test_explain_finds_the_input_row_its_file_and_row_group(workspace: Workspace) -> None:
    rows = table(100)
    workspace.day(rows.slice(0, 30), file="a.parquet")
    path = workspace.lake / f"unscored/ds={DAY}/b.parquet"
    pq.write_table(rows.slice(30), path, row_group_size=20)
    workspace.run()
    (each,) = ask(workspace, "u77").predictions
    assert each.input is not None
    assert (each.input.file, each.input.row_group, each.input.row) == (f"unscored/ds={DAY}/b.parquet", 2, 47)
    assert each.input.files == (f"unscored/ds={DAY}/a.parquet", f"unscored/ds={DAY}/b.parquet")
    assert (each.input.same, each.input.changed) == (True, ())
    assert each.input.features == pytest.approx({"a": rows["a"][77].as_py(), "b": rows["b"][77].as_py()}, abs=1e-6)


def test_explain_tells_whether_the_input_row_is_what_was_scored(history: Workspace) -> None:
    by_revision = {(each.model_version, each.revision): each for each in ask(history, "u3", DAY).predictions}
    assert by_revision["v1", 1].input is not None
    assert by_revision["v1", 1].input.same
    first = by_revision["v1", 0].input
    assert first is not None
    assert first.same is False
    assert first.changed == (f"unscored/ds={DAY}/data.parquet",)


def test_explain_input_that_is_gone_is_said(history: Workspace) -> None:
    (history.lake / f"unscored/ds={DAY2}/data.parquet").unlink()
    (each,) = ask(history, "u3", DAY2, replay=True).predictions
    assert each.input is not None
    assert each.input.note == "no input file exists any more"
    assert each.replay is None


def test_explain_out_of_memory_is_not_blamed_on_the_input(history: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "fit", lambda con, _resources: con.execute("SET memory_limit = '100KB'"))
    with pytest.raises(OutOfMemory, match="DuckDB ran out of memory"):
        ask(history, "u3")


def test_explain_input_row_that_is_gone_is_said(history: Workspace) -> None:
    history.day(table(3), DAY2)
    (each,) = ask(history, "u3", DAY2).predictions
    assert each.input is not None
    assert each.input.note == "the input no longer has this row"


def test_explain_input_without_a_feature_any_more_is_said(history: Workspace) -> None:
    history.day({"id": ["u3"], "a": [1.0]}, DAY2)
    (each,) = ask(history, "u3", DAY2, replay=True).predictions
    assert each.input is not None
    assert each.input.note == "the input cannot be read: it no longer has the column b"


def test_explain_of_copies_takes_the_row_with_the_fingerprint(workspace: Workspace) -> None:
    workspace.day({"id": ["x", "x", "y"], "a": [1.0, 1.0, 2.0], "b": [0.0, 0.0, 0.0]})
    workspace.run()
    workspace.day({"id": ["x", "x", "y"], "a": [5.0, 1.0, 2.0], "b": [0.0, 0.0, 0.0]})
    (each,) = ask(workspace, "x").predictions
    assert each.input is not None
    assert (each.input.rows, each.input.row, each.input.same) == (2, 1, True)


def test_explain_shows_what_is_in_quarantine(history: Workspace) -> None:
    found = ask(history, "u5")
    assert [(each.ds, each.reasons) for each in found.rejected] == [(DAY2, ["null:a"])]
    assert {each.ds for each in found.predictions} == {DAY}


def test_explain_of_a_rolled_back_run_has_gone(history: Workspace) -> None:
    ctx = history.context()
    record = ctx.lake.records.last_complete("toy", DAY2)
    assert record is not None
    rollback(ctx.lake, record.run_id)
    assert {each.ds for each in ask(history, "u3").predictions} == {DAY}


def test_explain_unknown_key_is_wrong_usage(history: Workspace) -> None:
    with pytest.raises(UsageError, match="nothing is stored for the key 'nobody'"):
        ask(history, "nobody")


@pytest.mark.parametrize("key", ["u3' OR '1'='1", "'; DROP TABLE x; --", 'u3" OR 1=1', "*", "%", "u_"])
def test_explain_key_is_a_value_and_no_sql(history: Workspace, key: str) -> None:
    with pytest.raises(UsageError, match="nothing is stored for the key"):
        ask(history, key)


# Keys of other kinds


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (pa.array([7, 8], pa.int32()), "8"),
        (pa.array([2**40, -8]), "-8"),
        (pa.array([date(2026, 1, 5), date(2026, 1, 6)]), "2026-01-06"),
        (pa.array([True, False]), "false"),
        (pa.array(["a", "ü,\\'"]), "ü,\\'"),
    ],
    ids=["int32", "int64", "date", "boolean", "text"],
)
def test_explain_key_of_any_type(workspace: Workspace, values: pa.Array, text: str) -> None:
    workspace.day(pa.table({"id": values, "a": [1.0, 2.0], "b": [0.0, 0.0]}))
    workspace.run()
    (each,) = ask(workspace, text).predictions
    assert each.input is not None
    assert each.input.features == {"a": 2.0, "b": 0.0}


def test_explain_text_that_cannot_be_the_key_is_wrong_usage(workspace: Workspace) -> None:
    workspace.day({"id": [1, 2], "a": [1.0, 2.0], "b": [0.0, 0.0]})
    workspace.run()
    with pytest.raises(UsageError, match="'one' is not a valid id"):
        ask(workspace, "one")


def test_explain_key_of_several_columns(workspace: Workspace) -> None:
    folder = workspace.job()
    text = (folder / "job.toml").read_text().replace('key = ["id"]', 'key = ["id", "number"]')
    (folder / "job.toml").write_text(text)
    workspace.day({"id": ["a,b", "a", "a,b"], "number": [1, 1, 2], "a": [1.0, 2.0, 3.0], "b": [0.0, 0.0, 0.0]})
    workspace.run()
    (each,) = ask(workspace, r"a\,b,2").predictions
    assert each.input is not None
    assert each.input.features == {"a": 3.0, "b": 0.0}
    with pytest.raises(UsageError, match="the key has 2 columns"):
        ask(workspace, "a")


@pytest.mark.parametrize(
    ("text", "columns", "expected"),
    [("a,b", 1, ["a,b"]), ("a,b", 2, ["a", "b"]), (r"a\,b,c", 2, ["a,b", "c"]), (r"a\\,b", 2, ["a\\", "b"])],
)
def test_split_undoes_key_text(text: str, columns: int, expected: list[str]) -> None:
    assert key_lookup.split(text, columns) == expected


def test_explain_job_with_a_select_finds_the_row_that_it_makes(workspace: Workspace) -> None:
    folder = workspace.job()
    (folder / "job.toml").write_text(
        '[model]\nname = "toy"\n[input]\nselect = "rows.sql"\nkey = ["id"]\n'
        '[input.sources]\norders = "unscored/ds={ds}/*.parquet"\n[policy]\nmax_quarantined = 1.0\n'
    )
    (folder / "rows.sql").write_text("SELECT who AS id, sum(price) AS a, count(*) AS b FROM orders GROUP BY who")
    workspace.day({"who": ["x", "x", "y"], "price": [1.0, 2.0, 3.0]})
    workspace.run()
    (each,) = ask(workspace, "x", replay=True).predictions
    assert each.input is not None
    assert each.input.features == {"a": 3.0, "b": 2.0}
    assert each.input.same
    assert each.input.file is None
    assert each.replay is not None
    assert each.replay.reproduced


# Replay and attribution


def test_replay_reproduces_what_is_stored_and_tells_of_other_input(history: Workspace) -> None:
    found = ask(history, "u3", replay=True)
    replays = [each.replay for each in found.predictions]
    assert [replay is not None and replay.reproduced for replay in replays] == [True, True, True, False]
    assert replays[3] is not None
    assert replays[3].same_input is False
    assert found.notes == []


def test_replay_uses_the_precision_of_the_run(workspace: Workspace) -> None:
    job = workspace.job() / "job.toml"
    plain = job.read_text()
    job.write_text(plain + '\n[engine]\nprecision = "bfloat16"\n')
    workspace.day(40)
    workspace.run()
    job.write_text(plain)
    (each,) = ask(workspace, "u3", replay=True).predictions
    assert each.replay is not None
    assert (each.replay.reproduced, each.replay.tolerance) == (True, golden.BFLOAT16_TOLERANCE)


def test_replay_of_a_tampered_prediction_differs(history: Workspace) -> None:
    (each,) = ask(history, "u3", DAY2).predictions
    part = history.lake / each.part
    stored = pq.read_table(part, partitioning=None)
    row = stored["id"].to_pylist().index("u3")
    before = stored["prob_class_1"][row].as_py()
    part.unlink()
    pq.write_table(changed(stored, "prob_class_1", {row: before + 0.125}), part)
    (each,) = ask(history, "u3", DAY2, replay=True).predictions
    assert each.replay is not None
    assert each.replay.difference == pytest.approx(0.125, abs=1e-6)
    assert not each.replay.reproduced


def test_replay_of_a_model_that_is_gone_is_noted(history: Workspace) -> None:
    (Path(history.settings.models) / "toy" / "v1" / "model.json").unlink()
    found = ask(history, "u3", replay=True)
    assert [bool(each.replay) for each in found.predictions] == [True, True, False, False]
    assert any("v1" in note for note in found.notes)


def test_attribution_adds_up_and_names_its_baseline(history: Workspace) -> None:
    first: FoundPrediction = ask(history, "u3", DAY, replay=True).predictions[0]
    found = first.attribution
    assert found is not None
    assert found.method == "exact Shapley values"
    assert sum(found.shares.values()) == pytest.approx(found.score - found.baseline_score, abs=1e-6)
    assert found.score == pytest.approx(first.outputs["prediction_proba"], abs=1e-6)
    assert found.baseline


def test_attribution_of_scaled_numbers_is_that_of_the_scaled_row_and_mean(workspace: Workspace) -> None:
    """For a linear model each share is weight times distance, here of the scaled values."""
    path = workspace.root / "linear.pt"
    state = {"fc.weight": torch.tensor([[2.0, -3.0]]), "fc.bias": torch.tensor([1.0])}
    torch.save({"model_state_dict": state, "input_dim": 2, "output_dim": 1}, path)
    inputs = {
        "a": {"kind": "number", "null": 5, "scale": {"mean": 10, "std": 4}},
        "b": {"kind": "number", "scale": [{"clip": [0, 100]}, {"log1p": True}]},
    }
    Registry(Path(workspace.settings.models)).register(
        path,
        name="toy",
        version="v2",
        features=["a", "b"],
        alias="production",
        card=Card(signature={"task": "regression", "inputs": inputs}),
    )
    a, b = [None, 12.0, 20.0, 13.0], [0.0, 3.0, 500.0, 9.0]
    workspace.day(pa.table({"id": [f"u{index}" for index in range(4)], "a": a, "b": b}))
    workspace.complete()
    found = ask(workspace, "u2", DAY, replay=True).predictions[0].attribution
    assert found is not None
    means = 45 / 3, 512 / 4
    share_a = 2 * ((20 - 10) / 4 - (means[0] - 10) / 4)
    share_b = -3 * (math.log(101) - math.log(101))  # both are clipped
    assert found.shares == pytest.approx({"a": share_a, "b": share_b}, abs=1e-5)
    assert found.baseline_features == pytest.approx({"a": means[0], "b": means[1]}, rel=1e-6)
    found = ask(workspace, "u0", DAY, replay=True).predictions[0].attribution
    assert found is not None
    assert found.shares["a"] == pytest.approx(2 * ((5 - 10) / 4 - (means[0] - 10) / 4), abs=1e-5)
    assert found.shares["b"] == pytest.approx(3 * math.log(101), abs=1e-5)


@pytest.mark.parametrize("task", ["multilabel", "ranking"])
def test_attribution_of_lists_is_that_of_the_first_item_or_the_likeliest_label(workspace: Workspace, task: str) -> None:
    """For a linear ranking each share is weight times distance from the mean row."""
    small_models.register(workspace, task, "v2")
    Registry(Path(workspace.settings.models)).promote("toy", "v2", "production")
    workspace.day(table(50))
    workspace.complete()
    (first,) = ask(workspace, "u7", DAY, replay=True).predictions
    found = first.attribution
    assert found is not None
    if task == "multilabel":
        assert found.score == pytest.approx(max(first.outputs[f"prob_class_{index}"] for index in range(3)), abs=1e-6)
        return
    item = first.outputs["top_items"][0]
    weight = load_file(workspace.root / "ranking-v2.safetensors")["0.weight"][small_models.ITEMS.index(item)].tolist()
    rows = table(50).to_pydict()
    expected = {name: each * (rows[name][7] - sum(rows[name]) / 50) for name, each in zip("ab", weight, strict=True)}
    assert found.target == f"score of {item}"
    assert found.score == pytest.approx(first.outputs["top_scores"][0], abs=1e-6)
    assert found.shares == pytest.approx(expected, abs=1e-5)


def test_missing_attribution_says_why(workspace: Workspace) -> None:
    inputs = {"b": {"kind": "category", "vocabulary": ["x", "y"]}}
    small_models.register(workspace, "regression", "v2", inputs=inputs)
    Registry(Path(workspace.settings.models)).promote("toy", "v2", "production")
    workspace.day(pa.table({"id": ["u1"], "a": [1.0], "b": ["y"]}))
    workspace.complete()
    answer = ask(workspace, "u1", DAY, replay=True)
    assert answer.predictions[0].replay is not None
    assert answer.notes == ["no attribution of v2: b are no numbers, and have no mean to compare with"]


# Speed: what it rests on


def test_published_keys_have_bloom_filters_with_which_row_groups_are_skipped(workspace: Workspace) -> None:
    workspace.day(200)
    record = workspace.complete()
    path = str(workspace.lake / record.committed[0].path)
    with connect() as con:
        query = "SELECT bloom_filter_excludes FROM parquet_bloom_probe($path, 'id', $key)"
        present = con.sql(query, params={"path": path, "key": "u7"}).fetchall()
        absent = [con.sql(query, params={"path": path, "key": f"nobody{i}"}).fetchall()[0][0] for i in range(50)]
    assert present == [(False,)]
    assert sum(absent) >= 45
    assert Path(path).stat().st_size < 20_000


@pytest.mark.parametrize("way", ["import", "generate"])
def test_brought_in_keys_have_bloom_filters(workspace: Workspace, way: str) -> None:
    ctx = workspace.context()
    if way == "generate":
        generate_day(ctx.lake, DAY, rows=200)
    else:
        pq.write_table(table(200), workspace.root / "rows.parquet")
        import_files(ctx.lake, ctx.job, sources.find([workspace.root / "rows.parquet"]), ds=DAY)
    (path,) = (workspace.lake / f"unscored/ds={DAY}").glob("*.parquet")
    with connect() as con:
        query = "SELECT bool_and(bloom_filter_excludes) FROM parquet_bloom_probe($path, 'id', $key)"
        excluded = [con.sql(query, params={"path": str(path), "key": f"nobody{i}"}).fetchall()[0][0] for i in range(50)]
    assert sum(excluded) >= 45
