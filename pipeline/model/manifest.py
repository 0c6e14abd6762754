"""`model.json`: the description of a registered model, with the digest that permanently identifies its content."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
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

from pipeline.errors import ModelError
from pipeline.model.inputs import Fit, FixedList, Input, Label, Number, is_int64, pieces_of
from pipeline.parsing import first_problem
from pipeline.records import Frozen, ModelRef, Name

MANIFEST_FORMAT = 1
MOST_RANKS = 1000
RESTORE = "restore model.json from a backup, or register the model under a new version"

Kind = Literal["checkpoint", "program", "safetensors", "pickled", "onnx", "xgboost", "lightgbm"]
"""The kind of a model file; `formats.py` reads each of them."""
LibraryKind = Literal["onnx", "xgboost", "lightgbm"]
"""The kinds that another library than torch reads and runs; each is an extra."""
Task = Literal["classification", "regression", "multilabel", "ranking"]
Outputs = Literal["logits", "probabilities", "log_probabilities"]
Feature = Annotated[str, StringConstraints(min_length=1)]
Level = Annotated[float, Field(gt=0, lt=1)]


class Signature(Frozen):
    """The inputs and outputs of a model."""

    features: tuple[Feature, ...] = Field(min_length=1)
    """The input columns, in the order used in training."""
    task: Task = "classification"
    classes: tuple[Label, ...] = ()
    """The label of each output, all text or all int64; for a ranking, the items. A regression has none."""
    inputs: dict[Feature, Input] = {}
    """Declarations of features that may be NULL or are not plain numbers or booleans."""
    tensors: dict[Feature, tuple[Feature, ...]] = {}
    """For each input of a program, by its name: the features that it takes, in order. If empty, each input takes the
    next features of its type."""
    output: str | None = None
    """Name of the output that is stored, of a program that has several."""
    architecture: str | None = None
    """Architecture for a file of bare weights, such as `mlp:tanh`; None is linear layers with ReLU."""
    outputs: Outputs = "logits"
    """For a classification or multi-label: what the model outputs. Models registered before this field give logits."""
    variance: Literal["variance", "log_variance"] | None = None
    """For a regression with two outputs: the meaning of the second output; the first is the mean."""
    quantiles: tuple[Level, ...] = ()
    """For a regression with several outputs: their levels, ascending. The middle one is the prediction."""
    threshold: Level = 0.5
    """For multi-label: the probability from which a label is predicted."""
    top: Annotated[int, Field(ge=1, le=MOST_RANKS, strict=True)] | None = None
    """For a ranking: the number of items to keep per row, best first."""

    @property
    def width(self) -> int:
        """Number of columns of the matrix."""
        return len(self.columns)

    @property
    def columns(self) -> tuple[str, ...]:
        """The feature that each column of the matrix comes from."""
        return tuple(
            name for name in self.features for _ in range(self.inputs[name].width if name in self.inputs else 1)
        )

    @property
    def int64(self) -> tuple[str, ...]:
        """The features that the model takes as int64, in order."""
        return tuple(name for name in self.features if is_int64(self.inputs.get(name)))

    @property
    def int64_values(self) -> int:
        """Number of int64 values that the model takes per row."""
        return sum(self.inputs[name].width // pieces_of(self.inputs[name]) for name in self.int64)

    @property
    def unfitted(self) -> tuple[str, ...]:
        """The features with a scale whose values are still to be taken from the training data."""
        scales = {name: how.scale for name, how in self.inputs.items() if isinstance(how, Number | FixedList)}
        return tuple(name for name, scale in scales.items() if any(isinstance(step, Fit) for step in scale))

    @property
    def categories(self) -> frozenset[str]:
        """The features of which the model knows certain values only; in the matrix, others are infinite."""
        return frozenset(name for name, how in self.inputs.items() if how.kind in ("category", "integer", "sequence"))

    @property
    def output_count(self) -> int:
        """Number of columns that the model outputs; for two classes, it may output only one."""
        if self.task != "regression":
            return len(self.classes)
        return 2 if self.variance else len(self.quantiles) or 1

    @field_validator("features", "classes")
    @classmethod
    def _unique(cls, names: tuple[str | int, ...]) -> tuple[str | int, ...]:
        if len(set(names)) < len(names):
            twice = sorted(repr(name) for name, count in Counter(names).items() if count > 1)
            raise ValueError(f"{', '.join(twice)} appears twice")
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
            raise ValueError(f"`classes` of a {self.task} needs at least {fewest} items, not {len(self.classes)}")
        if self.task == "regression" and self.classes:
            raise ValueError("a regression has no `classes`")
        if self.task in ("regression", "ranking") and "outputs" in self.model_fields_set:
            raise ValueError(f"`outputs` belongs to a classification or multilabel; a {self.task} is stored as it is")
        if self.task != "regression" and (self.variance or self.quantiles):
            raise ValueError("`variance` and `quantiles` belong to a regression")
        if self.variance and self.quantiles:
            raise ValueError("a regression has a variance or quantiles, not both")
        if (self.task == "ranking") != (self.top is not None) or (self.top or 0) > len(self.classes):
            raise ValueError("a ranking needs `top`, and at least as many `classes`; other tasks have no `top`")
        if list(self.quantiles) != sorted(set(self.quantiles)) or (self.quantiles and len(self.quantiles) % 2 == 0):
            raise ValueError("`quantiles` must be ascending and odd in number: the middle one is the prediction")
        if any(round(level, 4) != level for level in self.quantiles):
            raise ValueError("`quantiles` may have at most four decimals: they become column names")
        return self

    @model_validator(mode="after")
    def _of_its_features(self) -> Signature:
        if strange := sorted(set(self.inputs) - set(self.features)):
            raise ValueError(f"`inputs` names {', '.join(strange)}, which is not a feature")
        taken = {name for names in self.tensors.values() for name in names}
        if self.tensors and taken != set(self.features):
            both = ", ".join(sorted(taken ^ set(self.features)))
            raise ValueError(f"the inputs of the program must take all features, and no others: {both}")
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omits unused later fields, so that digests of models registered before these fields existed stay valid."""
        later = ("inputs", "tensors", "output", "architecture", "outputs", "variance", "quantiles", "threshold", "top")
        document: dict[str, Any] = handler(self)
        unused = {name for name in later if getattr(self, name) == type(self).model_fields[name].default}
        return {name: value for name, value in document.items() if name not in unused}


