"""Inputs of the kinds `integer` and `hash`: exact to the last bit, from the file to the model."""

from __future__ import annotations

import hashlib
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from torch import nn
from torch.export import Dim

from pipeline.api.scorer import Scorer
from pipeline.compare.rows import compared
from pipeline.errors import LakescoreError, ModelError, ModelMismatch, ModelRefused, QualityStop, SchemaMismatch
from pipeline.explain.explaining import explain
from pipeline.model.card import Card
from pipeline.model.inputs import Input
from pipeline.model.integers import joined
from pipeline.model.matrix import row_fingerprints, to_matrix
from pipeline.model.registry import Registry
from tests.model.networks import save_classifier
from tests.workspace import DAY, Workspace

INPUT: TypeAdapter[Input] = TypeAdapter(Input)
BUCKETS = 97
IDS = [0, 1, 2**24, 2**24 + 1, 2**53 + 1, 2**62 + 3, 2**63 - 1, -1, -(2**63), -(2**40) - 7]


def encoded(values: pa.Array, **how: Any) -> np.ndarray[Any, Any]:
    return to_matrix(pa.record_batch({"x": values}), ["x"], {"x": INPUT.validate_python(how)})


# The matrix


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_integer_of_64_bits_comes_out_of_the_matrix_as_it_went_in(values: list[int]) -> None:
    pieces = torch.from_numpy(encoded(pa.array(values, pa.int64()), kind="integer"))
    assert joined(pieces.unbind(dim=1)).tolist() == values


@pytest.mark.parametrize("form", [pa.int8(), pa.uint16(), pa.int32(), pa.uint64()])
def test_integer_of_any_width_is_the_same_and_null_is_rejected_or_replaced(form: pa.DataType) -> None:
    column = pa.array([7, None, 100], form)
    found = encoded(column, kind="integer")
    assert np.isnan(found[1]).all()
    assert joined(torch.from_numpy(found[[0, 2]]).unbind(dim=1)).tolist() == [7, 100]
    filled = encoded(column.dictionary_encode(), kind="integer", null=2**62 + 1)
    assert joined(torch.from_numpy(filled).unbind(dim=1)).tolist() == [7, 2**62 + 1, 100]


def test_integer_outside_its_limits_is_infinite() -> None:
    found = encoded(pa.array([-1, 0, 9, 10]), kind="integer", min=0, max=9)
    assert np.isinf(found).all(axis=1).tolist() == [True, False, False, True]


def test_integer_beyond_int64_stops() -> None:
    with pytest.raises(QualityStop, match="feature x has values that are no int64"):
        encoded(pa.array([2**63], pa.uint64()), kind="integer")


def modulo(value: Any) -> int:
    return int(value) % BUCKETS


def crc32(value: Any) -> int:
    return zlib.crc32(str(value).encode()) % BUCKETS


def md5(value: Any) -> int:
    return int(hashlib.md5(str(value).encode(), usedforsecurity=False).hexdigest(), 16) % BUCKETS


@pytest.mark.parametrize("by_hand", [modulo, crc32, md5])
@pytest.mark.parametrize("form", ["plain", "dictionary"])
def test_hash_of_an_integer_is_the_bucket_that_python_computes(by_hand: Any, form: str) -> None:
    values = pa.array([*IDS, None, IDS[3]])
    column = values.dictionary_encode() if form == "dictionary" else values
    how = {"kind": "hash", "algorithm": by_hand.__name__, "buckets": BUCKETS}
    expected = [by_hand(each) for each in IDS]
    np.testing.assert_array_equal(encoded(column, **how)[:, 0], [*expected, np.nan, expected[3]])
    assert encoded(column, **how, null=IDS[4])[len(IDS), 0] == expected[4]
    one_hot = encoded(column, **how, encode="one_hot")
    np.testing.assert_array_equal(one_hot[: len(IDS)], np.eye(BUCKETS)[expected])
    assert np.isnan(one_hot[len(IDS)]).all()


