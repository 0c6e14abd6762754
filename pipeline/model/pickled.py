"""Whole modules saved with `torch.save(model)`: pickle, which runs whatever code the file asks for.

Only for a file whose digest somebody has pinned, saying `trust_code` with it: once to register it, once in the job.
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
            "code in a model file is trusted only if the file's sha256 is pinned, and it is another one or none",
            where=where,
            expected=pinned or "a sha256 from whoever trained the model",
            got=actual,
            next_step="compare it with what the training wrote down, then pass --trust-code with that sha256",
        )


def build(content: bytes, where: object) -> nn.Module:
    """Runs the code in the file. Raises ModelRefused if that gives no module."""
    try:
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=False)
    except Exception as error:  # whatever its code raises: a class that is not importable, most often
        raise ModelRefused(
            "the pickled model cannot be loaded",
            where=where,
            got=f"{type(error).__name__}: {error}"[:300],
            next_step="install the package that its classes come from, or export the model with torch.export",
        ) from error
    if not isinstance(found, nn.Module):
        raise ModelRefused("the file holds no module", where=where, got=type(found).__name__)
    return found.float()
