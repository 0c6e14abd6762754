"""Scaling in the signature: as training code computes it, on every way to a score."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import save_file
from torch import nn

from pipeline.api.scorer import Scorer
from pipeline.errors import LakescoreError, ModelRefused, UsageError
from pipeline.model import golden, synthetic_rows
from pipeline.model.card import Card
from pipeline.model.inputs import Input
from pipeline.model.manifest import Signature, digest
from pipeline.model.matrix import row_fingerprints, to_matrix
from pipeline.model.registry import Registry
from tests.calling import Cli
from tests.workspace import Workspace

INPUT: TypeAdapter[Input] = TypeAdapter(Input)
NAN, INF = math.nan, math.inf


def encoded(values: pa.Array, *scale: dict[str, Any], **how: Any) -> Any:
    declared = INPUT.validate_python({"kind": "number", "scale": list(scale), **how})
    return to_matrix(pa.record_batch({"x": values}), ["x"], {"x": declared})


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        ([{"mean": 3, "std": 2}], [-1.5, -1, 2.5, NAN, NAN, INF]),
        ([{"min": -2, "max": 8}], [0.2, 0.3, 1, NAN, NAN, INF]),
        ([{"log1p": True}], [0, math.log(2), math.log(9), NAN, NAN, INF]),
        ([{"clip": [0.5, 4]}], [0.5, 1, 4, NAN, NAN, INF]),
        ([{"clip": [None, 4]}, {"mean": 4, "std": 2}], [-2, -1.5, 0, NAN, NAN, INF]),
        ([{"mean": 4, "std": 2}, {"clip": [-1, None]}], [-1, -1, 2, NAN, NAN, INF]),
        (
            [{"log1p": True}, {"mean": 1, "std": 0.5}],
            [-2, (math.log(2) - 1) / 0.5, (math.log(9) - 1) / 0.5, NAN, NAN, INF],
        ),
    ],
    ids=["standard", "min-max", "log1p", "clip", "clip, standard", "standard, clip", "log1p, standard"],
)
def test_number_is_scaled_step_by_step(scale: list[dict[str, Any]], expected: list[float]) -> None:
    found = encoded(pa.array([0, 1, 8, NAN, None, INF]), *scale)
    np.testing.assert_allclose(found[:, 0], np.array(expected, np.float32), rtol=1e-6)


@pytest.mark.parametrize("values", [pa.array([4, None]), pa.array([4.0, NAN]), pa.array([4, None]).dictionary_encode()])
def test_null_is_replaced_before_it_is_scaled(values: pa.Array) -> None:
    assert encoded(values, {"mean": 3, "std": 2}, null=8)[:, 0].tolist() == [0.5, 2.5]


def test_log1p_of_less_than_minus_one_is_infinite() -> None:
    assert encoded(pa.array([-1.5, -1.0, -0.5]), {"log1p": True})[:, 0].tolist() == [
        -INF,
        -INF,
        float(np.float32(math.log(0.5))),
    ]


def test_large_numbers_are_scaled_before_they_are_rounded() -> None:
    start = 1_767_225_600_000  # milliseconds since 1970
    values = pa.array([start, start + 1000, start + 2000])
    assert encoded(values, {"mean": start, "std": 1000})[:, 0].tolist() == [0, 1, 2]


def test_list_is_scaled_as_a_whole_or_by_element() -> None:
    values = pa.array([[1.0, 10.0], None, [3.0, None]], pa.list_(pa.float64()))
    each = encoded(values, {"mean": [1, 10], "std": [2, 5]}, kind="list", length=2)
    np.testing.assert_array_equal(each, np.array([[0, 0], [NAN, NAN], [1, NAN]], np.float32))
    whole = encoded(values, {"min": 1, "max": 11}, kind="list", length=2, null=6)
    np.testing.assert_allclose(whole, [[0, 0.9], [0.5, 0.5], [0.2, 0.5]], rtol=1e-6)


@pytest.mark.parametrize(
    ("scale", "said"),
    [
        ([{"mean": 1}], "std"),
        ([{"mean": 1, "std": 0}], "greater than 0"),
        ([{"mean": [1, 2], "std": 1}], "`mean` must be a number, not a list of 2"),
        ([{"min": 2, "max": 2}], "min must be below max"),
        ([{"clip": [3, 1]}], "the first limit must be below"),
        ([{"sqrt": True}], 'a step is one of {"clip"'),
        ([{"mean": NAN, "std": 1}], "finite"),
        ([{"mean": 1, "std": 1, "log1p": True}], "Extra inputs|extra"),
    ],
)
def test_invalid_scale_is_refused(scale: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        INPUT.validate_python({"kind": "number", "scale": scale})
    with pytest.raises(ValidationError, match="must be a number or 3 of them"):
        INPUT.validate_python({"kind": "list", "length": 3, "scale": [{"mean": [1, 2], "std": 1}]})


def test_scale_is_part_of_the_digest_and_of_nothing_without_it() -> None:
    def of(**how: Any) -> Signature:
        return Signature.model_validate(
            {"features": ["a"], "classes": [0, 1], "inputs": {"a": {"kind": "number", **how}}}
        )

    files = {"model.pt": b"x"}
    given = {
        digest(files, of(**how)) for how in ({}, {"scale": {"mean": 0, "std": 1}}, {"scale": {"mean": 0, "std": 2}})
    }
    assert len(given) == 3
    assert of().model_dump(mode="json")["inputs"]["a"] == {"kind": "number", "null": None}
    scaled = of(scale=[{"clip": [None, 1]}, {"log1p": True}])
    assert Signature.model_validate_json(scaled.model_dump_json()) == scaled


def fingerprint(value: Any) -> int:
    inputs = {"x": INPUT.validate_python({"kind": "number", "scale": [{"mean": 1e12, "std": 1}]})}
    rows = pa.record_batch({"x": pa.array([value], pa.float64())})
    return int(row_fingerprints(rows, to_matrix(rows, ["x"], inputs), ["x"], inputs)[0])


def test_fingerprint_of_a_scaled_number_covers_what_float32_would_round_away() -> None:
    assert len({fingerprint(value) for value in (1e12, 1e12 + 1, 0.0, None)}) == 4
    assert fingerprint(-0.0) == fingerprint(0.0)
    assert fingerprint(NAN) == fingerprint(None)


def test_synthetic_rows_are_of_the_size_that_the_model_expects_after_scaling() -> None:
    inputs = {
        "far": {"kind": "number", "scale": [{"mean": 1e12, "std": 1e6}]},
        "money": {"kind": "number", "scale": [{"clip": [0, 1e6]}, {"log1p": True}, {"mean": 5, "std": 2}]},
        "list": {"kind": "list", "length": 2, "scale": [{"min": [0, 100], "max": [1, 200]}]},
    }
    signature = Signature.model_validate({"features": list(inputs), "classes": [0, 1], "inputs": inputs})
    matrix = to_matrix(synthetic_rows.draw(signature, 256), signature.features, signature.inputs)
    assert np.isfinite(matrix).all()
    assert 0.1 < np.median(np.abs(matrix[:, 0])) < 10
    assert np.unique(matrix[:, 1]).size > 20


# Models

FEATURES = ["age", "spend", "taste"]
SCALES = {
    "age": {"kind": "number", "null": 40, "scale": {"mean": 38.5, "std": 12.25}},
    "spend": {"kind": "number", "scale": [{"clip": [0, 5000]}, {"log1p": True}, {"min": 0, "max": 9}]},
    "taste": {"kind": "list", "length": 2, "scale": [{"mean": [1, -1], "std": [0.5, 2]}]},
}


def network() -> nn.Sequential:
    torch.manual_seed(8)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()


def rows(count: int = 50) -> pa.Table:
    rng = np.random.default_rng(1)
    return pa.table(
        {
            "id": [f"u{index}" for index in range(count)],
            "age": pa.array([None if index % 7 == 0 else 20 + index for index in range(count)], pa.int64()),
            "spend": rng.lognormal(5, 2, count),
            "taste": pa.array(rng.normal(size=(count, 2)).tolist(), pa.list_(pa.float32())),
        }
    )


def expected(table: pa.Table) -> list[float]:
    age = (
        torch.tensor([40 if age is None else age for age in table["age"].to_pylist()], dtype=torch.float64) - 38.5
    ) / 12.25
    spend = torch.tensor(table["spend"].to_pylist(), dtype=torch.float64).clamp(0, 5000).log1p() / 9
    taste = (torch.tensor(table["taste"].to_pylist(), dtype=torch.float64) - torch.tensor([1, -1])) / torch.tensor(
        [0.5, 2]
    )
    x = torch.cat([age[:, None], spend[:, None], taste], dim=1).float()
    with torch.inference_mode():
        found: list[float] = torch.softmax(network()(x), 1)[:, 1].tolist()
    return found


def register(root: Path, inputs: dict[str, Any], **options: Any) -> Any:
    path = root / "scaled.pt"
    document = {"model_state_dict": network().state_dict(), "architecture": "mlp:relu", **options.pop("entries", {})}
    torch.save(document, path)
    card = Card(signature={"inputs": inputs}, **options.pop("card", {}))
    registry = Registry(root / "models")
    return registry.register(
        path, name="toy", version="v1", features=FEATURES, alias="production", card=card, **options
    )


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = Workspace(tmp_path)
    register(tmp_path, SCALES)
    made.job(features="")
    return made


def test_run_with_scales_gives_what_the_training_code_gives(workspace: Workspace) -> None:
    workspace.day(rows())
    workspace.complete()
    stored = {row["id"]: row["prob_class_1"] for row in workspace.stored()}
    assert stored == pytest.approx(dict(zip(rows()["id"].to_pylist(), expected(rows()), strict=True)), abs=1e-6)


def test_golden_examples_with_another_scale_are_refused(tmp_path: Path) -> None:
    examples = rows().append_column("prob_class_1", pa.array(expected(rows())))
    register(tmp_path, SCALES, examples=examples)
    other = json.loads(json.dumps(SCALES))
    other["age"]["scale"]["std"] = 11
    (tmp_path / "other").mkdir()
    with pytest.raises(ModelRefused, match="does not reproduce the examples' prob_class_1"):
        register(tmp_path / "other", other, examples=examples)


def test_golden_batch_of_scaled_inputs_is_reproduced(workspace: Workspace) -> None:
    registry = Registry(Path(workspace.settings.models))
    manifest = registry.resolve("toy", "v1")
    content = registry.golden(manifest)
    assert content is not None
    assert golden.compare(registry.load(manifest, "cpu"), content).reproduced


# Where the values come from


ROWS: dict[str, list[Any]] = {"a": [1.0, 2.0, 6.0, None], "b": [0.0, 100.0, 900.0, 0.0], "c": [5.0, 7.0, 5.0, 7.0]}
MEAN, STD = [3.0, 250.0, 6.0], [2.0, 380.0, 1.0]
LAYER = {"fc.weight": torch.tensor([[1.0, 10.0, 100.0]]), "fc.bias": torch.tensor([0.5])}


def linear(folder: Path, entries: dict[str, Any], *arguments: Any, call: Cli, **options: Any) -> Any:
    """Registers a regression of three features by the command line; returns the process."""
    path = folder / "linear.pt"
    torch.save({"model_state_dict": LAYER, "architecture": "mlp:relu", **entries}, path)
    names = ("--name", "m", "--version", "v1", "--features", "a,b,c", "--task", "regression")
    return call("models", "register", path, *names, *arguments, **options)


def values_of(folder: Path) -> list[float]:
    """Returns what the registered model gives for ROWS, without the row that has a NULL."""
    table = pa.table(ROWS).slice(0, 3)
    found: list[float] = (
        Scorer.load("m", "v1", models=folder / "models", device="cpu").score(table)["value"].to_pylist()
    )
    return found


def by_hand(first: list[float], second: list[float]) -> list[float]:
    """Returns what the model gives for (value - first) / second."""
    found = []
    for row in range(3):
        scaled = [(ROWS[name][row] - one) / other for name, one, other in zip("abc", first, second, strict=True)]
        found.append(float(np.dot(scaled, [1, 10, 100])) + 0.5)
    return found


@pytest.mark.parametrize(
    "content",
    [
        {"mean": MEAN, "std": STD},
        {name: [{"mean": mean, "std": std}] for name, mean, std in zip("cba", MEAN[::-1], STD[::-1], strict=True)},
        {name: {"min": mean, "max": mean + std} for name, mean, std in zip("abc", MEAN, STD, strict=True)},
    ],
    ids=["lists", "steps by feature", "a step by feature"],
)
def test_scaling_from_a_file(tmp_path: Path, cli: Cli, content: dict[str, Any]) -> None:
    (tmp_path / "scaler.json").write_text(json.dumps(content))
    shown = linear(tmp_path, {}, "--scaling", tmp_path / "scaler.json", call=cli).stdout
    assert "scaled: " in shown
    assert values_of(tmp_path) == pytest.approx(by_hand(MEAN, STD), rel=1e-6)
    assert "380" in cli("models", "show", "m").stdout or "630" in cli("models", "show", "m").stdout


@pytest.mark.parametrize(
    ("word", "first", "second"),
    [
        ("mean_std", [3, 250, 6], [float(np.std([1, 2, 6])), float(np.std([0, 100, 900, 0])), 1]),
        ("min_max", [1, 0, 5], [5, 900, 2]),
    ],
)
def test_scaling_fitted_to_the_training_data(tmp_path: Path, cli: Cli, word: str, first: Any, second: Any) -> None:
    pq.write_table(pa.table(ROWS), tmp_path / "train.parquet")
    assert "--baseline" in linear(tmp_path, {}, "--scaling", word, call=cli, expect=ModelRefused).stderr
    linear(tmp_path, {}, "--scaling", word, "--baseline", tmp_path / "train.parquet", call=cli)
    assert values_of(tmp_path) == pytest.approx(by_hand(first, second), rel=1e-5)


def test_fit_follows_the_steps_before_it_and_the_replacement_of_null(tmp_path: Path, cli: Cli) -> None:
    pq.write_table(pa.table(ROWS), tmp_path / "train.parquet")
    inputs = {"a": {"kind": "number", "null": 3, "scale": [{"log1p": True}, {"fit": "mean_std"}, {"clip": [-1, None]}]}}
    (tmp_path / "s.json").write_text(json.dumps({"inputs": inputs}))
    linear(tmp_path, {}, "--signature", tmp_path / "s.json", "--baseline", tmp_path / "train.parquet", call=cli)
    found = Registry(tmp_path / "models").resolve("m", "v1").signature.model_dump(mode="json")["inputs"]["a"]["scale"]
    logarithms = np.log1p([1, 2, 6, 3])
    assert found == [
        {"log1p": True},
        {"mean": pytest.approx(logarithms.mean()), "std": pytest.approx(logarithms.std())},
        {"clip": [-1, None]},
    ]


def test_fit_of_a_constant_is_refused(tmp_path: Path, cli: Cli) -> None:
    pq.write_table(pa.table({**ROWS, "b": [4.0] * 4}), tmp_path / "train.parquet")
    error = linear(
        tmp_path, {}, "--scaling", "min_max", "--baseline", tmp_path / "train.parquet", call=cli, expect=ModelRefused
    ).stderr
    assert "feature b" in error
    assert "always 4" in error


@pytest.mark.parametrize(
    "entries",
    [
        {"mean": MEAN, "std": STD},
        {"scaler": {"mean_": torch.tensor(MEAN), "scale_": torch.tensor(STD), "var_": torch.tensor(STD) ** 2}},
        {"feature_means": tuple(MEAN), "feature_stds": torch.tensor([STD])},
        {"scaler": {"mean": dict(zip("cba", MEAN[::-1], strict=True)), "std": dict(zip("abc", STD, strict=True))}},
        {"xMin": MEAN, "xMax": [mean + std for mean, std in zip(MEAN, STD, strict=True)]},
        {"mu": MEAN, "variance": [std**2 for std in STD]},
    ],
    ids=["lists", "of sklearn", "tensors", "by name", "limits", "variance"],
)
def test_checkpoint_with_the_values_of_a_scaler_asks_what_to_do_with_them(
    tmp_path: Path, cli: Cli, entries: dict[str, Any]
) -> None:
    """Before, the features were passed unscaled, without a word."""
    error = " ".join(linear(tmp_path, entries, call=cli, expect=ModelRefused).stderr.split())
    assert "carries values of a scaler" in error
    assert all(f"--scaling {word}" in error for word in ("checkpoint", "FILE", "none"))
    linear(tmp_path, entries, "--scaling", "checkpoint", call=cli)
    assert values_of(tmp_path) == pytest.approx(by_hand(MEAN, STD), rel=1e-5)


def test_safetensors_with_the_values_of_a_scaler_ask_too(tmp_path: Path, cli: Cli) -> None:
    metadata = {"architecture": "mlp:relu", "mean": json.dumps(MEAN), "std": json.dumps(STD)}
    save_file(LAYER, tmp_path / "m.safetensors", metadata=metadata)
    command = (
        "models",
        "register",
        tmp_path / "m.safetensors",
        "--name",
        "m",
        "--version",
        "v1",
        "--features",
        "a,b,c",
    )
    assert "--scaling" in cli(*command, "--task", "regression", expect=ModelRefused).stderr
    cli(*command, "--task", "regression", "--scaling", "checkpoint")
    assert values_of(tmp_path) == pytest.approx(by_hand(MEAN, STD), rel=1e-6)


def test_checkpoint_that_contains_itself_is_read(tmp_path: Path, cli: Cli) -> None:
    entries: dict[str, Any] = {"notes": {}}
    entries["notes"]["again"] = entries["notes"]
    linear(tmp_path, entries, call=cli)


def test_checkpoint_whose_scaler_is_not_wanted_is_registered_as_it_is(tmp_path: Path, cli: Cli) -> None:
    linear(tmp_path, {"mean": MEAN, "std": STD}, "--scaling", "none", call=cli)
    assert values_of(tmp_path) == pytest.approx(by_hand([0, 0, 0], [1, 1, 1]), rel=1e-6)


@pytest.mark.parametrize(
    "entries",
    [
        {"scaler": {"min_": MEAN, "scale_": STD, "data_min_": MEAN, "data_max_": MEAN}},
        {"mean": MEAN},
        {"norm": {"a": {"mean": 1.0, "std": 2.0}, "b": {"mean": 1.0, "std": 2.0}, "c": {"mean": 1.0, "std": 2.0}}},
        {"mean": {"x": 1.0, "y": 2.0, "z": 3.0}, "std": STD},
        {"mean": MEAN, "std": STD, "y_mean": 17.5, "y_std": 4.0},
        {"scaler": {"mean": MEAN[:2], "std": STD[:2]}},
    ],
    ids=["several meanings", "half", "by feature", "other names", "of the target", "of other inputs"],
)
def test_checkpoint_whose_scaler_is_not_clear_is_not_guessed(tmp_path: Path, cli: Cli, entries: dict[str, Any]) -> None:
    linear(tmp_path, entries, call=cli, expect=ModelRefused)
    error = linear(tmp_path, entries, "--scaling", "checkpoint", call=cli, expect=UsageError).stderr
    assert "--scaling FILE" in error


@pytest.mark.parametrize(
    "entries", [{"losses": [0.5, 0.4]}, {"epoch": 3, "lr": 1e-3}, {"optimizer_state_dict": {"mean": MEAN}}]
)
def test_checkpoint_without_a_scaler_asks_nothing(tmp_path: Path, cli: Cli, entries: dict[str, Any]) -> None:
    linear(tmp_path, entries, call=cli)


@pytest.mark.parametrize(
    ("content", "error", "said"),
    [
        ({"mean": MEAN[:2], "std": STD[:2]}, UsageError, "with 3 values each, for a, b, c"),
        ({"d": {"mean": 1, "std": 1}}, UsageError, "'d', which is not a feature"),
        ({"a": {"mean": 1}}, ModelRefused, "std"),
        ({"a": [{"sqrt": True}]}, ModelRefused, "a step is one of"),
    ],
)
def test_file_of_a_scaler_that_does_not_fit_is_refused(
    tmp_path: Path, cli: Cli, content: dict[str, Any], error: type[LakescoreError], said: str
) -> None:
    (tmp_path / "scaler.json").write_text(json.dumps(content))
    found = linear(tmp_path, {}, "--scaling", tmp_path / "scaler.json", call=cli, expect=error)
    assert said in " ".join(found.stderr.split())