class Provenance(Frozen):
    """Who registered a model, its source, and the software versions."""

    by: str
    source: str
    """Path of the file, or URL in the registry that it came from."""
    versions: dict[str, str]
    """Versions of Lakescore, Python and torch at registration, and of the software that wrote the file, if known."""
    details: dict[str, str] = {}
    """Metadata from another registry, such as the run that trained the model. `outputs` has the reason why the model's
    outputs are taken to be what the signature says."""


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
    """Version stated in the file; informational only."""
    golden: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None
    """The sha256 of `golden.parquet`: inputs, and the model's outputs for them at registration."""
    baseline: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None
    """The sha256 of `baseline.parquet`: a profile of the training data, used as a reference for drift."""
    metrics: dict[str, float] = {}
    """Metrics measured by the training code; informational only."""
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
    """Parses a `model.json`. Raises ModelError that names the file and the field."""
    try:
        document = json.loads(content)
    except ValueError as error:  # not JSON, or not UTF-8
        raise ModelError(f"model.json cannot be read: {error}", where=where, next_step=RESTORE) from None
    if isinstance(document, dict) and document.get("format", MANIFEST_FORMAT) != MANIFEST_FORMAT:
        raise ModelError(
            "model.json: unknown `format`",
            where=where,
            expected=MANIFEST_FORMAT,
            got=repr(document["format"]),
            next_step="use the version of Lakescore that wrote it",
        )
    try:
        return Manifest.model_validate(document)
    except ValidationError as error:
        problem = first_problem(error, Manifest)
        raise ModelError(f"model.json: {problem.what}", where=where, got=problem.got, next_step=RESTORE) from None
