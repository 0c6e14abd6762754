"""What commands show of a registered model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.cli.options import settings

if TYPE_CHECKING:
    from pipeline.model.manifest import Manifest, Signature
    from pipeline.model.registry import Registry

MOST_LABELS = 5
"""Most classes that are printed."""


def registry_of_settings() -> Registry:
    from pipeline.model.remote import open_registry

    return open_registry(settings().models)


def described(registry: Registry, manifest: Manifest) -> dict[str, Any]:
    aliases = registry.aliases(manifest.name)
    return {
        **manifest.model_dump(mode="json"),
        "aliases": sorted(alias for alias, version in aliases.items() if version == manifest.version),
    }


def scales(signature: Signature) -> str:
    """Returns the steps by which features are scaled: `age (mean 38.5, std 12.1)`."""
    found = []
    for name, how in signature.inputs.items():
        steps = how.model_dump(mode="json").get("scale", ())
        words = ["".join(f", {key} {_short(value)}" for key, value in step.items())[2:] for step in steps]
        if words:
            found.append(f"{name} ({'; '.join(words)})")
    return ", ".join(found)


def _short(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_short, value[:4]))}{', ...' if len(value) > 4 else ''}]"
    return f"{value:g}" if isinstance(value, float) else str(value).lower()


def task_of(signature: Signature) -> str:
    """Returns the task and the first of its classes: `classification of stays, leaves`."""
    labels = [str(label) for label in signature.classes[:MOST_LABELS]]
    labels += ["..."] if len(signature.classes) > MOST_LABELS else []
    return f"{signature.task} of {', '.join(labels)}" if labels else signature.task


def outputs_of(manifest: Manifest) -> str:
    """Returns what the model outputs and why this was taken, in words."""
    signature, details = manifest.signature, manifest.provenance.details if manifest.provenance else {}
    if signature.task in ("regression", "ranking"):
        return "stored as they are"
    because = details.get("outputs", "registered by a version of Lakescore that did not look at them")
    return f"{signature.outputs.replace('_', '-')} ({because})"


def versions_of(manifest: Manifest) -> str:
    """Returns the software that registered the model, and what wrote its file: `torch 2.13.0, file by sklearn`."""
    versions = manifest.provenance.versions if manifest.provenance else {}
    return ", ".join(f"file by {text}" if name == "file" else f"{name} {text}" for name, text in versions.items())


def structure_of(manifest: Manifest) -> str | None:
    """Returns how the structure of a file of weights is known; None for a file that has its own, and for older ones."""
    return manifest.provenance.details.get("structure") if manifest.provenance else None
