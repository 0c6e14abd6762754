"""The tables `[[publish]]` of `job.toml`: where a period's predictions go once they are committed."""

from __future__ import annotations

from fractions import Fraction
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from pipeline.job.schedule import Duration
from pipeline.records import Frozen, Name

VARIABLE = r"^[A-Z][A-Z0-9_]*$"
PREFIX = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,99}$"

Variable = Annotated[str, Field(pattern=VARIABLE)]
"""Name of an environment variable: its value is a secret, and stands in no file."""
Sql = Annotated[str, Field(min_length=1, pattern=r"^[^\x00]+$")]
"""Text in SQL, or the name of a column."""


def _place(place: str) -> str:
    if "\0" in place or ".." in PurePosixPath(place).parts:
        raise ValueError("a place may contain neither '..' nor a NUL character")
    if not place.startswith("/") and "://" not in place:
        raise ValueError("give an absolute path or a URL; without `to`, the files go into the lake")
    return place


def _parts(share: float, of: int, unit: str) -> int:
    """Returns how many parts of `of` a share is. Raises ValueError if it is not a whole number of them."""
    exact = Fraction(str(share)) * of
    if exact.denominator != 1:
        raise ValueError(f"a share is a whole number of {unit}, got {share}")
    return int(exact)


class Target(Frozen):
    """What every target has."""

    name: Name
    where: Sql | None = None
    """Condition in SQL over the view `predictions` of the period; rows for which it is true are sent."""

    @property
    def announced(self) -> bool:
        """Whether deliveries are announced to people."""
        return False


class RedisTarget(Target):
    """Current predictions by key, in Redis; see docs/publish.md."""

    kind: Literal["redis"]
    url: Variable = "LAKESCORE_REDIS_URL"
    """Name of the environment variable with the URL: `redis://` or, with TLS, `rediss://`; user and password in it."""
    prefix: Annotated[str, Field(pattern=PREFIX)] | None = None
    """Beginning of every key in Redis; by default `<job>:<target>`. No other target may write below it."""
    format: Literal["packed", "msgpack", "json"] = "json"
    """Form of a value: packed numbers, a msgpack list, or a JSON object."""
    columns: tuple[Sql, ...] | dict[Name, Sql] = ()
    """Columns of a value, or names with expressions in SQL; by default, the outputs of the model."""
    ttl: Duration | None = None
    """Time after which keys vanish if nothing replaces them: a safety net, which costs a third more to write."""
    cluster: bool = Field(default=False, strict=True)
    """Whether the server is a Redis Cluster; keys are spread over it by the key of the prediction."""
    check_memory: bool = Field(default=True, strict=True)
    """Whether to ask the server before writing if two generations fit, and if it may evict keys."""
    may_be_empty: bool = Field(default=False, strict=True)
    """Whether a period without any row may replace what readers see."""

    @model_validator(mode="after")
    def _distinct(self) -> RedisTarget:
        folded = [name.casefold() for name in self.columns]
        if len(set(folded)) < len(folded):
            raise ValueError("columns names a column twice")
        return self


class Suppression(Frozen):
    """A list of those to whom nothing may be sent. An export without it, or with one that is too old, is refused."""

    name: Name
    path: str = Field(min_length=1)
    """A glob of CSV, JSON lines or Parquet files, relative to the lake's root or absolute, or a URL."""
    max_age: Duration
    """Maximum age of each file, by the time of its last change."""
    on: Sql | None = None
    """Column of the predictions that is looked up in the list, such as a carried email address; default: the key."""
    column: Sql | None = None
    """Column of the list that has these values; default: the same name."""
    may_be_empty: bool = Field(default=False, strict=True)
    """Whether a list without rows is taken as such, and not for one that went wrong."""


class Holdout(Frozen):
    """A control group that is not sent: the same keys for a campaign, whatever the model, the day and the scores."""

    campaign: str = Field(min_length=1)
    share: float = Field(gt=0, lt=1)
    """Share of keys held out, 0 to 1, in steps of 0.0001."""

    @property
    def buckets(self) -> int:
        """How many of 10,000 buckets are held out."""
        return _parts(self.share, 10_000, "ten-thousandths")

    @model_validator(mode="after")
    def _whole_buckets(self) -> Holdout:
        _ = self.buckets
        return self


class Announce(Frozen):
    """Whom a delivery is announced to, apart from the messages about the run."""

    apprise: tuple[Variable, ...] = ()
    """Names of environment variables that contain Apprise URLs; the URLs themselves are secrets."""
    mail: tuple[str, ...] = ()
    """Email addresses; Airflow sends through its connection `smtp_default`."""
    attach: bool = Field(default=False, strict=True)
    """Whether the files themselves are attached, if they have up to 10 MB together, and not only named."""
    link: str | None = Field(default=None, pattern=r"^https?://[^\s]+$")
    """Web address at which people find what lies in `to`; the path of a file in it is appended."""

    @property
    def anybody(self) -> bool:
        return bool(self.apprise or self.mail)


