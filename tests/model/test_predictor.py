"""The loaded model gives the same columns as a plain loop, for any slice size, thread and memory limit."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

from pipeline.errors import ModelError, ModelMismatch, UsageError
from pipeline.model.manifest import Signature
from pipeline.model.memory_layout import empty
from pipeline.model.predictor import Predictor, choose_device

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROWS = 1000


def signature(*classes: str | int, features: int = 3) -> Signature:
    return Signature(features=tuple(f"f{index}" for index in range(features)), classes=classes or (0, 1))


def network(outputs: int = 2, features: int = 3) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return nn.Sequential(nn.Linear(features, 16), nn.ReLU(), nn.Linear(16, outputs))


def matrix(rows: int = ROWS, features: int = 3) -> NDArray[np.float32]:
    return np.random.default_rng(5).normal(0, 3, (rows, features)).astype(np.float32)


def plain_loop(module: nn.Module, rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """Returns the probabilities (rows, classes), one row at a time, in float64 after the forward pass."""
    found = []
    with torch.no_grad():
        for row in rows:
            logits = module(torch.tensor(row[None]))[0].double().numpy()
            if len(logits) == 1:
                found.append([1 / (1 + np.exp(logits[0])), 1 / (1 + np.exp(-logits[0]))])
            else:
                found.append(np.exp(logits) / np.exp(logits).sum())
    return np.array(found)


def torch_settings() -> tuple[object, ...]:
    modes = (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.are_deterministic_algorithms_enabled())
    return (*modes, torch.get_num_threads(), torch.get_default_dtype())


class OnlyFits(nn.Module):
    """A model that runs out of memory above a number of rows."""

    def __init__(self, inner: nn.Module, rows: int) -> None:
        super().__init__()
        self.inner, self.rows, self.seen = inner, rows, list[int]()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(x))
        if len(x) > self.rows:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nmore lines")
        logits: torch.Tensor = self.inner(x)
        return logits


@pytest.mark.parametrize("batch_rows", [1, 7, 999, 1000, 8192])
@pytest.mark.parametrize("outputs", [1, 2, 5])
def test_predict_any_batch_size_equals_a_plain_loop(outputs: int, batch_rows: int) -> None:
    module, rows = network(outputs), matrix()
    classes = max(outputs, 2)
    columns = Predictor(module, signature(*range(classes)), "cpu").predict(rows, batch_rows)
    expected = plain_loop(module, rows)
    actual = np.stack([columns[f"prob_class_{index}"] for index in range(classes)], axis=1)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(columns["prediction"], expected.argmax(axis=1))
    np.testing.assert_array_equal(columns["prediction_proba"], actual.max(axis=1))
    np.testing.assert_allclose(actual.sum(axis=1), 1, rtol=0, atol=1e-6)
    assert len(set(columns["prediction"].tolist())) > 1


@pytest.mark.parametrize("classes", [(0, 1), (10, -20), ("stays", "leaves")])
def test_predict_labels_are_those_of_the_classes(classes: tuple[str | int, ...]) -> None:
    rows = matrix()
    likeliest = plain_loop(network(), rows).argmax(axis=1)
    predictor = Predictor(network(), signature(*classes), "cpu")
    predicted = predictor.predict(rows, 100)["prediction"]
    assert predicted.tolist() == [classes[index] for index in likeliest]
    assert predicted.dtype == (np.int64 if isinstance(classes[0], int) else np.object_)
    assert predictor.predict_arrow(rows, 100).column("prediction").to_pylist() == predicted.tolist()


@pytest.mark.parametrize("rows", [0, 1, 250])
@pytest.mark.parametrize("classes", [(0, 1, 2), (5, 6, 7), ("a", "b", "c")])
def test_predict_arrow_has_the_schema_and_the_columns_of_predict(classes: tuple[str | int, ...], rows: int) -> None:
    predictor = Predictor(network(3), signature(*classes), "cpu")
    batch, columns = predictor.predict_arrow(matrix(rows), 100), predictor.predict(matrix(rows), 100)
    batch.validate(full=True)
    assert batch.schema == predictor.output_schema()
    assert batch.num_rows == rows
    assert list(columns) == batch.schema.names
    for field in batch.schema:
        assert pa.array(columns[field.name], field.type) == batch.column(field.name)


def test_predict_no_rows_gives_empty_columns_of_their_types() -> None:
    columns = Predictor(network(), signature(), "cpu").predict(matrix(0), 8192)
    assert {name: (column.shape, column.dtype.name) for name, column in columns.items()} == {
        "prediction": ((0,), "int64"),
        "prediction_proba": ((0,), "float32"),
        "prob_class_0": ((0,), "float32"),
        "prob_class_1": ((0,), "float32"),
    }


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
def test_predict_other_layouts_of_the_matrix_give_the_same() -> None:
    rows = matrix()
    frozen = rows.copy()
    frozen.flags.writeable = False
    wide = np.zeros((ROWS, 6), np.float32)
    wide[:, ::2] = rows
    predictor = Predictor(network(), signature(), "cpu")
    expected = predictor.predict(rows, 128)["prob_class_1"]
    for other in (frozen, np.asfortranarray(rows), wide[:, ::2]):
        np.testing.assert_allclose(predictor.predict(other, 128)["prob_class_1"], expected, rtol=0, atol=1e-6)


def test_predict_leaves_the_matrix_as_it_is() -> None:
    rows = matrix()
    module = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 2))  # its first layer writes into its argument
    Predictor(module, signature(), "cpu").predict(rows, 128)
    np.testing.assert_array_equal(rows, matrix())


@pytest.mark.parametrize(
    ("rows", "got"),
    [
        (matrix(features=4), "float32 (1000, 4)"),
        (matrix().astype(np.float64), "float64 (1000, 3)"),
        (matrix()[0], "float32 (3,)"),
    ],
    ids=["columns", "type", "one row"],
)
def test_predict_another_matrix_is_refused(rows: NDArray[np.float32], got: str) -> None:
    with pytest.raises(ModelMismatch) as caught:
        Predictor(network(), signature(), "cpu").predict(rows, 100)
    assert (caught.value.expected, caught.value.got) == ("float32 (rows, 3)", got)


def test_predict_without_batch_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="not 0"):
        Predictor(network(), signature(), "cpu").predict(matrix(), 0)


@pytest.mark.slow
def test_predict_dropout_and_gradients_are_off() -> None:
    module = nn.Sequential(nn.Dropout(0.9), nn.Linear(3, 2)).train()
    predictor = Predictor(module, signature(), "cpu")
    first, second = (predictor.predict(matrix(), 64)["prob_class_1"] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_predict_nan_feature_gives_nan_that_a_guard_can_see() -> None:
    rows = matrix(3)
    rows[1, 0] = np.nan
    columns = Predictor(network(), signature("no", "yes"), "cpu").predict(rows, 2)
    assert np.isnan(columns["prediction_proba"]).tolist() == [False, True, False]


@pytest.mark.slow
def test_predict_from_several_threads_gives_each_its_own_result() -> None:
    predictor = Predictor(network(4), signature(*range(4)), "cpu")
    rows = matrix(20_000)
    expected = predictor.predict(rows, 512)
    settings = torch_settings()

    def part(index: int) -> dict[str, NDArray[Any]]:
        return predictor.predict(rows[index * 500 : (index + 1) * 500], 16 + index)

    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(part, range(40)))
    for name, column in expected.items():
        joined = np.concatenate([part[name] for part in parts])
        np.testing.assert_allclose(joined.astype(float), column.astype(float), rtol=0, atol=1e-6)
    assert torch_settings() == settings


class Watched(nn.Linear):
    """Records the mode in which it ran."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.inference = torch.is_inference_mode_enabled()
        return super().forward(x)


