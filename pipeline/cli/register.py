"""models register: copy a model into the registry."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from json import loads
from math import inf, isfinite
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli.manifests import described, outputs_of, registry_of_settings, scales, structure_of, task_of
from pipeline.cli.options import DecimalOption, JsonOption, TypesOption
from pipeline.cli.output import console, emit_json
from pipeline.errors import ModelRefused, UsageError
from pipeline.machine import bounded_memory
from pipeline.model.card import Card

ROOM = 4_000_000_000
"""Memory that registration may take beyond that of the process before, in bytes: torch and DuckDB take most of it."""
ROOM_PER_BYTE = 8
"""Further memory per byte of the model's file, which is read, checked, loaded and copied."""


def register(
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="A model file, or an MLflow URI: models:/NAME@ALIAS, models:/NAME/3 or runs:/RUN_ID/PATH.",
        ),
    ],
    name: Annotated[str, typer.Option("--name", help="The model's name.")],
    version: Annotated[str, typer.Option("--version", help="A new version, such as v1.")],
    features: Annotated[
        str | None,
        typer.Option("--features", help="Input columns a,b,c in training order.", show_default="those the file lists"),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            "--classes", help="Labels of the outputs, in order.", show_default="those the file lists, or 0,1,..."
        ),
    ] = None,
    alias: Annotated[
        str | None, typer.Option("--alias", help="Also promote it to this alias, such as production.")
    ] = None,
    golden: Annotated[
        Path | None,
        typer.Option(
            help="File with features and the prob_class_<i> that the training code computed, to be reproduced; "
            "Parquet, CSV or JSON lines."
        ),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(
            help="File with training rows; their profile is kept as the reference for drift. Without --golden, their "
            "values make the golden batch."
        ),
    ] = None,
    types: TypesOption = None,
    decimal: DecimalOption = ".",
    task: Annotated[
        str | None, typer.Option(help="classification, regression or multilabel.", show_default="classification")
    ] = None,
    outputs: Annotated[
        str | None,
        typer.Option(
            help="What the model outputs: logits, probabilities or log_probabilities.", show_default="found out"
        ),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="NAME=a,b",
            help="Features of an input of a program or ONNX model, in training order; for each of several inputs.",
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(metavar="NAME|NUMBER", help="The output to store, of a program or ONNX model with several."),
    ] = None,
    architecture: Annotated[
        str | None,
        typer.Option(
            help="For a file with weights only: mlp:<activation>, such as mlp:tanh.", show_default="the file's"
        ),
    ] = None,
    assume_mlp: Annotated[
        bool,
        typer.Option(
            "--assume-mlp",
            help="For a file with weights only: assume linear layers with ReLU between them, if nothing says it.",
        ),
    ] = False,
    signature: Annotated[
        Path | None,
        typer.Option(help="JSON file with further parts of the model's signature: inputs, task, quantiles, ..."),
    ] = None,
    scaling: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|WORD",
            help="How features are scaled: a JSON file; mean_std or min_max, fitted to --baseline; "
            "checkpoint, by the values in the model's file; or none.",
            show_default="what the signature says",
        ),
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE, as measured by the training code; can be repeated.")
    ] = None,
    trust_code: Annotated[
        str | None,
        typer.Option(
            metavar="SHA256", help="Accept a pickled module, which can run any code, if the file has this SHA-256."
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Copy a model file or an MLflow model into the registry. Registering the same content again changes nothing."""
    from pipeline.tabular import sources

    registry = registry_of_settings()
    further = _signature(signature)
    given = {
        "task": task,
        "outputs": outputs,
        "architecture": architecture,
        "tensors": _tensors(inputs),
        "output": output,
    }
    further |= {key: value for key, value in given.items() if value is not None}
    card = Card(
        signature=further,
        metrics=_metrics(metric or []),
        scaling=_scaling(scaling),
        trusted=trust_code,
        assume_mlp=assume_mlp,
    )
    with _model_file(checkpoint, card) as (path, card), _bounded(path):
        manifest = registry.register(
            path,
            name=name,
            version=version,
            features=_names(features),
            classes=_labels(classes),
            alias=alias,
            examples=None if golden is None else sources.find([golden], types or (), decimal),
            training=None if baseline is None else sources.find([baseline], types or (), decimal),
            card=card,
        )
    if json:
        emit_json(described(registry, manifest))
    else:
        aliased = f" as {alias}" if alias else ""
        console().print(f"{name} {version} is registered{aliased}, digest {manifest.digest[:12]}", markup=False)
        if scaling is not None and (scaled := scales(manifest.signature)):
            console().print(f"scaled: {scaled}", markup=False)
        if (names_by := (manifest.provenance.details if manifest.provenance else {}).get("features")) is not None:
            console().print(f"features: {', '.join(manifest.signature.features)} ({names_by})", markup=False)
        said_by = (manifest.provenance.details if manifest.provenance else {}).get("task")
        default = f" (by {said_by})" if said_by else "" if "task" in further else " (by default; see --task)"
        console().print(f"task: {task_of(manifest.signature)}{default}", markup=False)
        console().print(f"outputs: {outputs_of(manifest)}", markup=False)
        if (structure := structure_of(manifest)) is not None:
            console().print(f"structure: {structure}", markup=False)


@contextmanager
def _model_file(text: str, card: Card) -> Iterator[tuple[Path, Card]]:
    """Yields the path of a model file, and the card; for an MLflow model, with the facts from MLflow added."""
    from pipeline.model import mlflow

    if not mlflow.is_url(text):
        yield Path(text), card
        return
    with mlflow.fetched(text, allow_pickled=card.trusted is not None) as found:
        yield found.path, found.joined(card)


@contextmanager
def _bounded(path: Path) -> Iterator[None]:
    """Lets registration take ROOM, and ROOM_PER_BYTE of the file; Linux only. Raises ModelRefused beyond that.

    A small file can have operations that make large tensors, or declare large sizes.
    """
    room = ROOM + ROOM_PER_BYTE * (path.stat().st_size if path.is_file() else 0)
    try:
        with bounded_memory(room):
            yield
    except MemoryError:
        raise ModelRefused(
            "the model takes too much memory to be tried out",
            where=path,
            expected=f"at most {room / 1e9:.1f} GB for a file of this size",
            next_step="look for operations that make large tensors, such as expand and repeat",
        ) from None


def _signature(path: Path | None) -> dict[str, Any]:
    return {} if path is None else _json_object(path, "signature")


def _scaling(text: str | None) -> str | dict[str, Any] | None:
    from pipeline.model.scalers import CHOICES

    expected = f"{', '.join(CHOICES)}, or a JSON file"
    return text if text is None or text in CHOICES else _json_object(Path(text), "scaling", expected)


def _json_object(path: Path, what: str, expected: str | None = None) -> dict[str, Any]:
    try:
        document = loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(f"the {what} cannot be read", where=path, expected=expected, got=str(error)) from None
    if not isinstance(document, dict):
        raise UsageError(f"the {what} is not a JSON object", where=path, got=type(document).__name__)
    return document


def _metrics(pairs: list[str]) -> dict[str, float]:
    found = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        try:
            found[name] = float(text)
        except ValueError:
            equals = ""
        if not equals or not name or not isfinite(found.get(name, inf)):
            raise UsageError("a metric must be NAME=VALUE with a finite number", expected="auc=0.93", got=pair)
    return found


def _tensors(pairs: list[str] | None) -> dict[str, list[str]] | None:
    found: dict[str, list[str]] = {}
    for pair in pairs or ():
        name, equals, text = pair.partition("=")
        names = [each.strip() for each in text.split(",")]
        if not equals or not name or not all(names) or name in found:
            expected = "NAME=a,b, once for each input of the model"
            raise UsageError("--input must name an input of the model and its features", expected=expected, got=pair)
        found[name] = names
    return found or None


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",")]


def _labels(text: str | None) -> list[str | int] | None:
    """Returns the labels, as integers if all of them are integers."""
    names = _names(text)
    if names is not None and all(re.fullmatch(r"-?\d+", name) for name in names):
        return [int(name) for name in names]
    return None if names is None else list(names)
