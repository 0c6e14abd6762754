"""Models of an MLflow registry, `models:/name@alias` or `models:/name/version`: fetched once, then registered here.

MLflow only downloads the files and loads none of them; they are then read like any other model file. MLflow's own
settings select the registry: MLFLOW_REGISTRY_URI or MLFLOW_TRACKING_URI.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.errors import ModelNotFound, ModelRefused, UsageError
from pipeline.model.card import Card
from pipeline.model.other_files import FLAVORS

URL = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")
CREDENTIALS = re.compile(r"//[^/@]*@")
OTHER_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*):/")
"""Any address with a scheme, as opposed to a path."""
LOGGED = re.compile(r"models:/m-[0-9a-f]{8,}")
REGISTER = 'register it in MLflow, mlflow.register_model({url!r}, "NAME"), and pass models:/NAME/VERSION'
ELSEWHERE = "copy the file to this machine and pass its path; only models of an MLflow registry are fetched"
HOW_TO_LOG = (
    'log it with mlflow.pytorch.log_model(..., serialization_format="pt2", input_example=...), with an example of two '
    "rows or more; a pickled module needs --trust-code SHA256"
)
SAFE = ("*.pt2", "*.safetensors")
LIBRARIES = ("onnx", "xgboost", "lightgbm")
"""The flavors whose own files are read, by extras."""
PICKLE = ("*.pth", "*.pt", "*.pkl")
"""Files of torch.save: a checkpoint, which is read safely, or a whole module."""


@dataclass(frozen=True)
class Fetched:
    path: Path
    """Path of the model's file, valid until the context ends."""
    source: str
    details: Mapping[str, str]
    metrics: Mapping[str, float]

    def joined(self, card: Card) -> Card:
        """Returns the card with source, details and metrics added; metrics already on the card take precedence."""
        return replace(card, source=self.source, details=self.details, metrics={**self.metrics, **card.metrics})


def is_url(text: str) -> bool:
    """Returns whether a text is an address of MLflow or elsewhere, not the path of a file."""
    return OTHER_URL.match(text) is not None and not Path(text).exists()


@contextmanager
def fetched(url: str, *, allow_pickled: bool = False) -> Iterator[Fetched]:
    """Yields the file of a registered model. A whole pickled module is accepted only if `allow_pickled`.

    Raises UsageError for an invalid URL or if MLflow is not installed, ModelNotFound if MLflow does not provide the
    model, and ModelRefused if the model's folder does not have exactly one suitable file.
    """
    version = _look_up(url)
    import mlflow

    with tempfile.TemporaryDirectory(prefix="lakescore-mlflow-") as folder:
        exact = f"models:/{version.name}/{version.version}"
        with _translated(url):
            root = Path(mlflow.artifacts.download_artifacts(artifact_uri=exact, dst_path=folder))
        path = _file_of(root, url, allow_pickled=allow_pickled)
        details = {"model": exact, "run_id": version.run_id, "artifacts": version.source, "model_id": version.model_id}
        yield Fetched(
            path,
            f"{CREDENTIALS.sub('//', mlflow.get_registry_uri())}#{url}",
            {key: str(value) for key, value in details.items() if value},
            _metrics(version.run_id),
        )


def _look_up(url: str) -> Any:
    """Returns MLflow's entry for the version."""
    parts = URL.fullmatch(url)
    if parts is None:
        raise _unknown(url)
    try:
        from mlflow import MlflowClient
    except ImportError:
        raise UsageError(
            "MLflow is not installed", where=url, next_step="pip install 'lakescore[mlflow]' and try again"
        ) from None
    with _translated(url):
        client = MlflowClient()
        if parts["alias"]:
            return client.get_model_version_by_alias(parts["name"], parts["alias"])
        return client.get_model_version(parts["name"], parts["version"])


