"""The table `[input]` of `job.toml`: where the rows are, and which columns a job uses."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from pipeline.columns import is_reserved
from pipeline.lake.patterns import Pattern
from pipeline.records import Frozen, Name

VIEWS_OF_A_RUN = frozenset(
    {"candidates", "duplicates", "keyed", "latest", "left_behind", "marked", "meanwhile", "other_versions", "predicted"}
    | {"profiled", "rejected", "released", "rest", "scored", "selected", "staged", "stored", "stored_rows", "unmarked"}
    | {"compared", "marking", "withdrawing"}
)
"""Names of views that a run makes beside those of the job's sources."""


def _path_pattern(pattern: str) -> str:
    if ".." in PurePosixPath(pattern).parts:
        raise ValueError("a path pattern may not contain '..'")
    if "\0" in pattern:
        raise ValueError("a path may not contain a NUL character")
    if (problem := Pattern(pattern).problem) is not None:
        raise ValueError(problem)
    return pattern


Column = Annotated[str, Field(min_length=1, pattern=r"^[^\x00]+$")]
PathPattern = Annotated[str, Field(min_length=1), AfterValidator(_path_pattern)]


class Input(Frozen):
    """Location of the input rows, and the columns to use."""

    path: PathPattern | None = None
    """A glob of files, with `{ds}`, relative to the lake's root or absolute."""
    format: Literal["parquet", "csv", "jsonl"] = "parquet"
    """Format of the files; of several sources, of those whose path does not end in `.parquet`."""
    delimiter: str | None = None
    """The delimiter of CSV: one character, or `tab`; by default that of the header."""
    decimal: Literal[".", ","] = "."
    """The decimal point of numbers in text."""
    types: dict[Column, str] = {}
    """Types of columns of text, instead of the inferred ones."""
    select: Column | None = None
    """A file in the job's folder with one SELECT over the views named in `sources`.

    It may use `$ds`, and `$start` and `$end`, the instants at which the period begins and is over.
    """
    sources: dict[Name, PathPattern] = {}
    key: tuple[Column, ...] = Field(min_length=1)
    """The columns that identify a row within a day."""
    partition_by: Column | None = None
    """The column with the time of each row, if the files hold rows of other periods, too."""
    features: tuple[Column, ...] | None = Field(default=None, min_length=1)
    """The feature columns; by default, those of the model's signature."""
    carry: tuple[Column, ...] = ()
    """Columns copied into the predictions."""

    @model_validator(mode="after")
    def _one_place(self) -> Input:
        if (self.path is None) == (self.select is None):
            raise ValueError("give either `path` or `select` (with `sources`)")
        if bool(self.select) != bool(self.sources):
            raise ValueError("`select` and `sources` belong together")
        if taken := sorted(name for name in self.sources if name.casefold() in VIEWS_OF_A_RUN):
            raise ValueError(f"a source may not be called {taken[0]!r}: a run has a view of that name")
        if self.partition_by and self.select:
            raise ValueError("`partition_by` is for `path`; a SELECT compares its own column with $start and $end")
        return self

    @model_validator(mode="after")
    def _of_text(self) -> Input:
        said = {"delimiter": self.delimiter is not None, "decimal": self.decimal != ".", "types": bool(self.types)}
        if self.format == "parquet":
            if named := [name for name, given in said.items() if given]:
                raise ValueError(f"`{named[0]}` is for text; say which text: format = 'csv' or 'jsonl'")
            return self
        if self.format == "jsonl" and said["delimiter"]:
            raise ValueError("`delimiter` is for CSV")
        if not self.text:
            raise ValueError(f"format = '{self.format}', but the path ends in .parquet")
        if self.types and len(self.text) > 1:
            raise ValueError(
                "`types` is for one source of text; of several, the SELECT may cast: nothing is lost before"
            )
        if self.partition_by:
            raise ValueError(
                "`partition_by` is for Parquet; in a job without `format`, lakescore import --partition-by divides text"
            )
        return self

    @property
    def text(self) -> frozenset[str]:
        """The sources whose files are text."""
        if self.format == "parquet":
            return frozenset()
        return frozenset(name for name, path in self.patterns.items() if not path.lower().endswith(".parquet"))

    @model_validator(mode="after")
    def _distinct_columns(self) -> Input:
        """Compares names without case, as SQL does: `ID` and `id` are the same column."""
        folded = {
            name: [column.casefold() for column in getattr(self, name) or ()] for name in ("key", "carry", "features")
        }
        for name, columns in folded.items():
            if twice := sorted({column for column in columns if columns.count(column) > 1}):
                raise ValueError(f"{name} names {', '.join(map(repr, twice))} twice")
        for column in (*self.key, *self.carry):
            if is_reserved(column):
                raise ValueError(f"a prediction has a column {column!r} of its own; rename it in a SELECT")
        if both := set(folded["key"]) & set(folded["carry"]):
            raise ValueError(f"{', '.join(sorted(both))} is in both key and carry")
        return self

    @property
    def patterns(self) -> dict[str, str]:
        """The path patterns, by the name of the view that reads them."""
        return {"unscored": self.path} if self.path else dict(self.sources)
