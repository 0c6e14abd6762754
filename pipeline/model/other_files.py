"""Model files of other libraries: recognized by their content, without running code.

Those in `READ` are read by `formats.py`; of the others, `check` says what can be done with them. The content decides,
not the name of the file. A pickle is only taken apart, never loaded.
"""

from __future__ import annotations

import io
import json
import pickletools
import zipfile
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from pipeline.errors import ModelRefused
from pipeline.model.manifest import LibraryKind

README = "models/README.md"
FROM_PICKLED_ONNX = "save the model itself with onnx.save, and register that file"
FROM_SKLEARN = (
    "convert it where it was trained, with skl2onnx.to_onnx(model, X[:1]).SerializeToString(), and register that .onnx "
    f"file; or write it as a torch module, and export that with torch.export.save: see {README}"
)
NO_CODE = "omit --trust-code: the file contains no code"
FROM_PICKLED_TREES = (
    "save the model itself where it was trained, and register that file: booster.save_model(path) of XGBoost (.json, "
    ".ubj) and of LightGBM (.txt)"
)
FROM_TREES = (
    f"write its trees as a torch module, and export that with torch.export.save: see {README}, "
    "Models of other libraries"
)
FROM_TORCHSCRIPT = (
    "export the module that it was made from with torch.export.save; if only this file is left, its weights are in "
    "torch.jit.load(path).state_dict(), to be loaded into the model's class"
)
FROM_LAYERS = (
    "write its layers as a torch module, copy the weights into it, and export that with torch.export.save: see "
    f"{README}, Models of other libraries"
)
PACKED = {b"x": "zlib", b"\x1f": "gzip", b"BZ": "bz2", b"\xfd7zXZ": "xz", b"]\0\0": "lzma"}
"""First bytes of a compressed pickle, as joblib writes it."""
ENOUGH = 1 << 20
"""Number of bytes of a compressed pickle that are looked at."""


class Kind(NamedTuple):
    name: str
    next_step: str


TORCHSCRIPT = Kind("a TorchScript file, which is code", FROM_TORCHSCRIPT)
ONNX = Kind("an ONNX model", NO_CODE)
PICKLED_ONNX = Kind("a pickled ONNX model", FROM_PICKLED_ONNX)
XGBOOST = Kind("an XGBoost model", NO_CODE)
PICKLED_XGBOOST = Kind("a pickled XGBoost model, which is code", FROM_PICKLED_TREES)
LIGHTGBM = Kind("a LightGBM model", NO_CODE)
PICKLED_LIGHTGBM = Kind("a pickled LightGBM model, which is code", FROM_PICKLED_TREES)
CATBOOST = Kind("a CatBoost model", FROM_TREES)
SKLEARN = Kind("a pickled scikit-learn model, which is code", FROM_SKLEARN)
KERAS = Kind("a Keras or TensorFlow model", FROM_LAYERS)
ARRAYS = Kind("a file of numpy arrays", FROM_LAYERS)
STARTS = {
    b"\x89HDF\r\n\x1a\n": KERAS,
    b"\x93NUMPY": ARRAYS,
    b"CBM1": CATBOOST,
    b"tree\nversion=v": LIGHTGBM,
    b"tree\r\nversion=v": LIGHTGBM,
}
"""First bytes of a file, by its kind."""
FLAVORS = {
    "sklearn": SKLEARN,
    "xgboost": PICKLED_XGBOOST,
    "lightgbm": PICKLED_LIGHTGBM,
    "catboost": CATBOOST,
    "onnx": PICKLED_ONNX,
    "keras": KERAS,
    "tensorflow": KERAS,
}
"""Libraries by the names of their Python packages; MLflow calls them flavors."""


READ: dict[Kind, LibraryKind] = {ONNX: "onnx", XGBOOST: "xgboost", LIGHTGBM: "lightgbm"}
"""The files that are read by the library of an extra, and the name of the kind in the registry."""