@contextmanager
def _translated(url: str) -> Iterator[None]:
    """Turns MLflow's errors into ModelNotFound."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:  # OSError: the network, or a file that is gone
        raise ModelNotFound(
            "MLflow does not provide the model",
            where=url,
            got=next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300],
            next_step="set MLFLOW_REGISTRY_URI or MLFLOW_TRACKING_URI to its registry, and check its versions",
        ) from error


def _unknown(url: str) -> UsageError:
    """Returns the error for an address that is not that of a registered model, with the one to use."""
    scheme = url.partition(":")[0].lower()
    if LOGGED.fullmatch(url) or scheme in ("runs", "mlflow-artifacts"):
        next_step = REGISTER.format(url=url)
    elif scheme == "models":
        next_step = (
            "name a version, or an alias in place of a stage or `latest`: MlflowClient().set_registered_model_alias"
        )
    else:
        next_step = ELSEWHERE
    return UsageError(
        "not an MLflow model URL",
        expected="models:/NAME@ALIAS or models:/NAME/VERSION",
        got=repr(CREDENTIALS.sub("//", url)),
        next_step=next_step,
    )


def _file_of(root: Path, url: str, *, allow_pickled: bool) -> Path:
    """Returns the only file that can be read; prefers the kinds that cannot contain code."""
    folder, flavors = _described(root)
    if (path := _of_library(folder, flavors)) is not None:
        return path
    for patterns in (SAFE, PICKLE):
        found = sorted(path for pattern in patterns for path in root.rglob(pattern) if path.is_file())
        if len(found) == 1 and (patterns is SAFE or allow_pickled or not _is_pickled_module(root)):
            return found[0]
        if found:
            break
    other = next((FLAVORS[flavor] for flavor in flavors if flavor in FLAVORS), None)
    files = ", ".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")) if path.is_file())[:300]
    raise ModelRefused(
        "the MLflow model is not one file that can be read without running code",
        where=url,
        expected="one .pt2, .safetensors, checkpoint of a state dict, or file of ONNX, XGBoost or LightGBM",
        got=f"{other.name if other else 'files'}: {files}",
        next_step=other.next_step if other else HOW_TO_LOG,
    )


def _of_library(folder: Path, flavors: Mapping[str, Any]) -> Path | None:
    """Returns the file of a library that Lakescore reads by an extra; None if there is none, or it is a pickle."""
    for name in LIBRARIES:
        entries = flavors.get(name)
        file = entries.get("data") if isinstance(entries, dict) else None
        path = folder / str(file)
        inside = path.resolve().is_relative_to(folder.resolve())  # the description may name any path
        if file is not None and inside and path.is_file() and path.suffix != ".pkl":
            return path
    return None


def _described(root: Path) -> tuple[Path, dict[str, Any]]:
    """Returns the model's folder, and its entry for each library that can load it, such as `pytorch` or `sklearn`."""
    from yaml import YAMLError, safe_load  # type: ignore[import-untyped]

    for path in root.rglob("MLmodel"):
        try:
            document = safe_load(path.read_bytes())
        except (YAMLError, OSError, UnicodeDecodeError):
            continue  # the list of files says what is there
        found = document.get("flavors") if isinstance(document, dict) else None
        if isinstance(found, dict):
            return path.parent, {str(name): entries for name, entries in found.items()}
    return root, {}


def _is_pickled_module(root: Path) -> bool:
    """Returns whether MLflow's PyTorch flavour pickled a module: it then writes a file with the pickler's name."""
    return any(root.rglob("pickle_module_info.txt"))


def _metrics(run_id: str | None) -> dict[str, float]:
    """Returns the latest finite metrics of the run that trained the model."""
    if not run_id:
        return {}
    from math import isfinite

    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        metrics = MlflowClient().get_run(run_id).data.metrics
    except MlflowException:  # the run may have been deleted; the model is still usable
        return {}
    return {str(name): float(value) for name, value in metrics.items() if isfinite(value)}
