"""Declares how features become numbers. Declarations are in the signature, so the model's digest covers them.

A feature without a declaration is a number or a boolean, and is passed to the model unchanged.
"""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import islice, repeat
from typing import Annotated, Any, Literal

from pydantic import (
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    Tag,
    field_validator,
    model_serializer,
    model_validator,
)

from pipeline.records import Frozen

Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Int64 = Annotated[int, Field(strict=True, ge=-(2**63), lt=2**63)]
Label = Annotated[str, StringConstraints(min_length=1)] | Int64
Encoding = Literal["index", "one_hot", "int64"]
"""An index as float32 (exact up to 2^24), as one column per value, or passed to the model's int64 input."""
PIECES = 3
"""Number of float32 columns that an int64 takes in the matrix; `integers.py` takes it apart and puts it together."""
MOST_BUCKETS = 2**24
MOST_COLUMNS = 100_000


class Clip(Frozen):
    """Values beyond a limit become the limit."""

    clip: tuple[Finite | None, Finite | None]

    @model_validator(mode="after")
    def _consistent(self) -> Clip:
        low, high = self.clip
        if low is not None and high is not None and low >= high:
            raise ValueError("the first limit must be below the second")
        return self


class Log1p(Frozen):
    """ln(1 + value). A value below -1 becomes infinite, so its row is rejected."""

    log1p: Literal[True]


class Standard(Frozen):
    """(value - mean) / std. For a list, either is one number, or one per element."""

    mean: Finite | tuple[Finite, ...]
    std: Positive | tuple[Positive, ...]


class MinMax(Frozen):
    """(value - min) / (max - min). For a list, either is one number, or one per element."""

    min: Finite | tuple[Finite, ...]
    max: Finite | tuple[Finite, ...]

    @model_validator(mode="after")
    def _consistent(self) -> MinMax:
        lows, highs = (each if isinstance(each, tuple) else repeat(each) for each in (self.min, self.max))
        one = not isinstance(self.min, tuple) and not isinstance(self.max, tuple)
        if any(low >= high for low, high in islice(zip(lows, highs, strict=False), 1 if one else None)):
            raise ValueError("min must be below max")
        return self


class Fit(Frozen):
    """A step whose values registration takes from the training data, after the steps before it."""

    fit: Literal["mean_std", "min_max"]


def _step(value: Any) -> str | None:
    """Returns the tag of a step, by its keys."""
    keys = set(value) if isinstance(value, dict) else set(getattr(type(value), "model_fields", ()))
    return next((tag for tag, those in STEPS.items() if keys & those), None)


STEPS = {"clip": {"clip"}, "log1p": {"log1p"}, "standard": {"mean", "std"}, "min_max": {"min", "max"}, "fit": {"fit"}}
Step = Annotated[
    Annotated[Clip, Tag("clip")]
    | Annotated[Log1p, Tag("log1p")]
    | Annotated[Standard, Tag("standard")]
    | Annotated[MinMax, Tag("min_max")]
    | Annotated[Fit, Tag("fit")],
    Discriminator(
        _step,
        custom_error_type="step",
        custom_error_message='a step is one of {"clip": [low, high]}, {"log1p": true}, {"mean": 0, "std": 1}, '
        '{"min": 0, "max": 1}, {"fit": "mean_std"}, {"fit": "min_max"}',
    ),
]


