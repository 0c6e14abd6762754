"""Checks that a model is the one that is meant: registered with this content, pinned by the job, trusted by it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pipeline.errors import ModelMismatch, ModelRefused
from pipeline.model.manifest import Manifest

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)


def other_content(existing: Manifest, manifest: Manifest, where: object) -> ModelRefused:
    """Returns the error for a version that exists with another file or signature."""
    before, after = existing.signature.outputs, manifest.signature.outputs
    outputs = f": its outputs were taken as {before}, but are {after}" if before != after else ""
    return ModelRefused(
        f"{manifest.name} {manifest.version} already exists with other content, and cannot be changed{outputs}",
        where=where,
        expected=existing.digest,
        got=manifest.digest,
        next_step="register it under a new version",
    )


def check_trusted(manifest: Manifest, trusted: str | None) -> None:
    """Raises ModelRefused if the model's file contains code and `trusted` is not the model's digest."""
    if manifest.kind == "pickled" and trusted != manifest.digest:
        raise ModelRefused(
            f"the file of model {manifest.name} {manifest.version} contains code, and the job does not trust it",
            expected='trust_code = true and digest = "..." under [model] in job.toml',
            got=f"the model's digest is {manifest.digest}" + (f", the job's {trusted}" if trusted else ""),
            next_step="set this digest in job.toml if you trust its author, or export the model with torch.export",
        )


def check_pinned(manifest: Manifest, pinned: str | None) -> None:
    """Raises ModelMismatch if a job pins another digest."""
    if pinned is not None and pinned != manifest.digest:
        raise ModelMismatch(
            f"model {manifest.name} {manifest.version} does not have the digest that the job pins",
            expected=pinned,
            got=manifest.digest,
            next_step="correct `digest` under [model] in job.toml, or promote the model with that digest",
        )


def warn_of_other_versions(manifest: Manifest, module: nn.Module) -> None:
    """Logs a warning if another major version of a library runs the model than registered it.

    Models registered by earlier versions of Lakescore do not have the versions of all libraries.
    """
    from pipeline.model.library_model import versions

    before = manifest.provenance.versions if manifest.provenance else {}
    for name, now in versions(module).items():
        if name in before and before[name].partition(".")[0] != now.partition(".")[0]:
            log.warning(
                "model %s %s was registered with %s %s, and %s runs it: its golden batch says whether its scores are "
                "the same",
                *(manifest.name, manifest.version, name, before[name], now),
            )
