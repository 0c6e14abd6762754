"""What a feature is before it is a number: declared in the signature, so that it belongs to the model and its digest.

A feature that is not declared is a number or a boolean, and is handed to the model as it is.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from pipeline.records import Frozen

Label = Annotated[str, StringConstraints(min_length=1)] | Annotated[int, Field(strict=True, ge=-(2**63), lt=2**63)]


class Number(Frozen):
    """A number or a boolean."""

    kind: Literal["number"] = "number"
    null: float | None = Field(default=None, allow_inf_nan=False)
    """Stands for NULL and NaN."""

    @property
    def width(self) -> int:
        return 1


class Category(Frozen):
    """One of a vocabulary: its index in it, or a one and zeros."""

    kind: Literal["category"] = "category"
    vocabulary: tuple[Label, ...] = Field(min_length=1)
    unknown: Literal["error", "quarantine", "index"] = "quarantine"
    """A value that is not in the vocabulary ends the run, rejects its row, or has an index of its own, the last."""
    null: Label | None = None
    """A value of the vocabulary that stands for NULL."""
    encode: Literal["index", "one_hot"] = "index"

    @property
    def values(self) -> int:
        return len(self.vocabulary) + (self.unknown == "index")

    @property
    def width(self) -> int:
        return self.values if self.encode == "one_hot" else 1

    @model_validator(mode="after")
    def _consistent(self) -> Category:
        if len(set(self.vocabulary)) < len(self.vocabulary) or len({type(value) for value in self.vocabulary}) > 1:
            raise ValueError("a vocabulary has each value once, all text or all integers")
        if self.null is not None and self.null not in self.vocabulary:
            raise ValueError(f"null = {self.null!r} is not in the vocabulary")
        return self


class Timestamp(Frozen):
    """A point in time or a date; without a zone it is taken as UTC."""

    kind: Literal["timestamp"] = "timestamp"
    convert: Literal["days", "seconds", "cyclic"]
    """Since the origin, computed with 64 bits and then rounded to float32; or sine and cosine of the period's share."""
    origin: datetime = datetime(1970, 1, 1, tzinfo=UTC)
    period: Literal["day", "week", "year"] | None = None
    """Of `cyclic`, from midnight UTC, a Monday, or the first of January (a year is 365.2425 days)."""
    null: datetime | None = None
    """Stands for NULL."""

    @field_validator("origin", "null")
    @classmethod
    def _in_utc(cls, at: datetime | None) -> datetime | None:
        return None if at is None else at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)

    @model_validator(mode="after")
    def _consistent(self) -> Timestamp:
        if (self.convert == "cyclic") != (self.period is not None):
            raise ValueError("`period` (day, week or year) belongs to convert = cyclic")
        return self

    @property
    def width(self) -> int:
        return 2 if self.convert == "cyclic" else 1


class FixedList(Frozen):
    """A list of as many numbers in every row, such as an embedding."""

    kind: Literal["list"] = "list"
    length: int = Field(ge=1, le=100_000, strict=True)
    null: float | None = Field(default=None, allow_inf_nan=False)
    """Stands for NULL, and NaN, of the list or in it."""

    @property
    def width(self) -> int:
        return self.length


Input = Annotated[Number | Category | Timestamp | FixedList, Field(discriminator="kind")]
