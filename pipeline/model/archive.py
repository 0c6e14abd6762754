"""The files inside a `.pt2`: the graph as JSON and the weights as plain bytes, read without running code from them.

`torch.export.load` is not used. In torch 2.13 it unpickles weights and constants that say `use_pickle`, custom objects
and, where safe loading fails, the sample inputs; it evaluates the text of symbolic sizes (sympy.sympify); and a node
may name any attribute under `torch` as what is called. None of that is needed to run a graph of tensor operations.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from typing import Any

import torch

from pipeline.errors import ModelRefused

SCHEMA = 8
"""The major version of the graph's schema; a later one may mean something else by the same words."""
DTYPES: dict[int, torch.dtype] = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
}
"""By torch's serialized numbers."""
STRIDED = 7
HOW_TO_EXPORT = (
    'torch.export.save(torch.export.export(model.eval(), (example,), dynamic_shapes=({0: Dim("rows")},)), "model.pt2")'
)


def looks_like_one(content: bytes) -> bool:
    """Returns whether the content is a ZIP archive with an exported graph, of this or an older format."""
    if not zipfile.is_zipfile(file := io.BytesIO(content)):
        return False
    names = zipfile.ZipFile(file).namelist()
    return any(name.endswith(("/models/model.json", "/archive_format")) for name in names) or (
        "serialized_exported_program.json" in names
    )


class Archive:
    def __init__(self, content: bytes, where: object) -> None:
        """Raises ModelRefused if the archive is damaged, compressed or of another version."""
        self.where = where
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(content))
        except zipfile.BadZipFile as error:
            raise self.refused("the file is no archive of torch.export.save", str(error)) from None
        names = self._zip.namelist()
        graph = next((name for name in names if name.endswith("/models/model.json")), None)
        packed = [entry.filename for entry in self._zip.infolist() if entry.compress_type != zipfile.ZIP_STORED]
        if graph is None or packed:
            raise self.refused("the archive is not one that torch.export.save of torch 2.8 or later writes", str(names))
        if (damaged := self._zip.testzip()) is not None:
            raise self.refused("the file is damaged: a checksum in it differs", damaged)
        self._root = graph.removesuffix("models/model.json")
        self.program = self._json("models/model.json")
        if (major := self.program.get("schema_version", {}).get("major")) != SCHEMA:
            raise self.refused(f"the graph's schema is not version {SCHEMA}", f"version {major}")

    def tensors(self, kind: str) -> dict[str, torch.Tensor]:
        """Returns the `weights` or `constants` by their names, on the CPU. Raises ModelRefused if one is pickled."""
        config = self._json(f"data/{kind}/model_{kind}_config.json")["config"]
        return {name: self._tensor(name, kind, payload) for name, payload in config.items()}

    def refused(self, what: str, got: str, next_step: str = f"export it again: {HOW_TO_EXPORT}") -> ModelRefused:
        return ModelRefused(what, where=self.where, got=got[:300], next_step=next_step)

    def _json(self, name: str) -> dict[str, Any]:
        try:
            found = json.loads(self._zip.read(self._root + name))
        except (KeyError, ValueError, RecursionError) as error:
            raise self.refused(f"{name} in the archive cannot be read", str(error)) from None
        if not isinstance(found, dict):
            raise self.refused(f"{name} in the archive is not an object", type(found).__name__)
        return found

    def _tensor(self, name: str, kind: str, payload: Mapping[str, Any]) -> torch.Tensor:
        meta = payload.get("tensor_meta")
        if payload.get("use_pickle") or not isinstance(meta, Mapping):
            raise self.refused(
                "the archive carries pickled code; it was not run", f"{kind[:-1]} {name!r} is pickled, not plain bytes"
            )
        if meta["dtype"] not in DTYPES or meta["layout"] != STRIDED:
            raise self.refused(f"{name!r} is not a plain tensor", f"dtype {meta['dtype']}, layout {meta['layout']}")
        raw = bytearray(self._zip.read(f"{self._root}data/{kind}/{payload['path_name']}"))
        sizes, strides = ([integer(each) for each in meta[key]] for key in ("sizes", "strides"))
        flat = (
            torch.frombuffer(raw, dtype=DTYPES[meta["dtype"]]) if raw else torch.empty(0, dtype=DTYPES[meta["dtype"]])
        )
        tensor = torch.as_strided(flat, sizes, strides, integer(meta["storage_offset"]))  # refuses to leave the bytes
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise self.refused(f"parameter {name!r} has weights that are not finite", "NaN or infinite")
        return tensor.clone()


def integer(symbolic: Mapping[str, Any]) -> int:
    """Returns a size that is a number. Raises ValueError for one that depends on the rows."""
    if (found := symbolic.get("as_int")) is None:
        raise ValueError("a size that depends on the rows")
    return int(found)
