"""`explain`: every prediction of a key, the input row it was made from, replay and attribution."""

from __future__ import annotations

import json
import re
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from pipeline import database
from pipeline.care.rollback import rollback
from pipeline.cli import explain as command
from pipeline.errors import UsageError
from pipeline.explain import lookup
from pipeline.explain.answer import Answer, explain
from pipeline.explain.history import Explained
from pipeline.ingest import sources
from pipeline.ingest.generate import generate_day
from pipeline.ingest.importing import import_files
from pipeline.model import golden
from pipeline.records import State
from tests.workspace import DAY, Workspace, changed, table

DAY2 = "2026-01-02"


@pytest.fixture
def history(workspace: Workspace) -> Workspace:
    """`u3`: scored, changed, scored by a second version, and on a second day; `u5` is in quarantine there."""
    rows = table(40)
    workspace.day(rows)
    workspace.run()
    workspace.day(changed(rows, "a", {3: 9.0}))
    workspace.run()
    workspace.model("v2", seed=4)
    workspace.run()
    workspace.day(changed(rows, "a", {5: None}), DAY2)
    workspace.run(DAY2)
    return workspace


def ask(workspace: Workspace, key: str, ds: str | None = None, *, replay: bool = False) -> Answer:
    return explain(workspace.context(), key, ds, replay=replay)


def named(found: Answer) -> list[tuple[Any, ...]]:
    return [(each.ds, each.model_version, each.revision, each.current, each.reason) for each in found.predictions]


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
    record = history.context().lake.last_complete("toy", DAY2)
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
    assert each.input.note == "no file of the input is there any more"
    assert each.replay is None


def test_explain_input_row_that_is_gone_is_said(history: Workspace) -> None:
    history.day(table(3), DAY2)
    (each,) = ask(history, "u3", DAY2).predictions
    assert each.input is not None
    assert each.input.note == "the input has no such row any more"


def test_explain_input_without_a_feature_any_more_is_said(history: Workspace) -> None:
    history.day({"id": ["u3"], "a": [1.0]}, DAY2)
    (each,) = ask(history, "u3", DAY2, replay=True).predictions
    assert each.input is not None
    assert each.input.note == "the input cannot be read: it has no column b any more"


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
    record = ctx.lake.last_complete("toy", DAY2)
    assert record is not None
    rollback(ctx.lake, record.run_id)
    assert {each.ds for each in ask(history, "u3").predictions} == {DAY}


def test_explain_unknown_key_is_wrong_usage(history: Workspace) -> None:
    with pytest.raises(UsageError, match="nothing was ever predicted for the key 'nobody'"):
        ask(history, "nobody")


@pytest.mark.parametrize("key", ["u3' OR '1'='1", "'; DROP TABLE x; --", 'u3" OR 1=1', "*", "%", "u_"])
def test_explain_key_is_a_value_and_no_sql(history: Workspace, key: str) -> None:
    with pytest.raises(UsageError, match="nothing was ever predicted"):
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
    with pytest.raises(UsageError, match="'one' cannot be a id"):
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
    assert lookup.split(text, columns) == expected


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
    first: Explained = ask(history, "u3", DAY, replay=True).predictions[0]
    found = first.attribution
    assert found is not None
    assert found.method == "exact Shapley values"
    assert sum(found.shares.values()) == pytest.approx(found.score - found.baseline_score, abs=1e-6)
    assert found.score == pytest.approx(first.outputs["prediction_proba"], abs=1e-6)
    assert found.baseline


# The command


@pytest.fixture
def cli(history: Workspace, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("LAKESCORE_LAKE", history.settings.lake)
    monkeypatch.setenv("LAKESCORE_JOBS", str(history.settings.jobs))
    monkeypatch.setenv("LAKESCORE_MODELS", history.settings.models)
    app = typer.Typer()
    command.add_to(app)

    def call(*arguments: str) -> str:
        done = CliRunner().invoke(app, [*arguments, "--job", "toy"], catch_exceptions=False)
        assert done.exit_code == 0
        return done.stdout

    return call


def test_cli_shows_predictions_input_and_attribution(cli: Any) -> None:
    shown = cli("u3", "--replay")
    assert "4 predictions" in shown
    assert re.search(r"row group 0, row 3", shown)
    assert "exact Shapley values; baseline: " in shown


def test_cli_json_has_everything(cli: Any) -> None:
    found = json.loads(cli("u3", "--replay", "--json"))
    first = found["predictions"][0]
    assert first["replay"]["same_model"]
    assert first["input"]["row_group"] == 0
    assert set(first["attribution"]["shares"]) == {"a", "b"}


# Speed: what it rests on


def test_published_keys_have_bloom_filters_with_which_row_groups_are_skipped(workspace: Workspace) -> None:
    workspace.day(200)
    record = workspace.complete()
    path = str(workspace.lake / record.committed[0].path)
    with database.connection() as con:
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
    with database.connection() as con:
        query = "SELECT bool_and(bloom_filter_excludes) FROM parquet_bloom_probe($path, 'id', $key)"
        excluded = [con.sql(query, params={"path": str(path), "key": f"nobody{i}"}).fetchall()[0][0] for i in range(50)]
    assert sum(excluded) >= 45