class Scaled(Frozen):
    """Numbers with a scale."""

    null: float | None = Field(default=None, allow_inf_nan=False)
    """Replacement for NULL and NaN; as numbers arrive, before they are scaled."""
    scale: tuple[Step, ...] = ()
    """Steps in the order in which they are applied, in 64 bits; the result is rounded to float32 once."""

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omits an unused scale, so that digests of models registered before there were any stay valid."""
        document: dict[str, Any] = handler(self)
        return document if self.scale else {name: value for name, value in document.items() if name != "scale"}

    @field_validator("scale", mode="before")
    @classmethod
    def _one_step(cls, scale: Any) -> Any:
        return [scale] if isinstance(scale, dict) else scale

    def check_scale(self, length: int | None) -> None:
        """Raises ValueError for a step with several values that are not `length`; None: of a single number."""
        for step in self.scale:
            for name, value in step:
                if name != "clip" and isinstance(value, tuple) and len(value) != length:
                    expected = "a number" if length is None else f"a number or {length} of them"
                    raise ValueError(f"`{name}` must be {expected}, not a list of {len(value)}")


class Number(Scaled):
    """A number or a boolean."""

    kind: Literal["number"] = "number"

    @property
    def width(self) -> int:
        return 1

    @model_validator(mode="after")
    def _consistent(self) -> Number:
        self.check_scale(None)
        return self


class Category(Frozen):
    """A value from a vocabulary, encoded as its index, or one-hot."""

    kind: Literal["category"] = "category"
    vocabulary: tuple[Label, ...] = Field(min_length=1)
    unknown: Literal["error", "quarantine", "index"] = "quarantine"
    """How to handle a value outside the vocabulary: stop the run, reject the row, or use an extra last index."""
    null: Label | None = None
    """A value of the vocabulary that replaces NULL."""
    encode: Encoding = "index"

    @property
    def int64(self) -> bool:
        """Whether the model takes it as an int64."""
        return self.encode == "int64"

    @property
    def values(self) -> int:
        return len(self.vocabulary) + (self.unknown == "index")

    @property
    def width(self) -> int:
        return self.values if self.encode == "one_hot" else 1

    @model_validator(mode="after")
    def _consistent(self) -> Category:
        if len(set(self.vocabulary)) < len(self.vocabulary) or len({type(value) for value in self.vocabulary}) > 1:
            raise ValueError("the values of a vocabulary must be unique, and all text or all integers")
        if self.null is not None and self.null not in self.vocabulary:
            raise ValueError(f"null = {self.null!r} is not in the vocabulary")
        return self


class Integer(Frozen):
    """An integer of up to 64 bits, such as an identifier, passed exactly to the int64 input of a program."""

    kind: Literal["integer"] = "integer"
    null: Int64 | None = None
    """Replacement for NULL."""
    min: Int64 | None = None
    """Smallest value that the model takes; a row with another value is rejected."""
    max: Int64 | None = None
    """Largest value that the model takes, such as the last row of an embedding."""

    @property
    def width(self) -> int:
        return PIECES

    @property
    def int64(self) -> bool:
        return True

    @model_validator(mode="after")
    def _consistent(self) -> Integer:
        low, high = (-(2**63) if self.min is None else self.min), (2**63 - 1 if self.max is None else self.max)
        if low > high:
            raise ValueError(f"min = {low} is above max = {high}")
        if self.null is not None and not low <= self.null <= high:
            raise ValueError(f"null = {self.null} is not between min and max")
        return self


class Hash(Frozen):
    """Text or an integer, as the number of the bucket that a stable hash puts it into."""

    kind: Literal["hash"] = "hash"
    algorithm: Literal["modulo", "crc32", "md5"]
    """How the training code computed the bucket; `hashing.py` has the formulas."""
    buckets: int = Field(ge=1, le=MOST_BUCKETS, strict=True)
    null: Label | None = None
    """The value that is hashed in place of NULL."""
    encode: Encoding = "index"

    @model_validator(mode="before")
    @classmethod
    def _asked(cls, value: Any) -> Any:
        if isinstance(value, dict) and "algorithm" not in value:
            raise ValueError("`algorithm` must say how the training code computed the bucket: modulo, crc32 or md5")
        return value

    @property
    def width(self) -> int:
        return self.buckets if self.encode == "one_hot" else 1

    @property
    def int64(self) -> bool:
        return self.encode == "int64"

    @model_validator(mode="after")
    def _consistent(self) -> Hash:
        if self.encode == "one_hot" and self.buckets > MOST_COLUMNS:
            raise ValueError(f"one_hot is limited to {MOST_COLUMNS:,} buckets; use encode = index or int64")
        if self.algorithm == "modulo" and isinstance(self.null, str):
            raise ValueError("modulo hashes integers only, so `null` must be one")
        return self


class Timestamp(Frozen):
    """A point in time or a date; without a time zone it is interpreted as UTC."""

    kind: Literal["timestamp"] = "timestamp"
    convert: Literal["days", "seconds", "cyclic"]
    """Time since `origin`, computed in 64 bits and rounded to float32; or sine and cosine of the phase in `period`."""
    origin: datetime = datetime(1970, 1, 1, tzinfo=UTC)
    period: Literal["day", "week", "year"] | None = None
    """Period for `cyclic`. It starts at midnight UTC, on Monday, or about January 1 (a year is 365.2425 days)."""
    null: datetime | None = None
    """Replacement for NULL."""

    @field_validator("origin", "null")
    @classmethod
    def _in_utc(cls, at: datetime | None) -> datetime | None:
        return None if at is None else at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)

    @model_validator(mode="after")
    def _consistent(self) -> Timestamp:
        if (self.convert == "cyclic") != (self.period is not None):
            raise ValueError("`period` (day, week or year) and convert = cyclic require each other")
        return self

    @property
    def width(self) -> int:
        return 2 if self.convert == "cyclic" else 1


class FixedList(Scaled):
    """A list with the same number of numbers in every row, such as an embedding; `null` also replaces its elements."""

    kind: Literal["list"] = "list"
    length: int = Field(ge=1, le=MOST_COLUMNS, strict=True)

    @model_validator(mode="after")
    def _consistent(self) -> FixedList:
        self.check_scale(self.length)
        return self

    @property
    def width(self) -> int:
        return self.length


class PaddedList(Frozen):
    """A list of up to `length` numbers, such as the items that somebody has looked at, filled up to that length."""

    kind: Literal["sequence"] = "sequence"
    length: int = Field(ge=1, le=MOST_COLUMNS, strict=True)
    side: Literal["left", "right"]
    """Where a shorter list is filled up: before its first element, or after its last one."""
    pad: Finite = 0.0
    """The value that fills it up."""
    longer: Literal["quarantine", "first", "last"] = "quarantine"
    """What becomes of a longer list: its row is rejected, or its first or last elements are taken."""
    null: Literal["empty"] | None = None
    """`empty`: a NULL list is one without elements."""
    min: Finite | None = None
    """Smallest element that the model takes; a row with another one is rejected."""
    max: Finite | None = None
    """Largest element that the model takes, such as the last row of an embedding."""
    encode: Literal["float32", "int64"] = "float32"
    """The type of the input of the model. Elements for an int64 are integers of up to 24 bits."""

    @model_validator(mode="before")
    @classmethod
    def _asked(cls, value: Any) -> Any:
        if isinstance(value, dict) and "side" not in value:
            raise ValueError("`side` must say where the training code filled up a shorter list: left or right")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> PaddedList:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min = {self.min:g} is above max = {self.max:g}")
        if self.encode == "int64" and (not self.pad.is_integer() or abs(self.pad) > MOST_BUCKETS):
            raise ValueError(f"pad = {self.pad:g} is no integer of up to 24 bits, which encode = int64 needs")
        return self

    @property
    def width(self) -> int:
        return self.length

    @property
    def int64(self) -> bool:
        return self.encode == "int64"


Input = Annotated[Number | Category | Integer | Hash | Timestamp | FixedList | PaddedList, Field(discriminator="kind")]


def is_int64(how: Input | None) -> bool:
    """Tells whether a feature is passed to an int64 input of the model; all others are float32."""
    return isinstance(how, Integer | Category | Hash | PaddedList) and how.int64


def pieces_of(how: Input | None) -> int:
    """Returns the number of columns of the matrix that hold one value of a feature."""
    return PIECES if isinstance(how, Integer) else 1
