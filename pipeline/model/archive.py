"""Reads the files inside a `.pt2` without running code from them: the graph as JSON, the weights as plain bytes.

`torch.export.load` is not used. In torch 2.13 it unpickles weights and constants marked `use_pickle`, custom objects
and, where safe loading fails, the sample inputs; it evaluates the text of symbolic sizes (sympy.sympify); and a node
may call any attribute under `torch`. None of that is needed to run a graph of tensor operations.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Mapping
from typing import Any

import torch

from pipeline.errors import ModelRefused

SCHEMA = 8
"""Supported major version of the graph's schema; in a later version, the same fields may have another meaning."""
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
"""Torch dtypes by their serialized numbers."""
STRIDED = 7
MOST_COPIES = 4
"""Largest size of all tensors together, in sizes of the file; different tensors may share their bytes."""
HOW_TO_EXPORT = (
    'torch.export.save(torch.export.export(model.eval(), (example,), dynamic_shapes=({0: Dim("rows")},)), "model.pt2")'
)
HOW_TO_EXPORT_ROWS = (
    "export it again with a dynamic number of rows, and an example of two or more, since torch fixes a size of one: "
    f"{HOW_TO_EXPORT}; MLflow does so by itself, if the input_example has two rows or more"
)


def looks_like_one(content: bytes) -> bool:
    """Returns whether the content is a ZIP archive with an exported graph, in the current or an older format."""
    try:
        names = zipfile.ZipFile(io.BytesIO(content)).namelist()
    except zipfile.BadZipFile:  # no archive, or a damaged one
        return False
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
            raise self.refused("the file is not an archive of torch.export.save", str(error)) from None
        names = self._zip.namelist()
        graph = next((name for name in names if name.endswith("/models/model.json")), None)
        packed = [entry.filename for entry in self._zip.infolist() if entry.compress_type != zipfile.ZIP_STORED]
        if graph is None or packed:
            raise self.refused("the archive was not written by torch.export.save of torch 2.8 or later", str(names))
        if is_larger_than_its_file(self._zip, len(content)):
            raise self.refused("the archive declares more content than its file has", f"{len(content):,} bytes")
        if (damaged := self._zip.testzip()) is not None:
            raise self.refused("the file is damaged: a checksum does not match", damaged)
        self._root = graph.removesuffix("models/model.json")
        self._left = MOST_COPIES * len(content)
        self._read: dict[str, torch.Tensor] = {}
        self.program = self._json("models/model.json")
        if (major := self.program.get("schema_version", {}).get("major")) != SCHEMA:
            raise self.refused(f"the schema of the graph is not version {SCHEMA}", f"version {major}")

    def tensors(self, kind: str) -> dict[str, torch.Tensor]:
        """Returns the `weights` or `constants` by name, on the CPU. Raises ModelRefused if any of them is pickled."""
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
                "the archive contains pickled code; it was not run", f"{kind[:-1]} {name!r} is pickled, not plain bytes"
            )
        if meta["dtype"] not in DTYPES or meta["layout"] != STRIDED:
            raise self.refused(f"{name!r} is not a plain tensor", f"dtype {meta['dtype']}, layout {meta['layout']}")
        path = f"{self._root}data/{kind}/{payload['path_name']}"
        if (known := self._read.get(key := f"{path} {json.dumps(meta, sort_keys=True)}")) is not None:
            return known  # weights that layers share
        sizes, strides = ([integer(each) for each in meta[name_of]] for name_of in ("sizes", "strides"))
        raw = bytearray(self._zip.read(path))
        dtype = DTYPES[meta["dtype"]]
        # With crafted strides a few bytes look like a tensor of any size, and with many names like many tensors.
        needed = math.prod(sizes) * dtype.itemsize
        if needed > len(raw) or needed > self._left:
            raise self.refused(
                f"{name!r} is larger than its bytes", f"sizes {sizes}, strides {strides}, {len(raw):,} bytes"
            )
        self._left -= needed
        flat = torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)
        tensor = torch.as_strided(flat, sizes, strides, integer(meta["storage_offset"]))  # raises beyond the bytes
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise self.refused(f"parameter {name!r} has weights that are not finite", "NaN or infinite")
        self._read[key] = tensor.clone()
        return self._read[key]


def is_larger_than_its_file(archive: zipfile.ZipFile, size: int) -> bool:
    """Returns whether the entries of an archive hold more bytes than its file: packed ones, or ones that overlap."""
    return sum(entry.file_size for entry in archive.infolist()) > size


def integer(symbolic: Mapping[str, Any]) -> int:
    """Returns a fixed size. Raises ValueError for a size that depends on the number of rows."""
    if (found := symbolic.get("as_int")) is None:
        raise ValueError("a size that depends on the rows")
    return int(found)
