"""`lakescore models`: register a model, look at what is registered, and choose what `production` stands for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from json import loads
from math import inf, isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli import compare
from pipeline.cli.options import JOB, JobOption, JsonOption, LakeOption, settings
from pipeline.cli.output import console, emit_json, table
from pipeline.errors import UsageError
from pipeline.model.card import Card

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.model.manifest import Manifest
    from pipeline.model.registry import Registry

models = typer.Typer(help="Register models, and choose which one is in production.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The model's name.")]


def add_to(app: typer.Typer) -> None:
    app.add_typer(models, name="models")


@models.command()
def register(
    checkpoint: Annotated[
        str,
        typer.Argument(metavar="FILE", help="A model file, or models:/NAME@ALIAS or models:/NAME/VERSION of MLflow."),
    ],
    name: Annotated[str, typer.Option("--name", help="The model's name.")],
    version: Annotated[str, typer.Option("--version", help="A new version of it, such as v1.")],
    features: Annotated[
        str | None,
        typer.Option(
            "--features", help="Input columns a,b,c in the order of training.", show_default="those the file lists"
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option("--classes", help="Labels of the outputs.", show_default="those the file lists, or 0,1,..."),
    ] = None,
    alias: Annotated[str | None, typer.Option("--alias", help="Promote it too, for example to production.")] = None,
    golden: Annotated[
        Path | None,
        typer.Option(help="Parquet: features, and prob_class_<i> as the training code gave them, to be reproduced."),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(help="Parquet or CSV: training rows. Their profile is kept, and drift is judged against it."),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="classification, regression or multilabel.", show_default="classification")
    ] = None,
    architecture: Annotated[
        str | None, typer.Option(help="Of bare weights: mlp:<activation>, such as mlp:tanh.", show_default="the file's")
    ] = None,
    signature: Annotated[
        Path | None, typer.Option(help="JSON: inputs, task, quantiles, ... that belong to the model's signature.")
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE, as the training code measured it; may be repeated.")
    ] = None,
    trust_code: Annotated[
        str | None,
        typer.Option(metavar="SHA256", help="Take a pickled module, whose code is run, if the file has this sha256."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Copy a model file, or a model of MLflow, into the registry; the same content again changes nothing."""
    registry = _registry()
    further = _signature(signature)
    further |= {key: value for key, value in (("task", task), ("architecture", architecture)) if value is not None}
    card = Card(signature=further, metrics=_metrics(metric or []), trusted=trust_code)
    with _model_file(checkpoint, card) as (path, card):
        manifest = registry.register(
            path,
            name=name,
            version=version,
            features=_names(features),
            classes=_labels(classes),
            alias=alias,
            examples=None if golden is None else _examples(golden),
            training=baseline,
            card=card,
        )
    if json:
        emit_json(_described(registry, manifest))
    else:
        aliased = f" as {alias}" if alias else ""
        console().print(f"{name} {version} is registered{aliased}, digest {manifest.digest[:12]}", markup=False)


@models.command("list")
def list_(json: JsonOption = False) -> None:
    """List every version of every model."""
    registry = _registry()
    found = [_described(registry, manifest) for manifest in registry.manifests()]
    if json:
        emit_json(found)
    elif not found:
        console(stderr=True).print(f"no model is registered in {registry.root}; see lakescore models register --help")
    else:
        columns = ["model", "version", "aliases", "features", "classes", "registered", "digest"]
        table(columns, (_row(entry) for entry in found))


