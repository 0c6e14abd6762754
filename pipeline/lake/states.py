"""The words for the state of a period, which the terminal, the pages, messages and metrics share.

A run has a state of its own (`records.State`); the state of a period follows from its runs, its input and its
predictions. docs/on-call.md has the table, with the exit codes.
"""

from __future__ import annotations

from enum import StrEnum

from pipeline.records import State


class PeriodState(StrEnum):
    complete = "complete"
    """A run of the job's model version is complete, and its input has not changed since."""
    partial = "partial"
    """There are predictions of that version, but they are incomplete, or something has changed since."""
    stale = "stale"
    """There are predictions, but only of other versions."""
    stopped = "stopped"
    """The newest run was stopped by bad data: exit code 3."""
    failed = "failed"
    """The newest run failed, or none could be planned."""
    unfinished = "unfinished"
    """The newest run is active, waits for its next stage, or was killed."""
    rolled_back = "rolled_back"
    """The newest run was taken back."""
    missing = "missing"
    """There is input, but no prediction, and no run has tried."""
    skipped = "skipped"
    """A run found no input, or no rows in it, and the job skips such periods."""
    gone = "gone"
    """There are predictions, but no longer any input."""

    @property
    def needs_attention(self) -> bool:
        return self not in (PeriodState.complete, PeriodState.skipped)


FAILED = (PeriodState.failed, PeriodState.stopped, PeriodState.unfinished)
"""States of a period that a run has tried and not completed."""
STALE = (PeriodState.stale, PeriodState.partial)
"""States of a period whose predictions are not those that a run would make now."""
OF_NEWEST_RUN = {
    State.planned: PeriodState.unfinished,
    State.scored: PeriodState.unfinished,
    State.failed: PeriodState.failed,
    State.stopped: PeriodState.stopped,
    State.rolled_back: PeriodState.rolled_back,
}
"""State of a period that is not complete, by the state of its newest run."""


def in_words(state: StrEnum | str) -> str:
    """Returns a state as text for people, such as `rolled back`."""
    return str(state).replace("_", " ")
