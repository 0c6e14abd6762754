"""`model.json`: what a registered model is, and the digest that names its content for ever."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, ValidationError, field_validator

from pipeline.errors import ModelError, nearest
from pipeline.records import Frozen, ModelRef, Name

MANIFEST_FORMAT = 1
RESTORE = "restore model.json from a backup, or register the model under a new version"

Kind = Literal["checkpoint"]
"""How the model's file is read; `kinds.py` answers for each."""
Feature = Annotated[str, StringConstraints(min_length=1)]
Label = Annotated[str, StringConstraints(min_length=1)] | Annotated[int, Field(strict=True, ge=-(2**63), lt=2**63)]


class Signature(Frozen):
    """What the model takes and gives."""

    features: tuple[Feature, ...] = Field(min_length=1)
    """The input columns, in the order of the matrix that the model was trained on."""
    task: Literal["classification"] = "classification"
    classes: tuple[Label, ...] = Field(min_length=2)
    """The label of each output, all text or all integers (int64)."""

    @field_validator("features", "classes")
    @classmethod
    def _unique(cls, names: tuple[str | int, ...]) -> tuple[str | int, ...]:
        if twice := sorted({repr(name) for name in names if names.count(name) > 1}):
            raise ValueError(f"{', '.join(twice)} stands there twice")
        return names

    @field_validator("classes")
    @classmethod
    def _one_type(cls, classes: tuple[str | int, ...]) -> tuple[str | int, ...]:
        if len({type(label) for label in classes}) > 1:
            raise ValueError("labels must be all text or all integers")
        return classes


class Manifest(Frozen):
    """The content of `model.json`."""

    format: int = MANIFEST_FORMAT
    name: Name
    version: Name
    digest: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    file: Name
    kind: Kind
    signature: Signature
    recorded_version: str | None = None
    """What the file says of itself; nothing depends on it."""
    golden: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None
    """sha256 of `golden.parquet`: inputs, and what the model gave for them when it was registered."""
    baseline: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None
    """sha256 of `baseline.parquet`: a profile of the training data, against which drift is judged."""
    registered_at: datetime

    @property
    def ref(self) -> ModelRef:
        return ModelRef(name=self.name, version=self.version, digest=self.digest)

    def to_json(self) -> bytes:
        return self.model_dump_json(indent=1).encode() + b"\n"


def digest(files: Mapping[str, bytes], signature: Signature) -> str:
    """Returns the sha256 over names and contents of the model's files and the signature as canonical JSON."""
    sha = hashlib.sha256()
    for name, content in sorted(files.items()):
        sha.update(f"{name}\0{len(content)}\0".encode())
        sha.update(content)
    sha.update(b"signature\0")
    sha.update(json.dumps(signature.model_dump(mode="json"), sort_keys=True, separators=(",", ":")).encode())
    return sha.hexdigest()


def parse(content: bytes, where: object) -> Manifest:
    """Reads the text of a `model.json`. Raises ModelError, naming the file and the field."""
    try:
        document = json.loads(content)
    except ValueError as error:  # not JSON, or not UTF-8
        raise ModelError(f"model.json cannot be read: {error}", where=where, next_step=RESTORE) from None
    if isinstance(document, dict) and document.get("format", MANIFEST_FORMAT) != MANIFEST_FORMAT:
        raise ModelError(
            "model.json: `format` is not one that is known here",
            where=where,
            expected=MANIFEST_FORMAT,
            got=repr(document["format"]),
            next_step="use the version of Lakescore that wrote it",
        )
    try:
        return Manifest.model_validate(document)
    except ValidationError as error:
        what, got = problem(error)
        raise ModelError(f"model.json: {what}", where=where, got=got, next_step=RESTORE) from None


def problem(error: ValidationError) -> tuple[str, str | None]:
    """Returns the first problem in words and the value that is wrong; for an unknown key, the nearest valid one."""
    first = error.errors(include_url=False)[0]
    location = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        return f"unknown key `{location}`{nearest(str(first['loc'][-1]), _keys_at(first['loc'][:-1]))}", None
    if first["type"] == "missing":
        return f"`{location}` is missing", None
    message = first["msg"].removeprefix("Value error, ")
    return f"`{location}`: {message}" if location else message, repr(first["input"])


def _keys_at(location: Sequence[int | str]) -> list[str]:
    return list((Signature if "signature" in location else Manifest).model_fields)
