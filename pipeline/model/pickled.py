"""Whole modules saved with `torch.save(model)`: these are pickles, which can run any code in the file.

They are loaded only if their digest is pinned explicitly, with `--trust-code` at registration and again with
`trust_code` in the job.
"""

from __future__ import annotations

import hashlib
import io

import torch
from torch import nn

from pipeline.errors import ModelRefused


def check_trusted(content: bytes, pinned: str | None, where: object) -> None:
    """Raises ModelRefused unless `pinned` is the sha256 of the content."""
    actual = hashlib.sha256(content).hexdigest()
    if pinned != actual:
        raise ModelRefused(
            "code in a model file is trusted only if the file's sha256 is pinned; this file's sha256 is not",
            where=where,
            expected=pinned or "a pinned sha256, from the person who trained the model",
            got=actual,
            next_step="compare it with the sha256 recorded at training, then pass that with --trust-code",
        )


def build(content: bytes, where: object) -> nn.Module:
    """Runs the code in the file and returns its module. Raises ModelRefused if it does not contain one."""
    try:
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=False)
    except Exception as error:  # any error from its code; most often a class that cannot be imported
        raise ModelRefused(
            "the pickled model cannot be loaded",
            where=where,
            got=f"{type(error).__name__}: {error}"[:300],
            next_step="install the package that its classes come from, or export the model with torch.export",
        ) from error
    if not isinstance(found, nn.Module):
        raise ModelRefused("the file does not contain a module", where=where, got=type(found).__name__)
    return found.float()