@pytest.mark.parametrize("by_hand", [crc32, md5])
@pytest.mark.parametrize("form", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())])
def test_hash_of_text_is_that_of_its_utf8(by_hand: Any, form: pa.DataType) -> None:
    texts = ["", "LH", "Zürich", "007", "7"]
    how = {"kind": "hash", "algorithm": by_hand.__name__, "buckets": BUCKETS}
    found = encoded(pa.array([*texts, None], form), **how, null="LH")
    assert found[:, 0].tolist() == [by_hand(each) for each in [*texts, "LH"]]


@pytest.mark.parametrize(
    ("values", "how"),
    [
        (pa.array(["1"]), {"kind": "hash", "algorithm": "modulo", "buckets": 7}),
        (pa.array([1.0]), {"kind": "hash", "algorithm": "md5", "buckets": 7}),
        (pa.array([1.0]), {"kind": "integer"}),
        (pa.array(["1"]), {"kind": "integer"}),
    ],
)
def test_column_of_a_type_that_the_kind_does_not_take_stops(values: pa.Array, how: dict[str, Any]) -> None:
    """The files of a day may have types that each are right, and are doubles together."""
    with pytest.raises(QualityStop, match="feature x has values of another type"):
        encoded(values, **how)


def test_hash_of_an_unsigned_integer_beyond_int64() -> None:
    assert encoded(pa.array([2**64 - 1], pa.uint64()), kind="hash", algorithm="modulo", buckets=97).tolist() == [
        [(2**64 - 1) % 97]
    ]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"kind": "hash", "buckets": 5}, "`algorithm` must say how .* modulo, crc32 or md5"),
        ({"kind": "hash", "algorithm": "sha1", "buckets": 5}, "'modulo', 'crc32' or 'md5'"),
        ({"kind": "hash", "algorithm": "md5", "buckets": 2**24 + 1}, "less than or equal to 16777216"),
        ({"kind": "hash", "algorithm": "md5", "buckets": 200_000, "encode": "one_hot"}, "limited to 100,000"),
        ({"kind": "hash", "algorithm": "modulo", "buckets": 5, "null": "x"}, "integers only"),
        ({"kind": "integer", "min": 3, "max": 2}, "min = 3 is above max = 2"),
        ({"kind": "integer", "min": 3, "null": 2}, "not between"),
        ({"kind": "integer", "null": 2.0}, "integer"),
        ({"kind": "integer", "max": 2**63}, "less than"),
    ],
)
def test_invalid_declaration_is_refused(how: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        INPUT.validate_python(how)


def fingerprint(value: Any, **how: Any) -> int:
    kind = pa.int64() if isinstance(value, int | None) else pa.string()
    rows, inputs = pa.record_batch({"x": pa.array([value], kind)}), {"x": INPUT.validate_python(how)}
    return int(row_fingerprints(rows, to_matrix(rows, ["x"], inputs), ["x"], inputs)[0])


@pytest.mark.parametrize("how", [{"kind": "integer", "null": 0}, {"kind": "hash", "algorithm": "md5", "buckets": 2}])
def test_fingerprint_covers_all_64_bits_and_null(how: dict[str, Any]) -> None:
    """Of a hash too: a row is scored again when its value changes, even within one bucket."""
    assert len({fingerprint(value, **how) for value in [*IDS, None]}) == len(IDS) + 1


def by_hand(*words: int) -> int:
    """Returns the fingerprint of 32-bit words, computed with Python integers; splitmix64 as in test_matrix.py."""
    mask, mixed = 2**64 - 1, len(words)
    for index, word in enumerate(words, start=1):
        state = index * 0x9E3779B97F4A7C15 & mask
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & mask
        state = (state ^ state >> 27) * 0x94D049BB133111EB & mask
        mixed = (mixed ^ word) * ((state ^ state >> 31) | 1) & mask
        mixed ^= mixed >> 29
    return mixed - 2**64 if mixed >= 2**63 else mixed


def test_fingerprint_of_integers_and_hashes_never_changes() -> None:
    """Fingerprints are stored: if they changed, every row would be scored again."""
    how = {"kind": "hash", "algorithm": "md5", "buckets": 2}
    found = [fingerprint(2**53 + 1, kind="integer"), fingerprint(-1, **how), fingerprint(None, **how)]
    assert found == [by_hand(1, 2**21, 1), by_hand(2**32 - 1, 2**32 - 1, 1), by_hand(0, 0, 0)]
    text = int.from_bytes(hashlib.blake2b(b"LH", digest_size=8).digest(), "little")
    assert fingerprint("LH", **how) == by_hand(text & (2**32 - 1), text >> 32)
    assert found == [-1099485809945009111, 667251840485020263, -8387805481240797314]


# Models


class TwoTower(nn.Module):
    """Hashes user ids in itself, as training code does, and looks items up; takes three tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items, self.out = nn.Embedding(1009, 4), nn.Embedding(50, 4), nn.Linear(10, 2)

    def forward(self, users: torch.Tensor, x: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        user = self.users(torch.remainder(users * 2654435761 + (users >> 7), 1009))
        item = self.items(items[:, 0])
        found: torch.Tensor = self.out(torch.cat([user, item, x], dim=1))
        return found


FEATURES = ["price", "user", "item", "age"]
SIGNATURE = {
    "inputs": {
        "user": {"kind": "integer"},
        "item": {"kind": "integer", "min": 0, "max": 49},
        "age": {"kind": "number", "null": 40},
    }
}


def two_tower() -> TwoTower:
    torch.manual_seed(2)
    return TwoTower().eval()


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("towers") / "m.pt2"
    rows = Dim("rows")
    example = (torch.zeros(4, dtype=torch.int64), torch.zeros(4, 2), torch.zeros(4, 1, dtype=torch.int64))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about its own code
        exported = torch.export.export(two_tower(), example, dynamic_shapes=({0: rows}, {0: rows}, {0: rows}))
        torch.export.save(exported, path)
    return path


def rows(count: int = 60) -> pa.Table:
    rng = np.random.default_rng(3)
    return pa.table(
        {
            "id": [f"u{index}" for index in range(count)],
            "price": rng.normal(size=count),
            "user": rng.integers(-(2**62), 2**62, count) | 1,
            "item": pa.array(rng.integers(0, 50, count), pa.int32()),
            "age": pa.array([None if index % 5 == 0 else float(index) for index in range(count)]),
        }
    )


def expected(table: pa.Table) -> list[float]:
    ages = [40.0 if age is None else age for age in table["age"].to_pylist()]
    users, items = (torch.tensor(table[name].to_pylist(), dtype=torch.int64) for name in ("user", "item"))
    x = torch.tensor([table["price"].to_pylist(), ages], dtype=torch.float32).T
    with torch.inference_mode():
        found: list[float] = torch.softmax(two_tower()(users, x, items[:, None]), 1)[:, 1].tolist()
    return found


def register(workspace: Workspace, program: Path, signature: dict[str, Any] = SIGNATURE, **options: Any) -> None:
    registry = Registry(Path(workspace.settings.models))
    card = Card(signature=signature)
    registry.register(program, name="toy", version="v1", features=FEATURES, alias="production", card=card, **options)


@pytest.fixture
def workspace(tmp_path: Path, program: Path) -> Workspace:
    made = Workspace(tmp_path)
    register(made, program)
    made.job(features="")
    return made


@pytest.mark.slow
def test_run_passes_integers_exactly_to_a_program_of_several_inputs(workspace: Workspace) -> None:
    workspace.day(rows())
    workspace.complete()
    stored = {row["id"]: row["prob_class_1"] for row in workspace.stored()}
    assert stored == pytest.approx(dict(zip(rows()["id"].to_pylist(), expected(rows()), strict=True)), abs=1e-6)


@pytest.mark.slow
def test_run_scores_again_a_row_whose_integer_changed_by_one(workspace: Workspace) -> None:
    workspace.day(rows())
    workspace.complete()
    later = rows().to_pylist()
    later[3]["user"] += 1  # the same number in float32
    table = pa.Table.from_pylist(later, rows().schema)
    workspace.day(table)
    assert workspace.complete().statistics.reasons == {"changed": 1}
    found = {row["id"]: row["prob_class_1"] for row in workspace.stored("FROM predictions WHERE revision = 1")}
    assert found == pytest.approx({"u3": expected(table)[3]}, abs=1e-6)


@pytest.mark.slow
def test_run_quarantines_integers_that_are_missing_or_outside_the_limits(workspace: Workspace) -> None:
    day = rows().to_pylist()
    day[0]["user"], day[1]["item"], day[2]["item"] = None, 50, -1
    workspace.day(pa.Table.from_pylist(day, rows().schema))
    workspace.complete()
    (path,) = workspace.lake.glob("quarantine/**/*.parquet")
    found = {row["id"]: row["reasons"] for row in pq.read_table(path).to_pylist()}
    assert found == {"u0": ["null:user"], "u1": ["unknown:item"], "u2": ["unknown:item"]}


def test_run_that_would_pass_null_as_an_integer_is_refused(workspace: Workspace) -> None:
    job = workspace.settings.jobs / "toy" / "job.toml"
    job.write_text(job.read_text().replace("[policy]", '[policy]\nnull_features = "score"'))
    workspace.day(rows())
    with pytest.raises(ModelMismatch, match="the NULL of user, item"):
        workspace.run()


def test_score_table_passes_integers_exactly(workspace: Workspace) -> None:
    scorer = Scorer.load("toy", models=workspace.settings.models, device="cpu")
    assert scorer.score(rows())["prob_class_1"].to_pylist() == pytest.approx(expected(rows()), abs=1e-6)
    assert scorer.score(rows().to_pandas())["prob_class_1"].tolist() == pytest.approx(expected(rows()), abs=1e-6)


@pytest.mark.slow
def test_replay_and_comparison_pass_integers_exactly(workspace: Workspace, program: Path) -> None:
    workspace.day(rows())
    workspace.complete()
    (found,) = explain(workspace.context(), "u3", None, replay=True).predictions
    assert found.replay is not None
    assert found.replay.reproduced
    assert found.input is not None
    assert found.input.features is not None
    assert found.input.features["user"] == rows()["user"][3].as_py()
    registry = Registry(Path(workspace.settings.models))
    card = Card(signature={"inputs": {**SIGNATURE["inputs"], "age": {"kind": "number", "null": 41}}})
    registry.register(program, name="toy", version="v2", features=FEATURES, card=card)
    with compared(
        workspace.context(), registry.resolve("toy", "v1"), registry.resolve("toy", "v2"), "1", [DAY], None
    ) as both:
        scores = dict(both.con.sql("SELECT key_text, score_a FROM compared").fetchall())
    assert scores == pytest.approx(dict(zip(rows()["id"].to_pylist(), expected(rows()), strict=True)), abs=1e-6)


@pytest.mark.parametrize(
    "values", [pa.array([1.0] * 60), pa.array(["1"] * 60), pa.array([1] * 60, pa.decimal128(38, 0))]
)
def test_run_of_an_integer_that_is_stored_as_another_type_is_refused(workspace: Workspace, values: pa.Array) -> None:
    workspace.day(rows().set_column(2, "user", values))
    with pytest.raises(SchemaMismatch, match="user an integer"):
        workspace.run()


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({}, "takes 2 int64 values per row, but the signature declares 0"),
        ({"user": {"kind": "integer"}}, "takes 2 int64 values per row, but the signature declares 1"),
        (
            {name: {"kind": "integer"} for name in FEATURES},
            "takes 2 int64 values per row, but the signature declares 4",
        ),
    ],
)
def test_register_program_asks_which_features_are_int64(
    tmp_path: Path, program: Path, inputs: dict[str, Any], said: str
) -> None:
    with pytest.raises(ModelRefused, match=said):
        register(Workspace(tmp_path), program, {"inputs": inputs})


def test_register_program_with_an_embedding_asks_for_limits_or_rows(tmp_path: Path, program: Path) -> None:
    inputs = {"user": {"kind": "integer"}, "item": {"kind": "integer"}}
    with pytest.raises(LakescoreError) as caught:
        register(Workspace(tmp_path), program, {"inputs": inputs})
    assert "--golden" in str(caught.value)
    assert "min" in str(caught.value)
    register(
        Workspace(tmp_path),
        program,
        {"inputs": inputs},
        examples=rows().drop_columns("age").append_column("age", rows()["price"]),
    )


def test_run_with_an_index_that_the_model_does_not_have_says_so(tmp_path: Path, program: Path) -> None:
    inputs = {"user": {"kind": "integer"}, "item": {"kind": "integer"}}
    workspace = Workspace(tmp_path)
    register(workspace, program, {"inputs": inputs}, examples=rows().set_column(4, "age", rows()["price"]))
    workspace.job(features="")
    workspace.day(rows().set_column(3, "item", pa.array([50] * 60)).set_column(4, "age", rows()["price"]))
    with pytest.raises(ModelError, match="an index that it does not have"):
        workspace.run()


def test_register_checkpoint_with_an_integer_is_refused(tmp_path: Path) -> None:
    path = save_classifier(tmp_path / "m.pt")
    card = Card(signature={"inputs": {"b": {"kind": "integer"}}})
    with pytest.raises(ModelRefused, match="takes float32 only, but the signature declares 1") as caught:
        Registry(tmp_path / "models").register(path, name="m", version="v1", features=["a", "b", "c"], card=card)
    assert "torch.export" in str(caught.value)


class Tabular(nn.Module):
    """Takes indices as int64, as most libraries for tabular data do."""

    def __init__(self) -> None:
        super().__init__()
        self.airlines, self.routes, self.out = nn.Embedding(3, 2), nn.Embedding(BUCKETS, 3), nn.Linear(6, 2)

    def forward(self, indices: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        parts = [self.airlines(indices[:, 0]), self.routes(indices[:, 1]), x]
        found: torch.Tensor = self.out(torch.cat(parts, dim=1))
        return found


def test_category_and_hash_are_passed_to_an_int64_input_on_request(tmp_path: Path) -> None:
    torch.manual_seed(4)
    module, path, dim = Tabular().eval(), tmp_path / "m.pt2", Dim("rows")
    example = (torch.zeros(4, 2, dtype=torch.int64), torch.zeros(4, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(module, example, dynamic_shapes=({0: dim}, {0: dim})), path)
    inputs = {
        "airline": {"kind": "category", "vocabulary": ["LH", "AF"], "unknown": "index", "encode": "int64"},
        "route": {"kind": "hash", "algorithm": "crc32", "buckets": BUCKETS, "encode": "int64"},
    }
    card, registry = Card(signature={"inputs": inputs}), Registry(tmp_path / "models")
    registry.register(path, name="m", version="v1", features=["x", "airline", "route"], card=card)
    table = pa.table({"x": [0.5, 1.5, 2.5], "airline": ["AF", "LH", "??"], "route": ["FRA-JFK", "ZRH-LHR", "FRA-JFK"]})
    indices = torch.tensor([[1, crc32("FRA-JFK")], [0, crc32("ZRH-LHR")], [2, crc32("FRA-JFK")]])
    with torch.inference_mode():
        wanted = torch.softmax(module(indices, torch.tensor([[0.5], [1.5], [2.5]])), 1)[:, 1].tolist()
    found = Scorer.load("m", "v1", models=tmp_path / "models", device="cpu").score(table)
    assert found["prob_class_1"].to_pylist() == pytest.approx(wanted, abs=1e-6)


def test_inputs_of_a_program_with_their_own_numbers_of_rows_are_refused(tmp_path: Path) -> None:
    class Mean(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x * 2 + y.mean()

    path = tmp_path / "m.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = (torch.zeros(4, 2), torch.zeros(5, 1))
        torch.export.save(torch.export.export(Mean(), example, dynamic_shapes=({0: Dim("a")}, {0: Dim("b")})), path)
    with pytest.raises(ModelRefused, match="different numbers of rows"):
        Registry(tmp_path / "models").register(path, name="m", version="v1", features=["a", "b", "c"])
