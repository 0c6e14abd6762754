"""Model files of other libraries are named, with the way that works; none is loaded. The files are real ones."""

from __future__ import annotations

import hashlib
import io
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pipeline.errors import ModelRefused
from pipeline.model import other_files
from pipeline.model.card import Card
from pipeline.model.registry import Registry

FILES = Path(__file__).parent / "files"
EXPORT = "export that with torch.export.save"


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "models")


def refused(registry: Registry, path: Path, trusted: str | None = None) -> ModelRefused:
    with pytest.raises(ModelRefused) as caught:
        registry.register(path, name="m", version="v1", features=("a", "b", "c"), card=Card(trusted=trusted))
    assert not (registry.root / "m").exists()
    return caught.value


@pytest.mark.parametrize(
    ("file", "named", "way"),
    [
        ("sklearn.pkl", "pickled scikit-learn model, which is code", "skl2onnx.to_onnx"),
        ("sklearn.joblib", "pickled scikit-learn model", "skl2onnx.to_onnx"),
        ("sklearn-compressed.joblib", "pickled scikit-learn model", "skl2onnx.to_onnx"),
        ("xgboost.pkl", "pickled XGBoost model, which is code", "booster.save_model(path)"),
        ("lightgbm.pkl", "pickled LightGBM model, which is code", "booster.save_model(path)"),
        ("catboost.cbm", "CatBoost", "write its trees as a torch module, and export that with torch.export.save"),
    ],
)
def test_file_of_another_library_is_named_with_the_way_that_works(
    registry: Registry, file: str, named: str, way: str
) -> None:
    error = refused(registry, FILES / file)
    assert named in error.what
    assert way in str(error.next_step)


@pytest.mark.parametrize(("file", "way"), [("sklearn.pkl", EXPORT), ("xgboost.ubj", "omit --trust-code")])
def test_trusting_the_code_of_another_library_does_not_help(registry: Registry, file: str, way: str) -> None:
    """Its object is no module, so the advice of a module that cannot be loaded would mislead."""
    content = (FILES / file).read_bytes()
    error = refused(registry, FILES / file, hashlib.sha256(content).hexdigest())
    assert way in str(error.next_step)


@pytest.mark.parametrize("trusted", [False, True])
def test_torchscript_is_named_with_the_way_that_works(registry: Registry, tmp_path: Path, trusted: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls it deprecated
        torch.jit.script(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))).save(  # type: ignore[no-untyped-call]
            tmp_path / "m.pt"
        )
    content = (tmp_path / "m.pt").read_bytes()
    error = refused(registry, tmp_path / "m.pt", hashlib.sha256(content).hexdigest() if trusted else None)
    assert "TorchScript" in error.what
    assert "export the module that it was made from with torch.export.save" in str(error.next_step)


def arrays() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, coef=np.ones(3), intercept=np.ones(1))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (arrays(), "numpy arrays"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "Keras or TensorFlow"),
    ],
    ids=["npz", "hdf5"],
)
def test_other_known_content_is_named(content: bytes, named: str) -> None:
    with pytest.raises(ModelRefused, match=named):
        other_files.check(content, "m")


def test_pickle_is_taken_apart_and_not_run(tmp_path: Path) -> None:
    """The pickle would build an object of scikit-learn, and touch a file on the way."""
    mark = tmp_path / "executed"

    class Touch:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (mark,))

    content = pickle.dumps([Touch(), "sklearn.linear_model"], protocol=4)
    other_files.recognized(content + (FILES / "sklearn.pkl").read_bytes())
    other_files.recognized(content)
    assert not mark.exists()


def test_content_that_only_mentions_a_library_is_not_its_file() -> None:
    assert other_files.recognized(pickle.dumps({"sklearn": "sklearn.pipeline"})) is None
    assert other_files.recognized(b'{"model": "learner"}') is None


@given(content=st.binary(max_size=200))
def test_any_content_is_recognized_or_not_without_an_error(content: bytes) -> None:
    for start in (b"", b"PK\x03\x04", b"\x80\x04\x95", b"x\x9c", b"\x1f\x8b", b"BZh9", b"{L", b"\x08\x0a\x12"):
        other_files.recognized(start + content)
