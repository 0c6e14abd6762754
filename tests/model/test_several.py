"""Programs and ONNX models of several named inputs and outputs: scores are torch's own, and mistakes are refused."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn
from torch.export import Dim
from typer.testing import CliRunner, Result

from pipeline.api.scorer import Scorer
from pipeline.cli.commands import command_line
from pipeline.errors import ModelRefused, SchemaMismatch, UsageError
from pipeline.explain.explaining import explain
from pipeline.model.card import Card
from pipeline.model.registry import Registry
from tests.workspace import Workspace

FILES = Path(__file__).parent / "files"
RNG = np.random.default_rng(2)
ROWS = pa.table(
    {
        "id": pa.array([f"c{index}" for index in range(40)]),
        "price": RNG.normal(size=40),
        "age": RNG.uniform(18, 80, 40),
        "user": RNG.integers(2**40, 2**62, 40),
        "item": pa.array(RNG.integers(0, 50, 40), pa.int32()),
        "shop": pa.array(RNG.integers(0, 5, 40), pa.int32()),
    }
)
INPUTS = {
    "user": {"kind": "integer"},
    "item": {"kind": "integer", "min": 0, "max": 49},
    "shop": {"kind": "integer", "min": 0, "max": 4},
}
TENSORS = {"ids": ["user", "item", "shop"], "dense": ["price", "age"]}
NAMED = ("--input", "ids=user,item,shop", "--input", "dense=price,age")


class Dlrm(nn.Module):
    """Dense numbers, embeddings of ids, and their products, as in DLRM; gives clicks, and a state of three numbers."""

    def __init__(self, *, keyed: bool = False) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.users, self.items, self.shops = nn.Embedding(97, 4), nn.Embedding(50, 4), nn.Embedding(5, 4)
        self.bottom, self.top, self.keyed = nn.Linear(2, 4), nn.Linear(10, 2), keyed

    def forward(self, dense: torch.Tensor, ids: torch.Tensor) -> Any:
        parts = [self.bottom(dense), self.users(ids[:, 0] % 97), self.items(ids[:, 1]), self.shops(ids[:, 2])]
        x = torch.stack(parts, dim=1)
        products = torch.bmm(x, x.transpose(1, 2))[:, [0, 0, 0, 1, 1, 2], [1, 2, 3, 2, 3, 3]]
        clicks = self.top(torch.cat([parts[0], products], dim=1))
        return {"clicks": clicks, "state": products[:, :3]} if self.keyed else (clicks, products[:, :3])


def export(path: Path, module: nn.Module, *example: torch.Tensor) -> Path:
    rows = Dim("rows")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about its own code
        program = torch.export.export(module.eval(), example, dynamic_shapes=tuple({0: rows} for _ in example))
        torch.export.save(program, path)
    return path


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "m.pt2"
    return export(path, Dlrm(keyed=True), torch.zeros(2, 2), torch.zeros(2, 3, dtype=torch.int64))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("signature.json").write_text(json.dumps({"inputs": INPUTS}))


def register(path: Path, *options: str, signature: bool = True) -> Result:
    how = ["--signature", "signature.json"] if signature else []
    command = ["models", "register", str(path), "--name", "m", "--version", "v1", *how, *options, "--json"]
    return CliRunner().invoke(command_line(), command)


def registered(path: Path, *options: str, signature: bool = True) -> dict[str, Any]:
    done = register(path, *options, signature=signature)
    assert (done.exit_code, done.exception) == (0, None), done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def refused(path: Path, *options: str, signature: bool = True) -> ModelRefused:
    error = register(path, *options, signature=signature).exception
    assert isinstance(error, ModelRefused)
    assert not Path("models/m/v1").exists()
    return error


def own() -> Any:
    dense = torch.tensor(np.column_stack([ROWS["price"], ROWS["age"]]).astype(np.float32))
    ids = torch.tensor(np.column_stack([ROWS[name] for name in ("user", "item", "shop")]))
    with torch.inference_mode():
        return Dlrm(keyed=True).eval()(dense, ids)


def test_inputs_take_the_features_that_are_named_for_them(program: Path) -> None:
    found = registered(program, *NAMED, "--output", "clicks")["signature"]
    assert found["features"] == ["price", "age", "user", "item", "shop"], "in the order of the program's inputs"
    assert found["tensors"] == TENSORS
    scored = Scorer.load("m", "v1").score(ROWS).column("prob_class_1").to_numpy()
    np.testing.assert_allclose(scored, torch.softmax(own()["clicks"], 1)[:, 1], rtol=0, atol=1e-6)


def test_features_in_another_order_reach_the_same_inputs(program: Path) -> None:
    registered(program, *NAMED, "--output", "clicks", "--features", "shop,age,item,price,user")
    scored = Scorer.load("m", "v1").score(ROWS).column("prob_class_1").to_numpy()
    np.testing.assert_allclose(scored, torch.softmax(own()["clicks"], 1)[:, 1], rtol=0, atol=1e-6)


def test_other_output_is_scored_on_request(program: Path) -> None:
    found = registered(program, *NAMED, "--output", "1", "--classes", "a,b,c")["signature"]
    assert found["output"] == "state", "a number is stored as the name"
    table = Scorer.load("m", "v1").score(ROWS)
    scored = np.column_stack([table.column(f"prob_class_{index}") for index in range(3)])
    np.testing.assert_allclose(scored, torch.softmax(own()["state"], 1), rtol=0, atol=1e-6)


def test_output_that_is_not_named_is_asked_for(program: Path) -> None:
    error = refused(program, *NAMED)
    assert error.what == "the model has 2 outputs, and one is stored"
    assert error.got == "0 clicks: float32 (rows, 2), 1 state: float32 (rows, 3)"
    assert "--output clicks" in str(error.next_step)
    assert "did you mean 'clicks'?" in refused(program, *NAMED, "--output", "click").what
    assert "no output is called '2'" in refused(program, *NAMED, "--output", "2").what


def test_outputs_of_a_tuple_have_the_names_of_the_graph(tmp_path: Path) -> None:
    path = export(tmp_path / "t.pt2", Dlrm(), torch.zeros(2, 2), torch.zeros(2, 3, dtype=torch.int64))
    listed = r"0 linear_1: float32 \(rows, 2\), 1 slice_\d: float32 \(rows, 3\)"
    assert re.fullmatch(listed, str(refused(path, *NAMED).got))
    assert registered(path, *NAMED, "--output", "0")["signature"]["output"] == "linear_1"


@pytest.mark.parametrize(
    ("options", "what", "expected"),
    [
        (["--input", "ids=user,item,shop"], "the features of the input dense are not named", "ids int64 (rows, 3)"),
        (
            [*NAMED[:2], "--input", "denze=price,age"],
            "no input denze, did you mean 'dense'?",
            "dense float32 (rows, 2)",
        ),
        ([*NAMED, "--input", "more=price"], "no input more", "dense float32 (rows, 2)"),
        (["--input", "ids=user,item,shop", "--input", "dense=age"], "dense takes 2 values per row", "dense float32"),
        (["--input", "ids=user,item,age", "--input", "dense=price,shop"], "ids takes integers", "ids int64 (rows, 3)"),
        (["--input", "ids=user,item,shop", "--input", "dense=price,item"], "dense takes float32", "dense float32"),
    ],
)
def test_wrong_inputs_are_refused_with_those_that_the_model_has(
    program: Path, options: list[str], what: str, expected: str
) -> None:
    error = refused(program, *options, "--output", "clicks")
    assert what in error.what
    assert expected in str(error.expected)


def test_features_and_inputs_must_name_the_same(program: Path) -> None:
    error = refused(program, *NAMED, "--output", "clicks", "--features", "age,user,item,shop")
    assert "must take all features, and no others: price" in error.what
    for text in ("ids", "=a", "ids=", "ids=a,,b"):
        assert isinstance(register(program, "--input", text).exception, UsageError)


def test_inputs_and_outputs_of_other_kinds_are_refused(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(2, 2))
    torch.save({"model_state_dict": network.state_dict()}, tmp_path / "m.pt")
    error = refused(tmp_path / "m.pt", "--input", "x=a,b", "--assume-mlp", signature=False)
    assert "no named inputs" in str(error.expected)
    error = refused(tmp_path / "m.pt", "--features", "a,b", "--output", "y", "--assume-mlp", signature=False)
    assert error.what == "a model of this kind has one output"
    error = refused(FILES / "xgboost.ubj", "--features", "x,y,z", "--output", "y", signature=False)
    assert error.what == "a model of this kind has one output"


def test_model_with_one_output_has_the_same_digest_with_and_without_its_name(tmp_path: Path) -> None:
    path = export(tmp_path / "one.pt2", nn.Linear(2, 2), torch.zeros(2, 2))
    plain = registered(path, "--features", "a,b", signature=False)
    assert "output" not in plain["signature"]
    assert "tensors" not in plain["signature"]
    assert registered(path, "--features", "a,b", "--output", "0", signature=False)["digest"] == plain["digest"]


def test_onnx_model_takes_named_inputs_and_gives_the_output_that_is_asked_for() -> None:
    written = json.loads((FILES / "dynamo.json").read_text())
    items = [f"item{index}" for index in range(6)]
    Path("signature.json").write_text(
        json.dumps({"inputs": {name: {"kind": "integer", "min": 0, "max": 9} for name in items}})
    )
    options = ["--input", f"items={','.join(items)}", "--input", "dense=a,b,c"]
    error = refused(FILES / "dynamo-two.onnx", *options)
    assert error.got == "0 clicks: float32 (rows, 2), 1 state: float32 (rows, 5)"
    registered(FILES / "dynamo-two.onnx", *options, "--output", "clicks")
    dense, ids = np.array(written["x"]), np.array(written["items"])
    rows = pa.table({**dict(zip("abc", dense.T, strict=True)), **dict(zip(items, ids.T, strict=True))})
    scored = Scorer.load("m", "v1").score(rows).column("prob_class_1").to_numpy()
    expected = torch.softmax(torch.tensor(written["clicks"]), 1)[:, 1]
    np.testing.assert_allclose(scored, expected, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_run_and_replay_feed_the_named_inputs_and_give_the_chosen_output(tmp_path: Path, program: Path) -> None:
    workspace = Workspace(tmp_path)
    card = Card(signature={"inputs": INPUTS, "tensors": TENSORS, "output": "clicks"})
    registry = Registry(Path(workspace.settings.models))
    features = ["shop", "age", "item", "price", "user"]
    registry.register(program, name="toy", version="v1", features=features, alias="production", card=card)
    workspace.job(features="")
    day = ROWS.to_pylist()
    day[0]["user"], day[1]["item"] = None, 50
    workspace.day(pa.Table.from_pylist(day, ROWS.schema))
    workspace.complete()
    expected = dict(zip(ROWS["id"].to_pylist(), torch.softmax(own()["clicks"], 1)[:, 1].tolist(), strict=True))
    stored = {row["id"]: row["prob_class_1"] for row in workspace.stored()}
    assert stored == pytest.approx({key: expected[key] for key in list(expected)[2:]}, abs=1e-6)
    (path,) = workspace.lake.glob("quarantine/**/*.parquet")
    reasons = {row["id"]: row["reasons"] for row in pq.read_table(path).to_pylist()}
    assert reasons == {"c0": ["null:user"], "c1": ["unknown:item"]}
    (found,) = explain(workspace.context(), "c3", None, replay=True).predictions
    assert found.replay is not None
    assert found.replay.reproduced


def test_table_without_a_column_of_an_input_is_refused(program: Path) -> None:
    registered(program, *NAMED, "--output", "clicks")
    with pytest.raises(SchemaMismatch, match="no column item"):
        Scorer.load("m", "v1").score(ROWS.drop_columns(["item"]))
