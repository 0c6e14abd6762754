"""The values that stages hand to each other, and the run record in which they are stored.

A run record is one JSON file, `runs/job=<job>/ds=<ds>/<run_id>.json`. Each stage is given it and returns
an `Addition` to it, so that any stage can run in a process of its own. `lake/record_store.py` reads and changes it.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from pipeline.errors import UsageError
from pipeline.periods import DS

RECORD_FORMAT = 1
STAMP = "%Y%m%dT%H%M%S%f"
NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9_-])?")

Name = Annotated[str, StringConstraints(pattern=rf"^{NAME.pattern}$")]
"""A name that may stand in a path: letters, digits, dot, dash, underscore; up to 64."""
Ds = Annotated[str, StringConstraints(pattern=rf"^{DS.pattern}$")]


def check_name(value: str, kind: str) -> str:
    """Returns `value` if it may stand in a path. Raises UsageError."""
    if not NAME.fullmatch(value):
        raise UsageError(
            f"{kind} {value!r} cannot be used as a name",
            expected="letters, digits, '.', '_' and '-', at most 64, starting with a letter or digit",
            got=repr(value),
        )
    return value


def new_run_id(after: str = "") -> str:
    """Returns a run id that sorts by its time of creation, and after the id `after` even if a clock is wrong."""
    stamp = f"{datetime.now(UTC):{STAMP}}"[:-3]
    if stamp <= (last := after.partition("Z-")[0]):
        with suppress(ValueError):
            stamp = f"{datetime.strptime(last, STAMP).replace(tzinfo=UTC) + timedelta(milliseconds=1):{STAMP}}"[:-3]
    return f"{stamp}Z-{secrets.token_hex(4)}"


def now() -> datetime:
    return datetime.now(UTC)


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Stored(BaseModel):
    """A value of a stored document: fields that a later version of the same format has added are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class FileInfo(Stored):
    """A stored file. `etag` changes whenever the content may have changed."""

    path: str
    size: int
    etag: str
    changed_ns: int | None = None
    """The inode's change time, only for input on a disk: it changes even if somebody sets the modification time back.

    Part files have none: theirs changes when the staged file, another name of the same inode, is removed.
    """

    def is_same(self, other: FileInfo) -> bool:
        """Tells whether nothing indicates a change of content; earlier versions have stored no change time."""
        known = None not in (self.changed_ns, other.changed_ns)
        return (self.path, self.size, self.etag) == (other.path, other.size, other.etag) and (
            not known or self.changed_ns == other.changed_ns
        )


Files = Mapping[str, Sequence[FileInfo]]
"""Input files by the name of the source that they belong to."""


def same_files(before: Files, after: Files) -> bool:
    """Tells whether two listings of the input name the same files, and nothing indicates a change of their content."""
    return before.keys() == after.keys() and all(
        len(files) == len(after[name])
        and all(one.is_same(other) for one, other in zip(files, after[name], strict=True))
        for name, files in before.items()
    )


class State(StrEnum):
    planned = "planned"
    scored = "scored"
    complete = "complete"
    overtaken = "overtaken"
    """Another run published other rows of the same keys first."""
    superseded = "superseded"
    stopped = "stopped"
    failed = "failed"
    rolled_back = "rolled_back"


class ModelRef(Stored):
    name: Name
    version: Name
    digest: str


class Term(Stored):
    """A number of rows, and the sum of `hash(key)` over them; only sums of one DuckDB version can be compared."""

    rows: int = 0
    hash_sum: int = 0

    def __add__(self, other: Term) -> Term:
        return Term(rows=self.rows + other.rows, hash_sum=self.hash_sum + other.hash_sum)


class Ledger(Stored):
    """`candidates = scored + unchanged + quarantined + duplicates + overtaken`, each term from its own query."""

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


class Rule(Stored):
    """An expectation of a suite, in the terms of Great Expectations."""

    name: str
    """Name of the rule, unique in its suite; it is the reason of each row in quarantine that breaks the rule."""
    type: str
    kwargs: dict[str, Any] = {}
    severity: Severity = Severity.critical
    quarantine: bool = True
    """Whether rows that break the rule go to quarantine, rather than stop the run; only for critical row rules."""
    description: str = ""
    """What the author of the suite says about the rule."""

    @property
    def column(self) -> str | None:
        return self.kwargs.get("column")


