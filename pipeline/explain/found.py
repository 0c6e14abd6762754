"""What is found about a key: its predictions, rejected rows and input rows, the replay and the attribution."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pipeline.records import RunRecord, State
from pipeline.selecting.triage import WITHDRAWN

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class InputRow:
    files: tuple[str, ...]
    """Input files that the run read."""
    changed: tuple[str, ...]
    """Input files that have changed since then, or are gone."""
    file: str | None = None
    """Parquet file that holds the row; None if it is text, the job's SELECT makes the rows, or the row is gone."""
    row_group: int | None = None
    row: int | None = None
    """Position of the row in the file, from 0."""
    rows: int = 0
    """Number of rows that the key has in that day's input now."""
    features: dict[str, Any] | None = None
    """Feature values: numbers as float32, as the model sees them, others unchanged; None if there is no row."""
    same: bool | None = None
    """Whether the features have the fingerprint of the prediction, and so are what was scored."""
    note: str | None = None
    batch: pa.RecordBatch | None = field(default=None, repr=False, compare=False)
    """The row, for the model."""


@dataclass(frozen=True)
class Replay:
    outputs: dict[str, Any]
    """Outputs of the model now, for the input row as it is now."""
    difference: float
    """Largest absolute difference from a stored number; infinite if a label or an item differs."""
    tolerance: float
    same_input: bool
    """Whether the row is the one that was scored; if not, a difference is to be expected."""
    same_model: bool
    """Whether the registry's model still has the digest of the one that scored."""

    @property
    def reproduced(self) -> bool:
        return self.difference <= self.tolerance


@dataclass(frozen=True)
class Attribution:
    method: str
    target: str
    """Output column whose value is explained."""
    baseline: str
    """Description of the baseline row."""
    baseline_features: dict[str, float]
    baseline_score: float
    score: float
    shares: dict[str, float]
    """Contribution of each feature, in units of the score; they add up to `score - baseline_score`."""


@dataclass
class FoundPrediction:
    """One prediction and its origin."""

    ds: str
    model_version: str
    revision: int
    current: bool
    """Whether the view `predictions` shows it."""
    reason: str
    outputs: dict[str, Any]
    """Output columns of the model, without NULLs."""
    carried: dict[str, Any]
    fingerprint: int
    scored_at: datetime
    run_id: str
    part: str
    """Path of the part file that holds the prediction."""
    model: str | None = None
    model_digest: str | None = None
    state: State | None = None
    """State of the run. This, `model` and `model_digest` are None if the run record is gone."""
    checks: dict[str, int] = field(default_factory=dict)
    """Number of the run's check results by outcome."""
    findings: list[str] = field(default_factory=list)
    """Descriptions of the checks that did not pass."""
    drift: dict[str, Any] | None = None
    """Worst drift outcome of that day, and the columns that have it; None if no drift was computed."""
    input: InputRow | None = None
    replay: Replay | None = None
    attribution: Attribution | None = None
    record: RunRecord | None = field(default=None, repr=False)

    @property
    def withdrawn(self) -> bool:
        """Whether this is no prediction, but says that the key had left the input."""
        return self.reason == WITHDRAWN

    def as_dict(self) -> dict[str, Any]:
        parts = {name: getattr(self, name) for name in ("input", "replay", "attribution")}
        own = {name: value for name, value in vars(self).items() if name not in (*parts, "record")}
        found = {name: None if part is None else asdict(part) for name, part in parts.items()}
        if found["input"] is not None:
            del found["input"]["batch"]
        return own | found


@dataclass(frozen=True)
class FoundRejection:
    """A row of the key that is in quarantine."""

    ds: str
    reasons: list[str]
    run_id: str
    quarantined_at: datetime