def test_predict_runs_in_inference_mode() -> None:
    module = Watched(3, 2)
    Predictor(module, signature(), "cpu").predict(matrix(), 512)
    assert module.inference


@pytest.mark.parametrize("fits", [1, 10, 63, 999])
def test_predict_out_of_memory_halves_the_slice_and_scores_all(fits: int) -> None:
    module = OnlyFits(network(), fits)
    columns = Predictor(module, signature(), "cpu").predict(matrix(), 512)
    expected = plain_loop(network(), matrix())
    np.testing.assert_allclose(columns["prob_class_1"], expected[:, 1], rtol=0, atol=1e-6)
    assert max(size for size in module.seen if size <= fits) > fits // 2 or fits >= 512


def test_predict_out_of_memory_is_remembered() -> None:
    module = OnlyFits(network(), 100)
    predictor = Predictor(module, signature(), "cpu")
    predictor.predict(matrix(), 512)
    assert module.seen[:4] == [512, 256, 128, 64]
    module.seen.clear()
    predictor.predict(matrix(), 512)
    assert max(module.seen) == 64


class Strict(nn.Module):
    """Like a program that views its argument as one row of numbers, and then writes into it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.is_contiguous()
        logits: torch.Tensor = self.inner(x.view(-1).view(x.shape).clone())
        x.view(-1)[:] = 0
        return logits


@pytest.mark.slow
@pytest.mark.parametrize("batch_rows", [7, 1000, 8192])
@pytest.mark.parametrize("wrap", [nn.Identity(), Strict])
def test_predict_is_the_same_in_both_layouts(wrap: Any, batch_rows: int) -> None:
    rows, module = matrix(), network()
    by_column = empty(*rows.shape)
    by_column[:] = rows
    expected = plain_loop(module, rows)
    predictor = Predictor(wrap(module), signature(), "cpu")
    for each in (rows, by_column):
        found = predictor.predict(each, batch_rows)
        np.testing.assert_allclose(found["prob_class_1"], expected[:, 1], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(by_column, rows)


def test_predict_out_of_memory_for_one_row_says_what_to_do() -> None:
    with pytest.raises(ModelError) as caught:
        Predictor(OnlyFits(network(), 0), signature(), "cpu").predict(matrix(), 512)
    assert "LAKESCORE_DEVICE=cpu" in str(caught.value)
    assert caught.value.got == "CUDA out of memory. Tried to allocate 2.00 GiB"


def test_choose_device_auto_takes_what_is_there() -> None:
    assert choose_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    assert choose_device("cpu") == "cpu"


@pytest.mark.parametrize("name", ["cuda:99", "tpu"])
def test_choose_device_not_there_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"'{name}' is not available") as caught:
        Predictor(network(), signature(), name)
    assert str(caught.value.expected).startswith("auto, cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("outputs", [1, 2, 5])
def test_predict_on_cuda_equals_a_plain_loop(outputs: int) -> None:
    module, rows = network(outputs), matrix()
    expected = plain_loop(module, rows)
    columns = Predictor(module, signature(*range(max(outputs, 2))), "cuda").predict(rows, 300)
    for index in range(expected.shape[1]):
        np.testing.assert_allclose(columns[f"prob_class_{index}"], expected[:, index], rtol=0, atol=1e-6)