class CheckResult(Stored):
    """The result of one check of the input, the output or the model."""

    suite: str
    name: str
    expectation: str
    """Type of the expectation in Great Expectations, or `built-in`, or `guard`."""
    column: str | None = None
    severity: Severity
    success: bool
    outcome: Literal["passed", "noted", "quarantined", "stopped", "off"]
    """Consequence of the result. `noted` is a warning or info; `off` is a check that the job has switched off."""
    observed: str | None = None
    unexpected: int | None = None
    """Number of rows that break the rule."""
    share: float | None = None
    """Share of these among the rows that have a value, 0 to 1."""
    engine: Literal["gx", "sql", "plan", "model"] = "sql"
    """Source of the counts: Great Expectations, our own SQL, the plan, or the loaded model."""
    expected: str | None = None
    """What must hold, in words, with its limits; None in records of older versions."""
    description: str = ""
    """What the author of the suite says about the rule."""
    value: float | None = None
    """The measured number, for checks that compare a day with earlier ones."""


class Plan(Stored):
    """What a run is about. Later stages read nothing but the files named here."""

    input: dict[str, tuple[FileInfo, ...]]
    base: tuple[FileInfo, ...]
    other_versions: tuple[FileInfo, ...]
    key: tuple[str, ...]
    carry: tuple[str, ...]
    features: tuple[str, ...]
    candidates: Term
    null_keys: int
    repeated: bool
    """Whether any key occurs more than once."""
    duckdb: str
    """DuckDB version that computed the hash sum; a later stage under another version recomputes it."""
    broken: tuple[Rule, ...] = ()
    """Rules of the input's suite that some rows break; these rows go to quarantine."""
    released: tuple[FileInfo, ...] = ()
    """Files with the rows that somebody released although they break rules."""
    imported: dict[str, str] = {}
    """For each source of text, the digest of the copy that the run reads: see `selecting/imported.py`."""
    other_models: tuple[FileInfo, ...] | None = None
    """Files of the base with predictions of another model of the same version: each of their rows is scored again.

    None if the run was planned by a version of Lakescore that did not compare models.
    """

    @property
    def next_part(self) -> int:
        return len(self.base)


class Chosen(StrEnum):
    """How `batch_rows` and the number of workers were chosen, unless the job sets them."""

    set = "set"
    measured = "measured"
    remembered = "remembered"
    default = "default"


class EngineUsed(Stored):
    """How the model was executed."""

    device: str
    precision: str
    compiled: bool
    batch_rows: int
    """Number of rows per forward pass, unless memory allowed fewer."""
    workers: int
    chosen: Chosen
    memory_limit: str | None = None
    """Memory limit of DuckDB, as it takes it; None in records of earlier versions."""
    database_threads: int | None = None
    """Number of DuckDB's threads."""


class StageReport(Stored):
    stage: str
    wall_s: float
    cpu_s: float
    rows: int = 0
    busy: dict[str, float] = {}
    """Shares of the workers' time by activity, 0 to 1; empty for a stage without workers."""
    engine: EngineUsed | None = None
    """How the model was executed; only for scoring that needed it."""
    buckets: int | None = None
    """Number of buckets of keys that were scored apart from each other; None if the day was scored as a whole."""
    bytes_read: int | None = None
    """Bytes read by the process during the stage, see `machine.bytes_moved`; None for `load`, a part of scoring."""
    bytes_written: int | None = None
    """Bytes written by the process during the stage, counted likewise."""

    @property
    def rows_per_s(self) -> float:
        return self.rows / self.wall_s if self.wall_s > 0 else 0.0

    def without(self, other: StageReport) -> StageReport:
        """Returns this report without the time of a stage that ran within it."""
        return self.model_copy(update={"wall_s": self.wall_s - other.wall_s, "cpu_s": self.cpu_s - other.cpu_s})


class Statistics(Stored):
    """Statistics over the rows that the run scored."""

    classes: dict[str, int] = {}
    reasons: dict[str, int] = {}
    mean_confidence: float | None = None
    values: dict[str, float] | None = None
    """`mean`, `low` and `high` of a regression's values, or of a ranking's best scores; None if any is not finite."""
    items: int | None = None
    """Number of distinct items in the lists of a ranking."""

    @property
    def shares(self) -> dict[str, float]:
        """Returns the share of rows by class. A multi-label row counts for each of its labels, or for `no label`."""
        total = sum(self.reasons.values()) or sum(self.classes.values())
        return {name or "no label": count / total for name, count in self.classes.items()}

    @property
    def range(self) -> str | None:
        """Describes the range of the values, or of the best scores."""
        if self.values is None:
            return None
        what = "values" if self.items is None else f"{self.items:,} items, the best with scores"
        return f"{what} from {self.values['low']:g} to {self.values['high']:g}, mean {self.values['mean']:g}"


