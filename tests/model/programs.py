"""Programs made by torch.export, and archives tampered with, for tests."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim


def export(
    path: Path,
    module: nn.Module,
    features: int = 3,
    *,
    rows: int = 4,
    dynamic: bool = True,
    decomposed: bool = False,
    most: int | None = None,
) -> Path:
    """Exports a module in its current mode; the program takes (rows, features), by default any number of rows."""
    shapes = ({0: Dim("rows", max=most)},) if dynamic else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about its own code
        program = torch.export.export(module, (torch.randn(rows, features),), dynamic_shapes=shapes)
        torch.export.save(program.run_decompositions() if decomposed else program, path)
    return path


def tampered(path: Path, edit: Callable[[str, Any], Any]) -> bytes:
    """Returns an archive's content after `edit(name, content)` of each file; JSON files are passed parsed."""
    target = io.BytesIO()
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name in source.namelist():
            content: Any = source.read(name)
            if name.endswith(".json"):
                content = json.dumps(edit(name, json.loads(content))).encode()
            else:
                content = edit(name, content)
            archive.writestr(name, content)
    return target.getvalue()
