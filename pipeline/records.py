"""The values that stages hand to each other, and the run record in which they are stored.

A run record is one JSON file, `runs/job=<job>/ds=<ds>/<run_id>.json`. Each stage reads it, does its work and writes it
back with more filled in, so that any stage can run in a process of its own.
"""

from __future__ import annotations

import re
import secrets
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints

from pipeline.errors import UsageError

RECORD_FORMAT = 1
STAMP = "%Y%m%dT%H%M%S%f"
NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9_-])?")
DAY = re.compile(r"\d{4}-\d{2}-\d{2}")

Name = Annotated[str, StringConstraints(pattern=rf"^{NAME.pattern}$")]
"""A name that may stand in a path: letters, digits, dot, dash, underscore; up to 64."""
Day = Annotated[str, StringConstraints(pattern=rf"^{DAY.pattern}$")]


def check_name(value: str, kind: str) -> str:
    """Returns `value` if it may stand in a path. Raises UsageError."""
    if not NAME.fullmatch(value):
        raise UsageError(
            f"{kind} {value!r} cannot be used as a name",
            expected="letters, digits, '.', '_' and '-', at most 64, starting with a letter or digit",
            got=repr(value),
        )
    return value


def check_day(value: str) -> str:
    """Returns `value` if it is a calendar day written YYYY-MM-DD. Raises UsageError."""
    reason = "not written as YYYY-MM-DD"
    if DAY.fullmatch(value):
        try:
            return date.fromisoformat(value).isoformat()
        except ValueError as error:
            reason = str(error)
    raise UsageError(f"{value!r} is not a day: {reason}", expected="a day such as 2026-01-31", got=repr(value))


def is_day(value: str) -> bool:
    try:
        return bool(check_day(value))
    except UsageError:
        return False


def new_run_id(after: str = "") -> str:
    """Returns a run id that sorts by the time at which it was made, and after another one, whatever the clocks say."""
    stamp = f"{datetime.now(UTC):{STAMP}}"[:-3]
    if stamp <= (last := after.partition("Z-")[0]):
        with suppress(ValueError):
            stamp = f"{datetime.strptime(last, STAMP).replace(tzinfo=UTC) + timedelta(milliseconds=1):{STAMP}}"[:-3]
    return f"{stamp}Z-{secrets.token_hex(4)}"


def now() -> datetime:
    return datetime.now(UTC)


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileInfo(Frozen):
    """One stored file. `etag` changes whenever the content may have changed."""

    path: str
    size: int
    etag: str


class State(StrEnum):
    planned = "planned"
    scored = "scored"
    complete = "complete"
    overtaken = "overtaken"
    superseded = "superseded"
    stopped = "stopped"
    failed = "failed"
    rolled_back = "rolled_back"


class ModelRef(Frozen):
    name: Name
    version: Name
    digest: str


class Term(Frozen):
    """A number of rows, and the sum of `hash(key)` over them (comparable within one DuckDB version only)."""

    rows: int = 0
    hash_sum: int = 0

    def __add__(self, other: Term) -> Term:
        return Term(rows=self.rows + other.rows, hash_sum=self.hash_sum + other.hash_sum)


class Ledger(Frozen):
    """`candidates = scored + unchanged + quarantined + duplicates + overtaken`, each from a query of its own."""

    candidates: Term
    scored: Term
    unchanged: Term
    quarantined: Term
    duplicates: Term
    overtaken: Term = Term()

    @property
    def accounted(self) -> Term:
        return self.scored + self.unchanged + self.quarantined + self.duplicates + self.overtaken

    @property
    def balanced(self) -> bool:
        return self.candidates == self.accounted

    def counts(self) -> dict[str, int]:
        return {name: getattr(self, name).rows for name in type(self).model_fields}


class Severity(StrEnum):
    critical = "critical"
    """Stops the run, or sends the row to the quarantine."""
    warning = "warning"
    info = "info"


class Rule(Frozen):
    """One expectation of a suite, in the words of Great Expectations."""

    name: str
    """Unique in its suite; a row that breaks the rule has it as a reason."""
    type: str
    kwargs: dict[str, Any] = {}
    severity: Severity = Severity.critical
    quarantine: bool = True
    """Of a critical rule about single rows: whether these go to the quarantine, or stop the run."""

    @property
    def column(self) -> str | None:
        return self.kwargs.get("column")


class CheckResult(Frozen):
    """What a check of `input` or `output` found."""

    suite: str
    name: str
    expectation: str
    """Its type in Great Expectations, or `guard`."""
    column: str | None = None
    severity: Severity
    success: bool
    outcome: Literal["passed", "noted", "quarantined", "stopped", "off"]
    """What followed: `noted` is a warning or info, `off` a check that the job has switched off."""
    observed: str | None = None
    unexpected: int | None = None
    """Rows that break it."""
    share: float | None = None
    """Of the rows that have a value."""
    engine: Literal["gx", "sql", "plan", "model"] = "sql"
    """What counted: Great Expectations, one query of our own, what the plan had counted, or the loaded model."""


