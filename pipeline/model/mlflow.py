"""Models of an MLflow registry, `models:/name@alias` or `models:/name/version`: fetched once, then registered here.

MLflow is asked for the files only, and loads none of them: what lies in a model's folder is read like any other file.
Which registry it is, MLflow's own settings say: MLFLOW_REGISTRY_URI, or MLFLOW_TRACKING_URI.
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

URL = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")
CREDENTIALS = re.compile(r"//[^/@]*@")
SAFE = ("*.pt2", "*.safetensors")
PICKLE = ("*.pth", "*.pt", "*.pkl")
"""What torch.save writes: a checkpoint, which is read safely, or a whole module."""


@dataclass(frozen=True)
class Fetched:
    path: Path
    """The model's file, until the context ends."""
    source: str
    details: Mapping[str, str]
    metrics: Mapping[str, float]

    def joined(self, card: Card) -> Card:
        """Returns the card with where the model came from; metrics that it names itself stay."""
        return replace(card, source=self.source, details=self.details, metrics={**self.metrics, **card.metrics})


@contextmanager
def fetched(url: str, *, allow_pickled: bool = False) -> Iterator[Fetched]:
    """Yields the file of a registered model. A whole pickled module is taken only if `allow_pickled`.

    Raises UsageError for another URL or without the extra, ModelNotFound, and ModelRefused for a folder without such a
    file.
    """
    version = _look_up(url)
    import mlflow

    with tempfile.TemporaryDirectory(prefix="lakescore-mlflow-") as folder:
        exact = f"models:/{version.name}/{version.version}"
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
    """Returns MLflow's entry of the version."""
    parts = URL.fullmatch(url)
    if parts is None:
        raise UsageError(
            "that names no model of MLflow", expected="models:/NAME@ALIAS or models:/NAME/VERSION", got=repr(url)
        )
    try:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
    except ImportError:
        raise UsageError(
            "MLflow is not installed", where=url, next_step="pip install 'lakescore[mlflow]' and try again"
        ) from None
    client = MlflowClient()
    try:
        if parts["alias"]:
            return client.get_model_version_by_alias(parts["name"], parts["alias"])
        return client.get_model_version(parts["name"], parts["version"])
    except MlflowException as error:
        raise ModelNotFound(
            "MLflow does not give the model",
            where=url,
            got=str(error).splitlines()[0],
            next_step="set MLFLOW_REGISTRY_URI or MLFLOW_TRACKING_URI to its registry, and look at its versions",
        ) from error


def _file_of(root: Path, url: str, *, allow_pickled: bool) -> Path:
    """Returns the one file that can be read: of the kinds without code first."""
    for patterns in (SAFE, PICKLE):
        found = sorted(path for pattern in patterns for path in root.rglob(pattern) if path.is_file())
        if len(found) == 1 and (patterns is SAFE or allow_pickled or not _is_pickled_module(root)):
            return found[0]
        if found:
            break
    raise ModelRefused(
        "the MLflow model is not one file that can be read without running code",
        where=url,
        expected="one .pt2, .safetensors or checkpoint of a state dict",
        got=", ".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")) if path.is_file())[:300],
        next_step='log it with mlflow.pytorch.log_model(..., serialization_format="pt2", input_example=...); '
        "a pickled module needs --trust-code SHA256",
    )


def _is_pickled_module(root: Path) -> bool:
    """Returns whether MLflow's own flavour pickled a module: it writes the name of the pickler beside it."""
    return any(root.rglob("pickle_module_info.txt"))


def _metrics(run_id: str | None) -> dict[str, float]:
    """Returns the last metrics of the run that trained it, those that are finite numbers."""
    if not run_id:
        return {}
    from math import isfinite

    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        metrics = MlflowClient().get_run(run_id).data.metrics
    except MlflowException:  # the run may be deleted; the model stays
        return {}
    return {str(name): float(value) for name, value in metrics.items() if isfinite(value)}
