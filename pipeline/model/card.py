"""What is registered beside a model's file: the rest of its signature, its metrics, and where it came from."""

from __future__ import annotations

import getpass
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from pipeline.model.manifest import Provenance


@dataclass(frozen=True)
class Card:
    signature: Mapping[str, Any] = field(default_factory=dict)
    """Entries of a signature beside `features` and `classes`: `task`, `inputs`, `architecture`, `quantiles`, ..."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Finite numbers by name."""
    source: str | None = None
    """Where the file came from; None is its path."""
    details: Mapping[str, str] = field(default_factory=dict)
    """What another registry says of the model."""
    trusted: str | None = None
    """The sha256 of a file whose code may be run; None if no code may."""

    def provenance(self, path: object, written_by: str | None) -> Provenance:
        versions = {name: metadata.version(name) for name in ("lakescore", "torch")}
        written = {"file": written_by} if written_by else {}
        return Provenance(
            by=_user(),
            source=self.source or str(path),
            versions={**versions, "python": platform.python_version(), **written},
            details=dict(self.details),
        )


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return "unknown"