class Plan(Frozen):
    """What a run is about, frozen before anything is read a second time."""

    input: dict[str, tuple[FileInfo, ...]]
    base: tuple[FileInfo, ...]
    other_versions: tuple[FileInfo, ...]
    key: tuple[str, ...]
    carry: tuple[str, ...]
    features: tuple[str, ...]
    candidates: Term
    null_keys: int
    repeated: bool
    """Whether a key stands more than once."""
    duckdb: str
    """Version of the engine that made the hash sum; a later stage under another version counts anew."""
    broken: tuple[Rule, ...] = ()
    """The rules of the input's suite that some rows break: these rows go to the quarantine."""
    released: tuple[FileInfo, ...] = ()
    """Rows that a person let pass in spite of rules."""

    @property
    def next_part(self) -> int:
        return len(self.base)


class Chosen(StrEnum):
    """How `batch_rows` and the number of workers came about, as far as the job does not set them."""

    set = "set"
    measured = "measured"
    remembered = "remembered"
    default = "default"


class EngineUsed(Frozen):
    """How the model was run."""

    device: str
    precision: str
    compiled: bool
    batch_rows: int
    """Rows in one forward pass, where memory allowed as many."""
    workers: int
    chosen: Chosen


class StageReport(Frozen):
    stage: str
    wall_s: float
    cpu_s: float
    rows: int = 0
    busy: dict[str, float] = {}
    """Of a stage with workers: the shares of their time by what they did."""
    engine: EngineUsed | None = None
    """Of scoring that needed the model."""
    bytes_read: int | None = None
    """By the process while the stage ran, see `machine.bytes_moved`; of loading within scoring nobody knows."""
    bytes_written: int | None = None

    @property
    def rows_per_s(self) -> float:
        return self.rows / self.wall_s if self.wall_s > 0 else 0.0

    def without(self, other: StageReport) -> StageReport:
        """Returns this stage less another that took place within it."""
        return self.model_copy(update={"wall_s": self.wall_s - other.wall_s, "cpu_s": self.cpu_s - other.cpu_s})


class Statistics(Frozen):
    """Over the rows that the run scored."""

    classes: dict[str, int] = {}
    reasons: dict[str, int] = {}
    mean_confidence: float | None = None
    values: dict[str, float] | None = None
    """Of a regression: `mean`, `low` and `high`; of a ranking those of the best scores. None if one is not finite."""
    items: int | None = None
    """Of a ranking: how many different ones stand in its lists."""

    @property
    def shares(self) -> dict[str, float]:
        """Of the rows, by class; of multi-label a row counts for each of its labels, and without any for `no label`."""
        total = sum(self.reasons.values()) or sum(self.classes.values())
        return {name or "no label": count / total for name, count in self.classes.items()}

    @property
    def range(self) -> str | None:
        """Says where the values, or best scores, lie."""
        if self.values is None:
            return None
        what = "values" if self.items is None else f"{self.items:,} items, the best with scores"
        return f"{what} from {self.values['low']:g} to {self.values['high']:g}, mean {self.values['mean']:g}"


class RunRecord(Frozen):
    format: int = RECORD_FORMAT
    run_id: Name
    job: Name
    ds: Day
    state: State
    model: ModelRef
    job_digest: str
    job_config: dict[str, Any]
    plan: Plan
    started_at: datetime
    finished_at: datetime | None = None
    committed: tuple[FileInfo, ...] = ()
    """The part files that this run published."""
    parts: tuple[FileInfo, ...] = ()
    """The partition as this run knew it: its base, what others published meanwhile, and its own files."""
    quarantine: tuple[FileInfo, ...] = ()
    """The day's quarantine files when this run ended; the newest is current."""
    dispositions: dict[str, int] = {}
    """What the stream counted; the ledger is computed apart from it, and both must agree."""
    ledger: Ledger | None = None
    withdrawn: int = 0
    """Keys that have a prediction from before, but no row in the input any more. They keep it."""
    statistics: Statistics = Statistics()
    checks: tuple[CheckResult, ...] = ()
    """What the validation of input and output found."""
    stages: tuple[StageReport, ...] = ()
    peak_memory_bytes: int = 0
    host: str = ""
    pid: int = 0
    warnings: tuple[str, ...] = ()
    error: str | None = None

    def with_(self, **changes: object) -> RunRecord:
        return self.model_copy(update=changes)
