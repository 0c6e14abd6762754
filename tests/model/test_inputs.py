"""Inputs that are not plain numbers: encoded as the signature declares, the same for examples and for scoring."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn
from typer.testing import CliRunner

from pipeline.api.scorer import Scorer, score_file
from pipeline.cli.commands import command_line
from pipeline.errors import LakescoreError, ModelRefused, QualityStop, SchemaMismatch
from pipeline.model.card import Card
from pipeline.model.inputs import Input
from pipeline.model.manifest import Signature, digest
from pipeline.model.matrix import fingerprints, row_fingerprints, to_matrix
from pipeline.model.registry import Registry
from pipeline.tabular import sources
from tests.model.programs import export
from tests.workspace import Workspace

INPUT: TypeAdapter[Input] = TypeAdapter(Input)
NAN, INF = math.nan, math.inf
NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)  # a Monday


def encoded(values: Any, arrow: pa.DataType | None = None, **how: Any) -> list[list[float]]:
    column = values if isinstance(values, pa.Array) else pa.array(values, arrow)
    return to_matrix(pa.record_batch({"x": column}), ["x"], {"x": INPUT.validate_python(how)}).tolist()


def colour(**how: Any) -> dict[str, Any]:
    return {"kind": "category", "vocabulary": ["red", "green"], **how}


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (colour(), [[1], [0], [INF], [NAN]]),
        (colour(unknown="index"), [[1], [0], [2], [NAN]]),
        (colour(null="red"), [[1], [0], [INF], [0]]),
        (colour(encode="one_hot", null="green"), [[0, 1], [1, 0], [INF, INF], [0, 1]]),
        (colour(encode="one_hot", unknown="index"), [[0, 1, 0], [1, 0, 0], [0, 0, 1], [NAN, NAN, NAN]]),
    ],
)
@pytest.mark.parametrize("form", ["plain", "dictionary"])
def test_category_is_its_index_or_one_hot(how: dict[str, Any], expected: list[list[float]], form: str) -> None:
    values = pa.array(["green", "red", "blue", None])
    found = encoded(values.dictionary_encode() if form == "dictionary" else values, **how)
    np.testing.assert_array_equal(found, expected)


def test_category_of_integers_knows_them_in_any_width() -> None:
    how = {"kind": "category", "vocabulary": [10, -3, 7]}
    assert encoded([7, 10, -3], pa.int16(), **how) == [[2], [0], [1]]


def test_unknown_category_that_is_an_error_stops() -> None:
    with pytest.raises(QualityStop, match="not in the model's vocabulary, in 2 rows"):
        encoded(["blue", "red", "grey"], **colour(unknown="error"))


@pytest.mark.parametrize(
    ("values", "how", "expected"),
    [
        ([NOON], {"convert": "days", "origin": "2026-01-01T00:00:00Z"}, [[4.5]]),
        ([NOON], {"convert": "seconds", "origin": "2026-01-05T11:59:00Z"}, [[60]]),
        ([date(1970, 1, 3)], {"convert": "days"}, [[2]]),
        ([None], {"convert": "days"}, [[NAN]]),
        ([None], {"convert": "days", "null": "1970-01-02T00:00:00Z"}, [[1]]),
        ([None], {"convert": "cyclic", "period": "day"}, [[NAN, NAN]]),
        ([NOON], {"convert": "cyclic", "period": "day"}, [[0, -1]]),
        ([NOON.replace(hour=6)], {"convert": "cyclic", "period": "day"}, [[1, 0]]),
        ([datetime(2026, 1, 5, tzinfo=UTC)], {"convert": "cyclic", "period": "week"}, [[0, 1]]),
        ([datetime(2026, 1, 6, 18, tzinfo=UTC)], {"convert": "cyclic", "period": "week"}, [[1, 0]]),
    ],
)
def test_timestamp_is_converted_as_stated(values: list[Any], how: dict[str, Any], expected: list[list[float]]) -> None:
    np.testing.assert_allclose(encoded(values, kind="timestamp", **how), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
def test_timestamp_of_any_unit_and_zone_is_the_same_instant(unit: str, zone: str | None) -> None:
    values = pa.array([NOON]).cast(pa.timestamp(unit, zone))
    how = {"kind": "timestamp", "convert": "seconds", "origin": "2026-01-05T00:00:00+00:00"}
    assert encoded(values, **how) == [[43_200]]


@pytest.mark.parametrize("form", [pa.list_(pa.float32()), pa.list_(pa.float64(), 2), pa.large_list(pa.float32())])
def test_list_gives_a_column_for_each_element(form: pa.DataType) -> None:
    column = pa.array([[0.0, 0.5], [1, 2], None, [None, 3]], form)[1:]
    how: dict[str, Any] = {"kind": "list", "length": 2}
    np.testing.assert_array_equal(encoded(column, **how), [[1, 2], [NAN, NAN], [NAN, 3]])
    assert encoded(column, **how, null=-1) == [[1, 2], [-1, -1], [-1, 3]]


def test_integer_in_a_list_is_rounded_once_beside_a_null_too() -> None:
    """Just above half of a step of float32: as a double it would be exactly half, and go the other way."""
    value = 2**60 + 2**36 + 1
    found = encoded([[value, None], [value, 1]], pa.list_(pa.int64()), kind="list", length=2)
    np.testing.assert_array_equal(found, [[2**60 + 2**37, NAN], [2**60 + 2**37, 1]])


def test_list_of_another_length_stops() -> None:
    with pytest.raises(QualityStop, match="wrong length, in 1 rows"):
        encoded(pa.array([[1.0, 2.0], [1.0], None]), kind="list", length=2)


def test_number_takes_what_stands_for_null() -> None:
    assert encoded([1.5, None, NAN], kind="number", null=-2) == [[1.5], [-2], [-2]]
    assert encoded([True, None], kind="number", null=0) == [[1], [0]]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"kind": "category", "vocabulary": []}, "at least 1"),
        ({"kind": "category", "vocabulary": ["a", "a"]}, "must be unique"),
        ({"kind": "category", "vocabulary": ["a", 1]}, "all text or all integers"),
        ({"kind": "category", "vocabulary": ["a"], "null": "b"}, "not in the vocabulary"),
        ({"kind": "timestamp", "convert": "cyclic"}, "`period`"),
        ({"kind": "timestamp", "convert": "days", "period": "day"}, "`period`"),
        ({"kind": "number", "null": NAN}, "finite"),
        ({"kind": "image"}, "does not match any of the expected tags"),
    ],
)
def test_invalid_input_is_refused(how: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        INPUT.validate_python(how)


# Fingerprints

MIXED = {
    "c": INPUT.validate_python(colour()),
    "t": INPUT.validate_python({"kind": "timestamp", "convert": "days"}),
    "e": INPUT.validate_python({"kind": "list", "length": 2, "null": 0}),
    "n": INPUT.validate_python({"kind": "number", "null": 0}),
}


def batch(**changes: Any) -> pa.RecordBatch:
    row = {"c": "red", "t": NOON, "e": [1.0, 2.0], "n": 1.0, **changes}
    kinds = {"c": pa.string(), "t": pa.timestamp("us", "UTC"), "e": pa.list_(pa.float32()), "n": pa.float64()}
    return pa.record_batch({name: pa.array([value], kinds[name]) for name, value in row.items()})


def fingerprint(rows: pa.RecordBatch, inputs: Any = MIXED) -> int:
    names = rows.schema.names
    return int(row_fingerprints(rows, to_matrix(rows, names, inputs), names, inputs)[0])


def test_fingerprint_of_declared_inputs_changes_with_any_raw_value() -> None:
    changes: list[dict[str, Any]] = [
        *({"c": "green"}, {"c": "blue"}, {"c": "grey"}, {"c": None}),
        *({"t": NOON.replace(microsecond=1)}, {"t": None}),
        *({"e": [1.0, 2.5]}, {"e": [0.0, 0.0]}, {"e": None}),
        *({"n": 0.0}, {"n": None}),
    ]
    found = [fingerprint(batch(**change)) for change in [{}, *changes]]
    assert len(set(found)) == len(found)


def test_fingerprint_does_not_depend_on_how_values_are_encoded() -> None:
    other = {**MIXED, "c": INPUT.validate_python(colour(vocabulary=["green", "red", "x"], encode="one_hot"))}
    assert fingerprint(batch()) == fingerprint(batch(), other)


def test_fingerprint_of_declared_inputs_never_changes() -> None:
    """Fingerprints are stored: if they changed, every row would be scored again."""
    assert fingerprint(batch()) == 6086704462065712925


def test_fingerprint_of_plain_numbers_is_that_of_the_matrix() -> None:
    rows = pa.record_batch({"a": [1.0, 2.0], "b": [3, 4]})
    matrix = to_matrix(rows, ["a", "b"])
    assert row_fingerprints(rows, matrix, ["a", "b"], {}).tolist() == fingerprints(matrix).tolist()


# Models

SIGNATURE: dict[str, Any] = {
    "inputs": {
        "colour": colour(encode="one_hot"),
        "seen": {"kind": "timestamp", "convert": "days", "origin": "2026-01-01T00:00:00Z"},
        "embedding": {"kind": "list", "length": 3},
        "age": {"kind": "number", "null": 40},
    }
}
FEATURES = ["age", "colour", "seen", "embedding", "spend"]
COLUMNS = 1 + 2 + 1 + 3 + 1


def rows(count: int = 30) -> pa.Table:
    rng = np.random.default_rng(5)
    return pa.table(
        {
            "id": [f"u{index}" for index in range(count)],
            "age": pa.array([None if index % 3 == 0 else float(index) for index in range(count)]),
            "colour": pa.array(["red", "green"] * (count // 2)),
            "seen": pa.array([datetime(2026, 1, 1 + index % 20, 6, tzinfo=UTC) for index in range(count)]),
            "embedding": pa.array(rng.normal(size=(count, 3)).tolist(), pa.list_(pa.float32())),
            "spend": rng.normal(size=count),
        }
    )


def by_hand(table: pa.Table) -> torch.Tensor:
    """Returns the matrix as independent training code would compute it."""
    lines = [
        [
            40 if row["age"] is None else row["age"],
            float(row["colour"] == "red"),
            float(row["colour"] == "green"),
            (row["seen"] - datetime(2026, 1, 1, tzinfo=UTC)).total_seconds() / 86_400,
            *row["embedding"],
            row["spend"],
        ]
        for row in table.to_pylist()
    ]
    return torch.tensor(lines, dtype=torch.float32)


def mixed_network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(COLUMNS, 8), nn.GELU(), nn.Linear(8, 2)).eval()


def expected(table: pa.Table) -> list[float]:
    with torch.inference_mode():
        found: list[float] = torch.softmax(mixed_network()(by_hand(table)), 1)[:, 1].tolist()
        return found


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(tmp_path_factory.mktemp("mixed") / "m.pt2", mixed_network(), COLUMNS)


def register(workspace: Workspace, program: Path, signature: dict[str, Any] = SIGNATURE, **options: Any) -> Any:
    registry = Registry(Path(workspace.settings.models))
    card = Card(signature=signature)
    return registry.register(
        program, name="toy", version="v1", features=FEATURES, alias="production", card=card, **options
    )


@pytest.fixture
def workspace(tmp_path: Path, program: Path) -> Workspace:
    made = Workspace(tmp_path)
    register(made, program)
    made.job(features="")
    return made


@pytest.mark.slow
def test_run_with_declared_inputs_gives_what_the_training_code_gives(workspace: Workspace) -> None:
    workspace.day(rows())
    record = workspace.complete()
    assert record.dispositions["scored"] == 30
    stored = {row["id"]: row["prob_class_1"] for row in workspace.stored()}
    wanted = dict(zip(rows().column("id").to_pylist(), expected(rows()), strict=True))
    assert stored == pytest.approx(wanted, abs=1e-6)
    assert workspace.run().up_to_date


@pytest.mark.slow
def test_run_again_scores_the_rows_whose_raw_values_changed(workspace: Workspace) -> None:
    workspace.day(rows())
    workspace.complete()
    later = rows().to_pylist()
    later[1]["colour"] = "red"
    later[2]["seen"] = later[2]["seen"].replace(minute=30)
    later[3]["age"] = 40.0  # was NULL, which is encoded as 40: same prediction, but the raw row differs
    workspace.day(pa.Table.from_pylist(later, rows().schema))
    assert workspace.complete().statistics.reasons == {"changed": 3}


def test_run_quarantines_unknown_categories_and_missing_values_with_their_reasons(workspace: Workspace) -> None:
    day = rows().to_pylist()
    day[0]["colour"], day[1]["colour"], day[2]["seen"], day[4]["embedding"] = "blue", None, None, None
    workspace.day(pa.Table.from_pylist(day, rows().schema))
    workspace.complete()
    (path,) = workspace.lake.glob("quarantine/**/*.parquet")
    found = {row["id"]: row["reasons"] for row in pq.read_table(path).to_pylist()}
    assert found == {"u0": ["unknown:colour"], "u1": ["null:colour"], "u2": ["null:seen"], "u4": ["null:embedding"]}


def test_score_table_and_file_encode_as_a_run_does(workspace: Workspace, tmp_path: Path) -> None:
    scorer = Scorer.load("toy", models=workspace.settings.models, device="cpu")
    table = rows()
    assert scorer.score(table)["prob_class_1"].to_pylist() == pytest.approx(expected(table), abs=1e-6)
    frame = scorer.score(table.to_pandas())
    assert frame["prob_class_1"].tolist() == pytest.approx(expected(table), abs=1e-6)
    pq.write_table(table, tmp_path / "in.parquet")
    assert score_file(scorer, tmp_path / "in.parquet", tmp_path / "out.parquet") == (30, 0)
    written = pq.read_table(tmp_path / "out.parquet")
    assert written["prob_class_1"].to_pylist() == pytest.approx(expected(table), abs=1e-6)


@pytest.mark.parametrize(
    ("column", "values", "said"),
    [
        ("colour", pa.array([1.5] * 30), "colour a category"),
        ("seen", pa.array(["2026-01-01"] * 30), "seen a timestamp"),
        ("embedding", pa.array([1.0] * 30), "embedding a list"),
        ("spend", pa.array(["1"] * 30), "must be a number"),
    ],
)
def test_run_of_columns_of_another_kind_is_refused(
    workspace: Workspace, column: str, values: pa.Array, said: str
) -> None:
    table = rows()
    workspace.day(table.set_column(table.schema.get_field_index(column), column, values))
    with pytest.raises(SchemaMismatch, match=said):
        workspace.run()


def test_golden_examples_are_encoded_as_rows_are(tmp_path: Path, program: Path) -> None:
    right = rows().append_column("prob_class_1", pa.array(expected(rows())))
    register(Workspace(tmp_path / "right"), program, examples=right)
    signature = json.loads(json.dumps(SIGNATURE))
    signature["inputs"]["colour"]["vocabulary"] = ["green", "red"]
    with pytest.raises(ModelRefused, match="does not reproduce the examples' prob_class_1"):
        register(Workspace(tmp_path / "wrong"), program, signature, examples=right)


def test_golden_batch_of_declared_inputs_is_reproduced(workspace: Workspace) -> None:
    from pipeline.model import golden, trial_rows

    registry = Registry(Path(workspace.settings.models))
    manifest = registry.resolve("toy", "v1")
    content = registry.golden(manifest)
    assert content is not None
    found = golden.compare(registry.load(manifest, "cpu"), content)
    assert found.reproduced
    assert found.rows == trial_rows.ROWS


def test_inputs_are_part_of_the_digest_and_of_nothing_without_them() -> None:
    files = {"model.pt": b"x"}
    plain = Signature(features=("a",), classes=(0, 1))
    declared = Signature.model_validate(
        {"features": ["a"], "classes": [0, 1], "inputs": {"a": {"kind": "number", "null": 1.0}}}
    )
    assert digest(files, plain) != digest(files, declared)
    assert set(plain.model_dump()) == {"features", "task", "classes"}
    assert Signature.model_validate_json(declared.model_dump_json()) == declared


@pytest.mark.parametrize(
    ("signature", "said"),
    [
        ({"inputs": {"colour": colour()}}, "takes 8 columns, but the features of the signature have 5"),
        ({"inputs": {"colours": colour()}}, "which is not a feature"),
        ({"inputs": {"colour": {"kind": "categroy"}}}, "invalid signature"),
        ({"inputs": SIGNATURE["inputs"], "input": {}}, "unknown key `input`"),
    ],
)
def test_register_refuses_inputs_that_do_not_fit(
    tmp_path: Path, program: Path, signature: dict[str, Any], said: str
) -> None:
    with pytest.raises(LakescoreError, match=said):
        register(Workspace(tmp_path), program, signature)


# Profiles, baseline and explain


def profile(workspace: Workspace, ds: str) -> dict[str, Any]:
    (path,) = (workspace.lake / "profiles").rglob(f"ds={ds}/*/*.parquet")
    return {row["column_name"]: row for row in pq.read_table(path, partitioning=None).to_pylist()}


@pytest.mark.slow
def test_profile_counts_numbers_as_they_come_and_categories_by_value(workspace: Workspace) -> None:
    """The first day is profiled from stored data, the second by the scoring stream."""
    day = rows().to_pylist()
    day[0]["colour"], day[1]["colour"] = "blue", None
    table = pa.Table.from_pylist(day, rows().schema)
    ages = [row["age"] for row in day if row["age"] is not None]
    colours = [row["colour"] for row in day]
    assert len(ages) < len(day)
    for ds in ("2026-01-01", "2026-01-02"):
        workspace.day(table, ds)
        assert not [text for text in workspace.complete(ds).warnings if "profile" in text or "drift" in text]
        found = profile(workspace, ds)
        assert {name for name, row in found.items() if row["kind"] == "feature"} == {"age", "colour", "spend"}
        assert (found["age"]["rows"], found["age"]["nulls"]) == (len(day), len(day) - len(ages))
        assert found["age"]["mean"] == pytest.approx(np.mean(ages), abs=1e-4)
        counted = dict(zip(found["colour"]["labels"], found["colour"]["counts"], strict=True))
        assert counted == {"red": colours.count("red"), "green": colours.count("green")}
        assert found["colour"]["nulls"] == 1


@pytest.mark.slow
def test_baseline_of_a_model_with_declared_inputs_is_what_drift_compares_with(tmp_path: Path, program: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.job(features="")
    many = pa.concat_tables([rows()] * 20)
    day = many.set_column(0, "id", pa.array([f"u{number}" for number in range(many.num_rows)]))
    pq.write_table(day, tmp_path / "training.parquet")
    register(workspace, program, training=sources.find([tmp_path / "training.parquet"]))
    turned = pa.array(["red"] * day.num_rows)
    workspace.day(day.set_column(day.schema.get_field_index("colour"), "colour", turned))
    workspace.complete()
    (path,) = (workspace.lake / "drift").rglob("*.parquet")
    found = pq.read_table(path, partitioning=None).to_pylist()
    outcomes = {row["column_name"]: row["outcome"] for row in found if row["reference"] == "training"}
    assert outcomes["colour"] == "critical"
    assert outcomes["age"] == outcomes["spend"] == "ok"


@pytest.mark.slow
def test_explain_finds_the_row_and_reproduces_its_score(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace.day(rows())
    workspace.complete()
    monkeypatch.chdir(workspace.root)
    done = CliRunner().invoke(command_line(), ["explain", "u2", "--job", "toy", "--replay", "--json"])
    assert (done.exit_code, done.exception) == (0, None), done.output
    (told,) = json.loads(done.stdout)["predictions"]
    assert told["input"]["same"]
    assert told["input"]["features"]["colour"] == rows().to_pylist()[2]["colour"]
    assert told["replay"]["difference"] <= told["replay"]["tolerance"]
    assert told["attribution"] is None
    shown = CliRunner().invoke(command_line(), ["explain", "u2", "--job", "toy", "--replay"])
    assert (shown.exit_code, shown.exception) == (0, None)
