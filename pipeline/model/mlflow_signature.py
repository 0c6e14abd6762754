"""The signature that MLflow stored with a model, as an `InputSchema`: JSON lists of columns or of tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pipeline.errors import ModelRefused
from pipeline.model.input_schema import Column, InputSchema, Type

TYPES: dict[str, Type] = {
    "double": "float",
    "float": "float",
    "boolean": "float",
    "long": "integer",
    "integer": "integer",
    "string": "text",
    "datetime": "time",
}
"""Types of columns; all others cannot be features."""
DTYPES: dict[str, Type] = {
    **dict.fromkeys(("float16", "float32", "float64", "bool"), "float"),
    **dict.fromkeys(("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"), "integer"),
    **dict.fromkeys(("str", "object"), "text"),
}
"""Types of tensors, by numpy's names."""
SAID_BY = "the MLflow signature"


def parse(signature: Mapping[str, Any] | None, url: str) -> InputSchema | None:
    """Returns what a signature says of the inputs and outputs; None if there is none.

    Raises ModelRefused if it cannot be read.
    """
    if signature is None or not signature.get("inputs"):
        return None
    try:
        columns = tuple(_column(each) for each in json.loads(signature["inputs"]))
        outputs = [_column(each) for each in json.loads(signature.get("outputs") or "[]")]
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise ModelRefused(
            "the MLflow signature of the model cannot be read",
            where=url,
            got=f"{type(error).__name__}: {error}"[:300],
            next_step="log the model again with signature=mlflow.models.infer_signature(...)",
        ) from None
    single = outputs[0] if len(outputs) == 1 and outputs[0].tensor and outputs[0].type == "float" else None
    return InputSchema(columns, SAID_BY, outputs=None if single is None else single.width)


def _column(entry: Mapping[str, Any]) -> Column:
    kind, name = str(entry["type"]), entry.get("name")
    name = None if name is None else str(name)
    if kind == "tensor":
        tensor = entry["tensor-spec"]
        shape = [int(size) for size in tensor["shape"]]
        width = shape[1] if len(shape) == 2 and shape[1] > 0 else 1 if len(shape) == 1 else None
        return Column(name, DTYPES.get(str(tensor["dtype"]), "other"), width, tensor=True)
    if kind == "array":
        items = str(entry["items"].get("type"))
        return Column(name, "list" if TYPES.get(items) in ("float", "integer") else "other", None)
    return Column(name, TYPES.get(kind, "other"))