@models.command()
def show(
    name: NameArgument,
    version: Annotated[
        str | None,
        typer.Argument(metavar="[VERSION]", help="A version or alias.", show_default="production, else the newest"),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show one version: its signature, where it came from, and whether its files are those registered."""
    registry = _registry()
    manifest = registry.resolve(name, version or _default_version(registry, name))
    registry.content(manifest)
    entry = _described(registry, manifest)
    if json:
        emit_json(entry)
        return
    signature = manifest.signature
    facts = {
        "model": name,
        "version": manifest.version,
        "aliases": ", ".join(entry["aliases"]) or None,
        "task": signature.task,
        "features": ", ".join(signature.features),
        "inputs": ", ".join(f"{name} a {how.kind}" for name, how in signature.inputs.items()) or None,
        "classes": ", ".join(map(str, signature.classes)) or None,
        "architecture": signature.architecture,
        "kind": manifest.kind,
        "version inside": manifest.recorded_version or "unknown",
        "registered": f"{manifest.registered_at:%Y-%m-%d %H:%M:%S %Z}",
        "by": manifest.provenance.by if manifest.provenance else None,
        "from": manifest.provenance.source if manifest.provenance else None,
        "metrics": ", ".join(f"{metric} {value:g}" for metric, value in manifest.metrics.items()) or None,
        "digest": manifest.digest,
        "as registered": True,
        "folder": str(registry.root / name / manifest.version),
    }
    table(["", ""], facts.items())


@models.command()
def promote(
    name: NameArgument,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="A version, or another alias.")],
    alias: Annotated[str, typer.Option("--alias", help="The alias that is to stand for it.")] = "production",
    max_flips: Annotated[
        str | None,
        typer.Option("--max-flips", metavar="SHARE", help="Only if at most so many decisions change, such as 2%."),
    ] = None,
    ds: compare.DayOption = None,
    sample: compare.SampleOption = None,
    job: JobOption = JOB,
    lake: LakeOption = None,
    json: JsonOption = False,
) -> None:
    """Let an alias stand for a version; jobs that name the alias score with it from their next run on.

    With --max-flips both versions score the job's rows first. Exit code 3, and nothing changes, if too many flip.
    """
    registry = _registry()
    found = None
    if max_flips is not None:
        found = compare.gate(name, version, alias, max_flips, job, lake, ds, sample)
    elif ds is not None or sample is not None:
        raise UsageError("--date and --sample say which rows --max-flips is about", next_step="add --max-flips 2%")
    before = registry.aliases(name).get(alias)
    registry.promote(name, version, alias)
    after = registry.aliases(name)[alias]
    if json:
        flips = found.flip_share if found else None
        emit_json({"name": name, "alias": alias, "version": after, "before": before, "flips": flips})
    else:
        if found is not None:
            console().print(f"{found.flip_share:.2%} of {found.rows:,} decisions flip", markup=False)
        console().print(f"{alias} of {name} is {after}" + (f", was {before}" if before else ""), markup=False)


@contextmanager
def _model_file(text: str, card: Card) -> Iterator[tuple[Path, Card]]:
    """Yields a path, and the card with what MLflow says if the model comes from there."""
    if not text.startswith("models:/"):
        yield Path(text), card
        return
    from pipeline.model import mlflow

    with mlflow.fetched(text, allow_pickled=card.trusted is not None) as found:
        yield found.path, found.joined(card)


def _signature(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        document = loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError("the signature cannot be read", where=path, got=str(error)) from None
    if not isinstance(document, dict):
        raise UsageError("the signature is no JSON object", where=path, got=type(document).__name__)
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
            raise UsageError("a metric is NAME=VALUE with a finite number", expected="auc=0.93", got=pair)
    return found


def _examples(path: Path) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise UsageError("the golden batch cannot be read", where=path, got=str(error).splitlines()[0]) from None


def _registry() -> Registry:
    from pipeline.model.remote import open_registry

    return open_registry(settings().models)


def _default_version(registry: Registry, name: str) -> str:
    from pipeline.model.registry import PRODUCTION

    versions = registry.manifests(name)
    return PRODUCTION if PRODUCTION in registry.aliases(name) or not versions else versions[-1].version


def _described(registry: Registry, manifest: Manifest) -> dict[str, Any]:
    aliases = registry.aliases(manifest.name)
    return {
        **manifest.model_dump(mode="json"),
        "aliases": sorted(alias for alias, version in aliases.items() if version == manifest.version),
    }


def _row(entry: dict[str, Any]) -> list[Any]:
    return [
        entry["name"],
        entry["version"],
        ", ".join(entry["aliases"]) or None,
        len(entry["signature"]["features"]),
        ", ".join(map(str, entry["signature"]["classes"])) or entry["signature"]["task"],
        entry["registered_at"][:10],
        entry["digest"][:12],
    ]


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",")]


def _labels(text: str | None) -> list[str | int] | None:
    """Returns the labels as integers if all of them are."""
    names = _names(text)
    if names is not None and all(re.fullmatch(r"-?\d+", name) for name in names):
        return [int(name) for name in names]
    return None if names is None else list(names)
