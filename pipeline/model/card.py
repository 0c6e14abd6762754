"""Metadata that is registered with a model's file: the rest of its signature, its metrics, and its origin."""

from __future__ import annotations

import getpass
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Any

from pipeline.model.input_schema import InputSchema
from pipeline.model.manifest import Provenance

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Card:
    signature: Mapping[str, Any] = field(default_factory=dict)
    """Signature entries other than `features` and `classes`: `task`, `inputs`, `architecture`, `quantiles`, ..."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Metrics by name, finite numbers."""
    source: str | None = None
    """Where the file came from; by default, its path."""
    details: Mapping[str, str] = field(default_factory=dict)
    """Metadata of the model from another registry."""
    schema: InputSchema | None = None
    """The columns that the model takes, by another registry."""
    scaling: str | Mapping[str, Any] | None = None
    """How features are scaled, beside what `signature` says: see `scalers.declared`."""
    trusted: str | None = None
    """The sha256 of a file whose code may be run; None if no code may be run."""
    assume_mlp: bool = False
    """Whether to assume that a file of weights is a stack of linear layers, if nothing says it."""

    def provenance(
        self, path: object, written_by: str | None, findings: Mapping[str, str], module: nn.Module
    ) -> Provenance:
        """`findings` is what registration found out by itself, and why, by subject; `module` the model."""
        from pipeline.model.library_model import versions as of_libraries

        versions = {**{name: metadata.version(name) for name in ("lakescore", "torch")}, **of_libraries(module)}
        written = {"file": written_by} if written_by else {}
        return Provenance(
            by=_user(),
            source=self.source or str(path),
            versions={**versions, "python": platform.python_version(), **written},
            details={**self.details, **findings},
        )


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return "unknown"
