"""Models of MLflow: `models:/NAME/VERSION`, `models:/m-ID`, `runs:/RUN/PATH`: fetched once, then registered here.

MLflow only downloads the files and loads none of them; they are then read like any other model file. MLflow's own
settings select the server: MLFLOW_TRACKING_URI and MLFLOW_REGISTRY_URI.
"""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import UsageError
from pipeline.model import mlflow_files, mlflow_signature
from pipeline.model.card import Card
from pipeline.model.mlflow_errors import redacted, translated

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from pipeline.model.input_schema import InputSchema

URL = re.compile(
    r"models:/(?P<model_id>m-[0-9a-f]{8,})"
    r"|models:/(?P<name>[^/@]+)"
    r"(?:@(?P<alias>[^/@]+)|/(?P<version>\d+)|/(?P<latest>(?i:latest))|/(?P<stage>(?i:none|staging|production|archived)))"
    r"|runs:/(?P<run_id>[^/]+)/(?P<path>.*[^/])/*"
)
OTHER_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*):/")
"""Any address with a scheme, as opposed to a path."""
EXPECTED = "models:/NAME@ALIAS, models:/NAME/VERSION, models:/NAME/latest, models:/m-ID or runs:/RUN_ID/PATH"
ELSEWHERE = "copy the file to this machine and pass its path; only models of MLflow are fetched"


@dataclass(frozen=True)
class Fetched:
    path: Path
    """Path of the model's file, valid until the context ends."""
    source: str
    details: Mapping[str, str]
    metrics: Mapping[str, float]
    schema: InputSchema | None = None
    """The columns that the model's signature names."""

    def joined(self, card: Card) -> Card:
        """Returns the card with what MLflow knows added; metrics already on the card take precedence."""
        metrics = {**self.metrics, **card.metrics}
        return replace(card, source=self.source, details=self.details, metrics=metrics, schema=self.schema)


@dataclass(frozen=True)
class Origin:
    """What an address names at this moment."""

    address: str
    """The same model, named so that it cannot become another one."""
    run_id: str | None
    details: Mapping[str, str | None]
    metrics: Mapping[str, float] = field(default_factory=dict)


def is_url(text: str) -> bool:
    """Returns whether a text is an address of MLflow or elsewhere, not the path of a file."""
    return OTHER_URL.match(text) is not None and not Path(text).exists()


@contextmanager
def fetched(url: str, *, allow_pickled: bool = False) -> Iterator[Fetched]:
    """Yields the file of a model. A whole pickled module is accepted only if `allow_pickled`.

    Raises UsageError for an invalid URL or if MLflow is not installed, ModelNotFound if MLflow does not have the model
    or refuses it, StorageUnavailable if the server cannot be reached, and ModelRefused if the model's folder does not
    have exactly one suitable file.
    """
    parts = URL.fullmatch(url)
    if parts is None:
        raise _unknown(url)
    try:
        import mlflow
    except ImportError:
        raise UsageError(
            "MLflow is not installed", where=url, next_step="pip install 'lakescore[mlflow]' and try again"
        ) from None
    with tempfile.TemporaryDirectory(prefix="lakescore-mlflow-") as folder:
        with translated(url):
            client = mlflow.MlflowClient()
            origin = _look_up(client, url, parts)
            metrics = {**_metrics(client, origin.run_id), **origin.metrics}
            root = Path(mlflow.artifacts.download_artifacts(artifact_uri=origin.address, dst_path=folder))
            server = mlflow.get_registry_uri() if parts["name"] else mlflow.get_tracking_uri()
        logged = mlflow_files.read(root, url)
        path = mlflow_files.model_file(logged, url, allow_pickled=allow_pickled)
        known = {key: value for key, value in {"run_id": origin.run_id, **origin.details}.items() if value}
        details = {"model": origin.address, **logged.ids, **known}
        yield Fetched(
            path,
            f"{redacted(server)}#{url}",
            {key: redacted(value) for key, value in details.items()},
            {str(name): float(value) for name, value in metrics.items() if isfinite(value)},
            mlflow_signature.parse(logged.signature, url),
        )


def _look_up(client: MlflowClient, url: str, parts: re.Match[str]) -> Origin:
    """Asks MLflow what an address names."""
    if parts["run_id"]:
        run = client.get_run(parts["run_id"])
        return Origin(url, run.info.run_id, {"artifacts": run.info.artifact_uri})
    if parts["model_id"]:
        model = client.get_logged_model(parts["model_id"])
        metrics = {each.key: each.value for each in model.metrics or ()}
        return Origin(
            f"models:/{model.model_id}",
            model.source_run_id,
            {"artifacts": model.artifact_location, "model_id": model.model_id},
            metrics,
        )
    name, stage = parts["name"], parts["stage"]
    if parts["version"]:
        version = client.get_model_version(name, parts["version"])
    elif parts["alias"]:
        version = client.get_model_version_by_alias(name, parts["alias"])
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MLflow advises aliases in place of stages
            found = client.get_latest_versions(name, None if stage is None else [stage])
        if not found:
            raise LookupError(f"no version of {name} has the stage {stage}" if stage else f"{name} has no version")
        version = max(found, key=lambda each: int(each.version))
    exact = f"models:/{version.name}/{version.version}"
    return Origin(exact, version.run_id, {"artifacts": version.source, "model_id": version.model_id})


def _unknown(url: str) -> UsageError:
    """Returns the error for an address that is not that of a model in MLflow, with the one to use."""
    scheme = url.partition(":")[0].lower()
    if scheme in ("runs", "mlflow-artifacts"):
        next_step = "pass runs:/RUN_ID/PATH, such as runs:/0123456789abcdef/model, or models:/m-ID of the logged model"
    elif scheme == "models":
        next_step = "name a version, `latest`, or an alias: MlflowClient().set_registered_model_alias makes one"
    else:
        next_step = ELSEWHERE
    return UsageError("not an MLflow model URL", expected=EXPECTED, got=repr(redacted(url)), next_step=next_step)


def _metrics(client: MlflowClient, run_id: str | None) -> dict[str, float]:
    """Returns the latest metrics of the run that trained the model; none if the run was deleted."""
    from mlflow.exceptions import MlflowException

    if not run_id:
        return {}
    try:
        return dict(client.get_run(run_id).data.metrics)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return {}  # the model is still usable
