"""`model.json`: what a registered model is, and the digest that names its content for ever."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from pipeline.errors import ModelError, nearest
from pipeline.model.inputs import Input, Label
from pipeline.records import Frozen, ModelRef, Name

MANIFEST_FORMAT = 1
MOST_RANKS = 1000
RESTORE = "restore model.json from a backup, or register the model under a new version"

Kind = Literal["checkpoint", "program", "safetensors", "pickled"]
"""How the model's file is read; `kinds.py` answers for each."""
Task = Literal["classification", "regression", "multilabel", "ranking"]
Feature = Annotated[str, StringConstraints(min_length=1)]
Level = Annotated[float, Field(gt=0, lt=1)]


class Signature(Frozen):
    """What the model takes and gives."""

    features: tuple[Feature, ...] = Field(min_length=1)
    """The input columns, in the order of the matrix that the model was trained on."""
    task: Task = "classification"
    classes: tuple[Label, ...] = ()
    """The label of each output, all text or all integers (int64): of a ranking, the items. A regression has none."""
    inputs: dict[Feature, Input] = {}
    """What the features are that are no plain numbers or booleans, or may be NULL."""
    architecture: str | None = None
    """Of a file of bare weights, such as `mlp:tanh`; None is the checkpoint's own, linear layers with ReLU."""
    variance: Literal["variance", "log_variance"] | None = None
    """Of a regression that gives two outputs: what the second is, beside the mean."""
    quantiles: tuple[Level, ...] = ()
    """Of a regression that gives several outputs: their levels, ascending. The prediction is the middle one."""
    threshold: Level = 0.5
    """Of multi-label: the probability from which a label is among those predicted."""
    top: Annotated[int, Field(ge=1, le=MOST_RANKS, strict=True)] | None = None
    """Of a ranking: how many items are kept of each row, the best first."""

    @property
    def width(self) -> int:
        """The columns of the matrix."""
        return len(self.columns)

    @property
    def columns(self) -> tuple[str, ...]:
        """The feature of each column of the matrix."""
        return tuple(
            name for name in self.features for _ in range(self.inputs[name].width if name in self.inputs else 1)
        )

    @property
    def categories(self) -> frozenset[str]:
        return frozenset(name for name, how in self.inputs.items() if how.kind == "category")

    @property
    def outputs(self) -> int:
        """The columns that the model gives; of two classes it may give a single one."""
        if self.task != "regression":
            return len(self.classes)
        return 2 if self.variance else len(self.quantiles) or 1

    @field_validator("features", "classes")
    @classmethod
    def _unique(cls, names: tuple[str | int, ...]) -> tuple[str | int, ...]:
        if len(set(names)) < len(names):
            twice = sorted(repr(name) for name, count in Counter(names).items() if count > 1)
            raise ValueError(f"{', '.join(twice)} stands there twice")
        return names

    @field_validator("classes")
    @classmethod
    def _one_type(cls, classes: tuple[str | int, ...]) -> tuple[str | int, ...]:
        if len({type(label) for label in classes}) > 1:
            raise ValueError("labels must be all text or all integers")
        return classes

    @model_validator(mode="after")
    def _of_one_task(self) -> Signature:
        fewest = {"classification": 2, "multilabel": 1, "regression": 0, "ranking": 1}[self.task]
        if len(self.classes) < fewest:
            raise ValueError(f"`classes` of a {self.task} has at least {fewest} items, not {len(self.classes)}")
        if self.task == "regression" and self.classes:
            raise ValueError("a regression has no `classes`")
        if self.task != "regression" and (self.variance or self.quantiles):
            raise ValueError("`variance` and `quantiles` belong to a regression")
        if self.variance and self.quantiles:
            raise ValueError("a regression gives a variance or quantiles, not both")
        if (self.task == "ranking") != (self.top is not None) or (self.top or 0) > len(self.classes):
            raise ValueError("`top` belongs to a ranking, which has it, and at least as many items in `classes`")
        if list(self.quantiles) != sorted(set(self.quantiles)) or (self.quantiles and len(self.quantiles) % 2 == 0):
            raise ValueError("`quantiles` are ascending, and of an odd number: the middle one is the prediction")
        if any(round(level, 4) != level for level in self.quantiles):
            raise ValueError("`quantiles` have at most four decimals: a column is named by each")
        if strange := sorted(set(self.inputs) - set(self.features)):
            raise ValueError(f"`inputs` names {', '.join(strange)}, which is no feature")
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leaves out what came later and is not used, so that digests of models registered before stay as they are."""
        later = ("inputs", "architecture", "variance", "quantiles", "threshold", "top")
        document: dict[str, Any] = handler(self)
        unused = {name for name in later if getattr(self, name) == type(self).model_fields[name].default}
        return {name: value for name, value in document.items() if name not in unused}


class Provenance(Frozen):
    """Who registered a model, from where, and with what."""

    by: str
    source: str
    """The file's path, or the URL of the registry that it came from."""
    versions: dict[str, str]
    """Of Lakescore, Python and torch at registration, and of what wrote the file if it says so."""
    details: dict[str, str] = {}
    """What another registry says of it, such as the run that trained it."""


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
    metrics: dict[str, float] = {}
    """As the training code measured them; nothing depends on them."""
    provenance: Provenance | None = None
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
