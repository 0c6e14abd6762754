"""The files of a model that MLflow has downloaded: which one is read, and what its description `MLmodel` says.

Only files that are data are read. A model whose flavors are code (scikit-learn, a Python model) is refused, whatever
other files lie beside it: what it computes is more than they do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import ModelRefused
from pipeline.model.other_files import FLAVORS

HOW_TO_LOG = (
    'log it with mlflow.pytorch.log_model(..., serialization_format="pt2", input_example=...), with an example of two '
    "rows or more; a pickled module needs --trust-code SHA256"
)
FROM_PYTHON = (
    "log the model inside it by its own flavor, which writes data: mlflow.pytorch.log_model(..., "
    'serialization_format="pt2"), mlflow.onnx, mlflow.xgboost or mlflow.lightgbm; what its Python code does before and '
    "after belongs into the job's SELECT and `inputs` of --signature"
)
LOG_INSTEAD = {
    "sklearn": "convert it where it was trained, and log that: mlflow.onnx.log_model(skl2onnx.to_onnx(model, X[:1]), "
    'name="model")',
    "lightgbm": 'log its booster, which is written as text: mlflow.lightgbm.log_model(model.booster_, name="model")',
    "xgboost": 'log it with model_format="ubj"; or register the file that booster.save_model(path) writes',
}
"""What to log in place of a pickle, by flavor."""
SAFE = ("*.pt2", "*.safetensors")
LIBRARIES = ("onnx", "xgboost", "lightgbm")
"""The flavors whose own files are read, by extras."""
PICKLE = ("*.pth", "*.pt", "*.pkl")
"""Files of torch.save: a checkpoint, which is read safely, or a whole module."""
CODE = (".pkl", ".pickle", ".cloudpickle", ".joblib", ".skops")
"""Suffixes of files of a library's flavor that hold Python objects."""
DESCRIPTION = "MLmodel"


@dataclass(frozen=True)
class Logged:
    root: Path
    """What was downloaded: a folder, or one file."""
    folder: Path
    """The folder with the description, if there is one."""
    flavors: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The entry for each library that can load the model, such as `pytorch` or `sklearn`."""
    signature: Mapping[str, Any] | None = None
    """The signature as stored: JSON text in `inputs` and `outputs`."""
    ids: Mapping[str, str] = field(default_factory=dict)
    """The run and the id that the model was logged with."""


def read(root: Path, url: str) -> Logged:
    """Reads the description among the downloaded files. Raises ModelRefused if there is more than one, or a bad one."""
    from yaml import YAMLError, safe_load  # type: ignore[import-untyped]

    found = sorted(root.rglob(DESCRIPTION)) if root.is_dir() else []
    if not found:
        return Logged(root, root)
    if len(found) > 1:
        folders = ", ".join(path.parent.relative_to(root).as_posix() for path in found)
        raise ModelRefused(
            f"there are {len(found)} models under this address",
            where=url,
            got=folders[:300],
            next_step="add the folder of the one to register to the address",
        )
    try:
        document = safe_load(found[0].read_bytes())
        flavors = document["flavors"]
        entries = {str(name): dict(entry or {}) for name, entry in flavors.items()}
        signature = document.get("signature")
    except (YAMLError, UnicodeDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelRefused(
            f"the model's description {DESCRIPTION} cannot be read",
            where=url,
            got=f"{type(error).__name__}: {error}".splitlines()[0][:300],
            next_step="log the model again with mlflow.<flavor>.log_model",
        ) from None
    ids = {name: str(document[name]) for name in ("run_id", "model_id") if document.get(name)}
    return Logged(root, found[0].parent, entries, signature if isinstance(signature, dict) else None, ids)


def model_file(logged: Logged, url: str, *, allow_pickled: bool) -> Path:
    """Returns the only file that can be read; prefers the kinds that cannot contain code. Raises ModelRefused."""
    root, flavors = logged.root, logged.flavors
    if root.is_file():
        return root
    if (path := _of_library(logged)) is not None:
        return path
    if not flavors or "pytorch" in flavors:
        files = [path for path in root.rglob("*") if path.is_file()]
        if not flavors and len(files) == 1:
            return files[0]
        for patterns in (SAFE, PICKLE):
            found = sorted(path for pattern in patterns for path in root.rglob(pattern) if path.is_file())
            if len(found) == 1 and (patterns is SAFE or allow_pickled or not _is_pickled_module(root)):
                return found[0]
            if found:
                break
    got, next_step = _other(flavors)
    listed = ", ".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")) if path.is_file())[:300]
    raise ModelRefused(
        "the MLflow model is not one file that can be read without running code",
        where=url,
        expected="one .pt2, .safetensors, checkpoint of a state dict, or file of ONNX, XGBoost or LightGBM",
        got=f"{got}: {listed or 'none'}",
        next_step=next_step,
    )


def _of_library(logged: Logged) -> Path | None:
    """Returns the file of a library that Lakescore reads by an extra; None if there is none, or it is a pickle."""
    for name in LIBRARIES:
        file = logged.flavors.get(name, {}).get("data")
        path = logged.folder / str(file)
        inside = path.resolve().is_relative_to(logged.folder.resolve())  # the description may name any path
        if file is not None and inside and path.is_file() and path.suffix not in CODE:
            return path
    return None


def _other(flavors: Mapping[str, Mapping[str, Any]]) -> tuple[str, str]:
    """Returns what a model is that cannot be read, and what to do instead."""
    flavor = next((flavor for flavor in flavors if flavor in FLAVORS), None)
    if flavor is not None:
        kind = FLAVORS[flavor]
        return kind.name, LOG_INSTEAD.get(flavor, kind.next_step)
    if flavors and "pytorch" not in flavors:
        names = ", ".join(sorted(set(flavors) - {"python_function"}))
        return (f"a model of the flavor {names}" if names else "a Python model, which is code"), FROM_PYTHON
    return "files", HOW_TO_LOG


def _is_pickled_module(root: Path) -> bool:
    """Returns whether MLflow's PyTorch flavor pickled a module: it then writes a file with the pickler's name."""
    return any(root.rglob("pickle_module_info.txt"))