class ExportTarget(Target):
    """Files for people and programs outside the lake."""

    kind: Literal["export"]
    to: Annotated[str, AfterValidator(_place)] | None = None
    """Folder or object store (`/srv/drop`, `s3://bucket/prefix`); by default `handed_over/` in the lake."""
    format: Literal["csv", "parquet", "jsonl"] = "csv"
    columns: tuple[Sql, ...] = ()
    """Columns to write; by default key, carried columns and the model's outputs."""
    score: Sql | None = None
    """Column by which rows are ordered, highest first; of a list such as `top_scores`, its first value."""
    top: int | None = Field(default=None, gt=0, strict=True)
    """How many rows with the highest scores; equal scores are ordered by key."""
    share: float | None = Field(default=None, gt=0, le=1)
    """The same as a share of the rows, 0 to 1, in steps of 0.000001; a part of a row counts as one."""
    per: Sql | None = None
    """Column whose values are segments; `top` or `share` are then of each of them."""
    suppress: tuple[Suppression, ...] = ()
    """Lists of those to whom nothing is sent; they are applied before `top` and `share`."""
    holdout: Holdout | None = None
    """Control group among the chosen rows; it is written to a file of its own."""
    changes: bool = Field(default=False, strict=True)
    """Whether rows that were added, changed or removed since the last export are written, too."""
    spreadsheet_safe: bool = Field(default=False, strict=True)
    """Whether texts that a spreadsheet would compute get an apostrophe; only in CSV."""
    announce: Announce = Announce()

    @property
    def announced(self) -> bool:
        return self.announce.anybody

    @property
    def millionths(self) -> int | None:
        """The share in millionths, or None."""
        return None if self.share is None else _parts(self.share, 1_000_000, "millionths")

    @model_validator(mode="after")
    def _limits(self) -> ExportTarget:
        _ = self.millionths
        if self.top is not None and self.share is not None:
            raise ValueError("give either `top` or `share`")
        limited = self.top is not None or self.share is not None
        if limited and self.score is None:
            raise ValueError("`top` and `share` need `score`, the column that says which rows are highest")
        if self.per is not None and not limited:
            raise ValueError("`per` needs `top` or `share`")
        if self.announce.link is not None and self.to is None:
            raise ValueError("`link` is for files outside the lake: give `to`")
        if self.spreadsheet_safe and self.format != "csv":
            raise ValueError("`spreadsheet_safe` is for CSV")
        return self

    @model_validator(mode="after")
    def _distinct(self) -> ExportTarget:
        folded = [column.casefold() for column in self.columns]
        if twice := [column for column in self.columns if folded.count(column.casefold()) > 1]:
            raise ValueError(f"columns names {twice[0]!r} twice")
        names = [each.name for each in self.suppress]
        if len(set(names)) < len(names):
            raise ValueError("two suppression lists have the same name")
        return self


class FlagsTarget(Target):
    """Cases with a high score, as the view `flags`; those that are new are announced, each case once."""

    kind: Literal["flags"]
    score: Sql
    """Column with the score; of a list such as `top_scores`, its first value."""
    enter: float = Field(allow_inf_nan=False)
    """The score from which a case opens, and is worth an alert."""
    leave: float | None = Field(default=None, allow_inf_nan=False)
    """The score below which a period counts towards closing a case; by default `enter`."""
    close_after: int = Field(default=1, gt=0, le=366, strict=True)
    """How many periods in a row below `leave`, or without any row of the case, close it, 1 to 366."""
    case: Sql | None = None
    """Carried column that says to which case a row belongs, such as an account; by default, each key is a case."""
    budget: int | None = Field(default=None, ge=0, strict=True)
    """The most alerts per period, those with the highest scores; the others are recorded as cut."""
    announce: Announce = Announce()

    @property
    def announced(self) -> bool:
        return self.announce.anybody

    @property
    def exit(self) -> float:
        return self.enter if self.leave is None else self.leave

    @model_validator(mode="after")
    def _exit_is_below(self) -> FlagsTarget:
        if self.exit > self.enter:
            raise ValueError("`leave` must not be above `enter`")
        if self.announce.attach:
            raise ValueError("`attach` is for exports: messages about flags have no keys in them")
        return self


AnyTarget = Annotated[RedisTarget | ExportTarget | FlagsTarget, Field(discriminator="kind")]