class RunRecord(Stored):
    """The record of one run: what it was to do, what it did, and how it ended."""

    format: Annotated[int, Field(strict=True)] = RECORD_FORMAT
    run_id: Name
    job: Name
    ds: Ds
    state: State
    model: ModelRef
    job_digest: str
    job_config: dict[str, Any]
    plan: Plan
    renews: Name | None = None
    """Run whose results this run has made current again, without reading any data; None for any other run."""
    started_at: datetime
    finished_at: datetime | None = None
    committed: tuple[FileInfo, ...] = ()
    """Part files that this run published."""
    parts: tuple[FileInfo, ...] = ()
    """All part files of the partition when the run ended: its base, those of other runs since, and its own."""
    quarantine: tuple[FileInfo, ...] = ()
    """Quarantine files of the day when the run ended; the newest is current."""
    digests: dict[str, tuple[str, ...]] = {}
    """SHA-256 of each part file by the name under which it was staged, stored before the file is published.

    More than one if other runs' rows were left out of the file, or if an erasure was interrupted.
    """
    expired_at: datetime | None = None
    """When the predictions of the run were removed because of their age, or were about to be."""
    dispositions: dict[str, int] = {}
    """Rows by disposition as the stream counted them; the ledger is computed independently, and both must agree."""
    ledger: Ledger | None = None
    carried_left: int = 0
    """Number of unchanged rows whose carried values differ from those that are stored, and stay."""
    withdrawn: int = 0
    """Number of keys that have a prediction but no row in the input any more, whether they are marked or not."""
    marked: Term = Term()
    """The rows by which this run has marked withdrawn keys; they are not candidates, and no part of the ledger."""
    statistics: Statistics = Statistics()
    checks: tuple[CheckResult, ...] = ()
    """Results of the validation of input, model and output."""
    stages: tuple[StageReport, ...] = ()
    peak_memory_bytes: int = 0
    host: str = ""
    pid: int = 0
    warnings: tuple[str, ...] = ()
    error: str | None = None
    ended_in: str | None = None
    """Stage in which a run failed or was stopped; None for others, and in records of earlier versions."""

    def with_(self, **changes: object) -> RunRecord:
        return self.model_copy(update=changes)

    def with_digests(self, found: Mapping[str, str]) -> RunRecord:
        """Returns the record with further digests, by the name under which a file was staged."""
        added = {name: tuple(dict.fromkeys((*self.digests.get(name, ()), digest))) for name, digest in found.items()}
        return self.with_(digests={**self.digests, **added})

    def to_json(self) -> bytes:
        return self.model_dump_json(indent=1).encode() + b"\n"


@dataclass(frozen=True)
class Addition:
    """What a stage adds to the record of its run. Applied twice, it adds nothing the second time."""

    fields: Mapping[str, Any] = field(default_factory=dict)
    """New values of the record's fields, by name."""
    stages: tuple[StageReport, ...] = ()
    """Reports that replace those of the same stages from an earlier attempt."""
    checks: Mapping[str, tuple[CheckResult, ...]] = field(default_factory=dict)
    """Results by suite (`input`, `output`, `model`) that replace the earlier results of that suite."""
    warnings: tuple[str, ...] = ()
    replaced_warnings: re.Pattern[str] | None = None
    """Pattern of the warnings of an earlier attempt that are dropped."""
    peak_memory_bytes: int = 0
    """Peak memory of this process; the record keeps the highest of all processes."""

    def applied_to(self, record: RunRecord) -> RunRecord:
        """Returns the record with this added."""
        again = {report.stage for report in self.stages}
        stages = (*(report for report in record.stages if report.stage not in again), *self.stages)
        kept = (check for check in record.checks if check.suite not in self.checks)
        old = self.replaced_warnings
        others = [text for text in record.warnings if old is None or not old.search(text)]
        return record.with_(
            **self.fields,
            stages=stages,
            checks=(*kept, *(check for found in self.checks.values() for check in found)),
            warnings=(*others, *(text for text in self.warnings if text not in others)),
            peak_memory_bytes=max(record.peak_memory_bytes, self.peak_memory_bytes),
        )