def check(content: bytes, where: object, *, trusted: bool = False) -> LibraryKind | None:
    """Returns the kind of a file that the library of an extra reads, and None for a file of no other library.

    Raises ModelRefused, with the way that works, for the others, and for a file without code whose code is `trusted`.
    """
    kind = recognized(content)
    if kind in READ and not trusted:
        return READ[kind]
    if kind is not None:
        raise ModelRefused(
            f"the file is {kind.name}",
            where=where,
            expected="a program of torch.export, safetensors, a checkpoint of a state dict, ONNX, XGBoost or LightGBM",
            got=kind.name,
            next_step=kind.next_step,
        )
    return None


def recognized(content: bytes) -> Kind | None:
    """Returns the kind of file if it is one of another library, and None for any other content."""
    if content.startswith(b"PK\x03\x04"):
        return _of_archive(content)
    if (kind := next((kind for start, kind in STARTS.items() if content.startswith(start)), None)) is not None:
        return kind
    if _is_xgboost(content):
        return XGBOOST
    return ONNX if _is_onnx(content) else _of_pickle(content)


def _of_archive(content: bytes) -> Kind | None:
    try:
        names = zipfile.ZipFile(io.BytesIO(content)).namelist()
    except zipfile.BadZipFile:
        return None
    if any(name.endswith("/constants.pkl") for name in names) and any("/code/" in name for name in names):
        return TORCHSCRIPT
    if any(name.endswith((".h5", "saved_model.pb")) for name in names):
        return KERAS
    return ARRAYS if names and all(name.endswith(".npy") for name in names) else None


def _is_xgboost(content: bytes) -> bool:
    """Returns whether it is a JSON or UBJSON object with a `learner`."""
    if not content.startswith(b"{"):
        return False
    if content.startswith(b"{L") or content[1:2] in (b"i", b"U", b"l", b"I"):
        return b"learner" in content[:64]
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return False
    return isinstance(document, dict) and "learner" in document


def _is_onnx(content: bytes) -> bool:
    """Returns whether it starts as a ModelProto does, with the format's version and a known field, and has a graph."""
    if len(content) < 16 or content[0] != 0x08 or not 1 <= content[1] <= 32:
        return False
    producer, graph, opset = 0x12, 0x3A, 0x42
    return content[2] in (producer, graph, opset) and bytes([graph]) in content


def _of_pickle(content: bytes) -> Kind | None:
    plain = _unpacked(content)
    for module in _modules(plain):
        package = module.partition(".")[0]
        if package in FLAVORS:
            return FLAVORS[package]
    return None


def _unpacked(content: bytes) -> bytes:
    """Returns the start of what a compressed pickle contains; any other content as it is."""
    import bz2
    import lzma

    packing = next((name for start, name in PACKED.items() if content.startswith(start)), None)
    try:
        match packing:
            case "zlib" | "gzip":
                return zlib.decompressobj(wbits=zlib.MAX_WBITS | 32).decompress(content, ENOUGH)
            case "bz2":
                return bz2.BZ2Decompressor().decompress(content, ENOUGH)
            case "xz" | "lzma":
                return lzma.LZMADecompressor().decompress(content, ENOUGH)
    except (zlib.error, OSError, lzma.LZMAError):
        pass  # not what its first bytes suggest
    return content


def _modules(content: bytes) -> Iterator[str]:
    """Yields the modules whose objects a pickle would build, in order, without building them."""
    texts: list[str] = []
    try:
        for operation, argument, _ in pickletools.genops(content):
            if operation.name == "GLOBAL":
                yield str(argument).partition(" ")[0]
            elif operation.name == "STACK_GLOBAL" and len(texts) > 1:
                yield texts[-2]
            elif isinstance(argument, str):
                texts.append(argument)
    except (ValueError, IndexError, OverflowError, UnicodeDecodeError):
        return  # not a pickle, or one with the plain bytes of arrays in it, as joblib writes them
