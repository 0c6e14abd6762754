"""Scoring tables and files without a lake."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.api.scorer import Scorer, score_file
from pipeline.errors import (
    IncompleteFile,
    InputError,
    InputMissing,
    LakescoreError,
    ModelNotFound,
    SchemaMismatch,
    UsageError,
)
from pipeline.storage.parquet import ROW_GROUP
from pipeline.tabular import sources
from tests.workspace import Workspace, table

ROWS = pa.table({"id": ["x", "y", "z"], "a": [1.0, None, 3.0], "b": [2, 2, 2]})
OUTPUTS = ["prediction", "prediction_proba", "prob_class_0", "prob_class_1"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = Workspace(tmp_path_factory.mktemp("models"))
    workspace.model()
    return Path(workspace.settings.models)


@pytest.fixture(scope="module")
def scorer(models: Path) -> Scorer:
    return Scorer.load("toy", models=models)


def by_hand(models: Path, rows: pa.Table) -> list[list[float]]:
    """Returns the probabilities of the same network, computed by hand."""
    state = torch.load(models / "toy" / "v1" / "model.pt", weights_only=True)["model_state_dict"]
    x = torch.tensor(np.column_stack([rows["a"], rows["b"]]), dtype=torch.float32)  # (rows, 2)
    for layer in range(3):
        x = x @ state[f"fc{layer}.weight"].T + state[f"fc{layer}.bias"]
        x = torch.relu(x) if layer < 2 else torch.softmax(x, 1)
    return x.tolist()


def probabilities(found: pa.Table) -> list[list[float]]:
    return [list(row) for row in zip(*(found[name].to_pylist() for name in OUTPUTS[2:]), strict=True)]


# Tables


@pytest.mark.slow
def test_score_table_gives_a_row_of_predictions_for_each_row_in_order(scorer: Scorer, models: Path) -> None:
    rows = table(ROW_GROUP + 7)
    found = scorer.score(rows)
    assert found.column_names == OUTPUTS
    expected = by_hand(models, rows)
    np.testing.assert_allclose(probabilities(found), expected, atol=1e-6)
    assert found["prediction"].to_pylist() == [int(second > first) for first, second in expected]
    assert found["prediction_proba"].to_pylist() == [max(row) for row in probabilities(found)]


def test_score_table_columns_in_any_order_beside_others_give_the_same(scorer: Scorer) -> None:
    shuffled = pa.table({"b": ROWS["b"], "odd": pa.array([[1]] * 3), "f16": pa.nulls(3, pa.float16()), "a": ROWS["a"]})
    assert scorer.score(shuffled) == scorer.score(ROWS)


def test_score_table_row_with_a_null_or_infinite_feature_has_no_prediction(scorer: Scorer, models: Path) -> None:
    values = [1.0, None, float("inf"), float("nan"), 1e300, 4.0]
    found = scorer.score(pa.table({"a": pa.array(values), "b": [1.0] * 6}))
    scored = pa.table({"a": [1.0, 4.0], "b": [1.0, 1.0]})
    assert [row is not None for row in found["prediction"].to_pylist()] == [True, False, False, False, False, True]
    np.testing.assert_allclose(probabilities(found.take([0, 5])), by_hand(models, scored), atol=1e-6)
    assert found.take([1, 2, 3, 4]).to_pylist() == [dict.fromkeys(OUTPUTS)] * 4


def test_score_table_without_rows_or_without_a_valid_one_keeps_the_schema(scorer: Scorer) -> None:
    empty = scorer.score(ROWS.slice(0, 0))
    assert (empty.num_rows, empty.schema) == (0, scorer.schema)
    assert scorer.score(ROWS.slice(1, 1)).to_pylist() == [dict.fromkeys(OUTPUTS)]


@pytest.mark.parametrize(
    "values",
    [
        pa.array([1, None], pa.int8()),
        pa.array([1, None], pa.float16()),
        pa.array([True, None]),
        pa.array([Decimal("1.0"), None], pa.decimal128(5, 1)),
        pa.array([1.0, None]).dictionary_encode(),
    ],
    ids=lambda values: str(values.type)[:10],
)
def test_score_table_feature_of_any_number_is_scored(scorer: Scorer, values: pa.Array) -> None:
    expected = scorer.score(pa.table({"a": pa.array([1.0, None]), "b": [2.0, 2.0]}))
    assert scorer.score(pa.table({"a": values, "b": [2.0, 2.0]})) == expected


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (pa.table({"A": [1.0], "b": [1.0]}), r"no column a \(did you mean 'A'\?\)"),
        (pa.table({"a": ["1"], "b": [1.0]}), r"must be a number(?s:.)*got +a string"),
        (pa.table({"a": [[1.0]], "b": [1.0]}), r"must be a number(?s:.)*got +a list"),
        (pa.table([pa.array([1.0])] * 3, names=["a", "a", "b"]), r"'a' appears twice"),
        (pd.DataFrame({"A": [1.0], "b": [1.0]}), r"no column a \(did you mean 'A'\?\)"),
        (pd.DataFrame({"a": ["1"], "b": [1.0]}), r"must be a number"),
        (pd.DataFrame({"a": pd.Series([1.0, "x"], dtype=object), "b": [1.0, 1.0]}), r"must be a number(?s:.)*'x'"),
        (pd.DataFrame([[1.0, 1.0, 1.0]], columns=["a", "a", "b"]), r"'a' appears twice"),
        (pd.DataFrame({0: [1.0], 1: [1.0]}), r"no column a, b"),
    ],
    ids=[
        "case",
        "text",
        "list",
        "twice",
        "frame, case",
        "frame, text",
        "frame, mixed",
        "frame, twice",
        "frame, numbers",
    ],
)
def test_score_table_that_does_not_fit_is_refused(scorer: Scorer, rows: Any, message: str) -> None:
    with pytest.raises(SchemaMismatch, match=message):
        scorer.score(rows)


@pytest.mark.parametrize(
    "index",
    [
        pd.Index(["p", "q", "p"], name="who"),
        pd.MultiIndex.from_tuples([(1, "x"), (1, "y"), (0, "x")], names=["n", "m"]),
        pd.date_range("2026-01-01", periods=3),
        pd.RangeIndex(10, 13),
    ],
    ids=["text, twice", "two levels", "days", "range"],
)
def test_score_frame_keeps_its_index_and_is_left_alone(scorer: Scorer, index: pd.Index) -> None:
    frame = pd.DataFrame({"a": [1.0, None, 3.0], "other": ["p", "q", None], "b": [2, 2, 2]}, index=index)
    before = frame.copy()
    found = scorer.score(frame)
    pd.testing.assert_index_equal(found.index, index)
    pd.testing.assert_frame_equal(frame, before)
    pd.testing.assert_frame_equal(found.reset_index(drop=True), scorer.score(ROWS).to_pandas())


def test_score_frame_of_nullable_and_object_columns_is_scored(scorer: Scorer) -> None:
    frame = pd.DataFrame({"a": pd.Series([1, None, 3], dtype=object), "b": pd.Series([2, 2, 2], dtype="Int8")})
    pd.testing.assert_frame_equal(scorer.score(frame), scorer.score(ROWS).to_pandas())


def test_load_absent_model_is_not_found(models: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"no model is called 'tyo', did you mean 'toy'\?"):
        Scorer.load("tyo", models=models)
    with pytest.raises(ModelNotFound, match="no version or alias 'v9'"):
        Scorer.load("toy", "v9", models=models)


# Files


def written(path: Path, rows: pa.Table = ROWS) -> Path:
    if path.suffix == ".csv":
        pa.csv.write_csv(rows, path)
    else:
        pq.write_table(rows, path)
    return path


def read(path: Path) -> pa.Table:
    if path.suffix.lower() == ".csv":
        return pa.csv.read_csv(path, convert_options=pa.csv.ConvertOptions(strings_can_be_null=True))
    return pq.read_table(path)


@pytest.mark.parametrize("source", ["in.csv", "in.parquet"])
@pytest.mark.parametrize("target", ["out.csv", "out.parquet", "out.PARQUET"])
def test_score_file_gives_its_columns_and_predictions(scorer: Scorer, tmp_path: Path, source: str, target: str) -> None:
    assert score_file(scorer, written(tmp_path / source), tmp_path / target) == (3, 1)
    found = read(tmp_path / target)
    assert found.column_names == [*ROWS.column_names, *OUTPUTS]
    assert found["id"].to_pylist() == ["x", "y", "z"]
    expected = scorer.score(ROWS)
    for name in OUTPUTS:
        assert found[name].to_pylist() == pytest.approx(expected[name].to_pylist(), abs=1e-6), name
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([source, target])


def test_score_file_of_many_batches_keeps_the_order(scorer: Scorer, tmp_path: Path) -> None:
    rows = table(ROW_GROUP + 11)
    done: list[tuple[int, int]] = []
    source, target = written(tmp_path / "in.parquet", rows), tmp_path / "out.parquet"
    assert score_file(scorer, source, target, progress=lambda *at: done.append(at)) == (rows.num_rows, 0)
    found = read(target)
    assert found.select(rows.column_names) == rows
    assert found.select(OUTPUTS) == scorer.score(rows)
    assert done[-1] == (rows.num_rows, rows.num_rows)
    assert done == sorted(done)


def test_score_file_without_rows_gives_a_file_without_rows(scorer: Scorer, tmp_path: Path) -> None:
    assert score_file(scorer, written(tmp_path / "in.parquet", ROWS.slice(0, 0)), tmp_path / "out.parquet") == (0, 0)
    assert read(tmp_path / "out.parquet").column_names == [*ROWS.column_names, *OUTPUTS]


def refused(scorer: Scorer, source: Path, target: Path, kind: type[LakescoreError], message: str) -> LakescoreError:
    before = {path: path.read_bytes() for path in source.parent.rglob("*") if path.is_file()}
    with pytest.raises(kind, match=message) as caught:
        score_file(scorer, source, target)
    assert {path: path.read_bytes() for path in source.parent.rglob("*") if path.is_file()} == before
    return caught.value


def test_score_file_output_there_already_is_kept_unless_told(scorer: Scorer, tmp_path: Path) -> None:
    source, target = written(tmp_path / "in.csv"), tmp_path / "out.csv"
    target.write_text("precious")
    refused(scorer, source, target, UsageError, "the output already exists(?s:.)*--replace")
    score_file(scorer, source, target, replace=True)
    assert read(target).num_rows == 3


@pytest.mark.parametrize(
    ("source", "target", "kind", "message"),
    [
        ("absent.csv", "out.csv", InputMissing, "no such file"),
        ("in.csv", "out.tsv", UsageError, r"unknown file extension(?s:.)*\.csv or \.parquet"),
        ("absent.json", "out.csv", InputMissing, r"no such file"),
        ("in.csv", "out.json", UsageError, r"unknown file extension(?s:.)*out\.json"),
        ("in.csv", "out", UsageError, r"unknown file extension"),
        ("in.csv", "no/out.csv", UsageError, r"the output folder does not exist"),
        ("in.csv", "folder.csv", UsageError, r"the output already exists"),
        ("folder.csv", "out.csv", UsageError, r"this is a folder"),
    ],
)
def test_score_file_bad_path_is_refused(
    scorer: Scorer, tmp_path: Path, source: str, target: str, kind: type[LakescoreError], message: str
) -> None:
    written(tmp_path / "in.csv")
    (tmp_path / "folder.csv").mkdir()
    refused(scorer, tmp_path / source, tmp_path / target, kind, message)


@pytest.mark.parametrize(
    ("text", "kind", "message", "line"),
    [
        ("id,A,b\nx,1,2\n", SchemaMismatch, r"no column a \(did you mean 'A'\?\)", 0),
        ("id,a,b\nx,one,2\n", SchemaMismatch, r"'a' must hold numbers(?s:.)*'one'", 2),
        ("id,a,b\n" + "x,1,2\n" * 30_000 + "x,one,2\n", SchemaMismatch, r"'a' must hold numbers(?s:.)*'one'", 30_002),
        ("a,b,prob_class_0\n1,2,3\n", SchemaMismatch, r"already has a column prob_class_0", 0),
        ("a,b,Prediction\n1,2,3\n", SchemaMismatch, r"already has a column Prediction", 0),
        ("", InputError, r"the file is empty", 0),
        ("\0\1\2" * 1000, LakescoreError, "no column a, b|cannot be read", 0),
    ],
    ids=["case", "text", "text late", "clash", "clash in capitals", "empty", "binary"],
)
@pytest.mark.parametrize("target", ["out.csv", "out.parquet"])
def test_score_file_bad_content_is_refused_and_leaves_nothing(
    scorer: Scorer, tmp_path: Path, text: str, kind: type[LakescoreError], message: str, line: int, target: str
) -> None:
    (tmp_path / "in.csv").write_text(text)
    error = refused(scorer, tmp_path / "in.csv", tmp_path / target, kind, message)
    assert error.where == str(tmp_path / "in.csv") + (f", line {line}" if line else "")


def test_score_file_truncated_file_is_refused(scorer: Scorer, tmp_path: Path) -> None:
    source = written(tmp_path / "in.parquet")
    source.write_bytes(source.read_bytes()[:-9])
    assert refused(scorer, source, tmp_path / "out.csv", IncompleteFile, "ends too early").where == str(source)


def test_score_file_column_that_csv_cannot_hold_is_refused(scorer: Scorer, tmp_path: Path) -> None:
    source = written(tmp_path / "in.parquet", ROWS.append_column("list", pa.array([[1]] * 3)))
    refused(scorer, source, tmp_path / "out.csv", SchemaMismatch, "cannot be written as CSV(?s:.)*list")


def test_score_file_interrupted_leaves_no_file(scorer: Scorer, tmp_path: Path) -> None:
    source = written(tmp_path / "in.parquet", table(2 * ROW_GROUP))
    seen: list[str] = []

    def interrupt(_done: int, _total: int) -> None:
        seen.extend(path.name for path in tmp_path.iterdir() if path != source)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_file(scorer, source, tmp_path / "out.parquet", progress=interrupt)
    assert [(name[0], name[-4:]) for name in seen] == [(".", ".tmp")]
    assert list(tmp_path.iterdir()) == [source]


# Text


def scored_csv(scorer: Scorer, tmp_path: Path, text: str, **options: Any) -> list[list[float]]:
    """Returns the probabilities of the rows of a CSV file."""
    (tmp_path / "in.csv").write_text(text)
    files = sources.find([tmp_path / "in.csv"], **options)
    score_file(scorer, files, tmp_path / "out.parquet", replace=True)
    return probabilities(read(tmp_path / "out.parquet"))


@pytest.mark.slow
def test_score_file_feature_behind_the_sample_is_never_rounded(scorer: Scorer, models: Path, tmp_path: Path) -> None:
    usual = "x,1,2\n" * 25_000
    found = scored_csv(scorer, tmp_path, "id,a,b\n" + usual + "y,7.5,3.7\n")
    np.testing.assert_allclose(found[-1:], by_hand(models, pa.table({"a": [7.5], "b": [3.7]})), atol=1e-6)
    with pytest.raises(SchemaMismatch, match=r"'007'(?s:.)*--types a=DOUBLE") as refusal:
        scored_csv(scorer, tmp_path, "id,a,b\n" + usual + "y,007,3.7\n")
    assert refusal.value.where == f"{tmp_path / 'in.csv'}, line 25002"
    found = scored_csv(scorer, tmp_path, "id,a,b\n" + usual + "y,007,3.7\n", types=["a=DOUBLE"])
    np.testing.assert_allclose(found[-1:], by_hand(models, pa.table({"a": [7.0], "b": [3.7]})), atol=1e-6)


def test_score_file_with_decimal_commas_gives_the_same(scorer: Scorer, models: Path, tmp_path: Path) -> None:
    text = "id;a;b\nx;3,7;2,9\ny;4;-,5\n"
    with pytest.raises(SchemaMismatch, match=r"'3,7'(?s:.)*--decimal ,"):
        scored_csv(scorer, tmp_path, text)
    expected = by_hand(models, pa.table({"a": [3.7, 4.0], "b": [2.9, -0.5]}))
    np.testing.assert_allclose(scored_csv(scorer, tmp_path, text, decimal=","), expected, atol=1e-6)


def test_score_file_of_json_lines_keeps_its_text(scorer: Scorer, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"id": "1-2-3", "a": 1, "b": 2}\n{"id": "01-02-03", "a": 1.5, "b": null}\n')
    assert score_file(scorer, tmp_path / "in.jsonl", tmp_path / "out.parquet") == (2, 1)
    assert read(tmp_path / "out.parquet")["id"].to_pylist() == ["1-2-3", "01-02-03"]
