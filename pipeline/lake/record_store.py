"""Reads the run records of a lake, and is the only module that changes them.

    runs/job=<job>/ds=<ds>/<run_id>.json

A change is a function of the stored record. It is written only if the record is still the one that was read; if another
process was faster, the record is read again and the change applied again. So no change is lost, and no run enters a
state that may not follow its stored one: `NEXT` says which states may follow which.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache

from pydantic import ValidationError

from pipeline.errors import CommitConflict, CommitUnknown, LakeDamaged, RunEnded, UsageError
from pipeline.records import RECORD_FORMAT, Addition, CheckResult, RunRecord, State, check_name, now
from pipeline.storage import Storage

TRIES = 20
"""Maximum number of attempts to change a record that other processes keep changing."""

KEPT, KEPT_BYTES = 64, 100_000
"""Number of records that are kept parsed, and the size of their text up to which they are."""

OPEN = (State.planned, State.scored)
"""States of a run that is active or waits for its next stage."""
NEXT: dict[State, frozenset[State]] = {
    State.planned: frozenset(State) - {State.complete, State.overtaken},
    State.scored: frozenset(State),
    State.failed: frozenset(State),  # a failed run may be resumed, or have failed in one process only
    State.complete: frozenset({State.complete, State.overtaken, State.superseded, State.rolled_back}),
    State.overtaken: frozenset({State.overtaken, State.rolled_back}),
    State.superseded: frozenset({State.superseded, State.rolled_back}),
    State.stopped: frozenset({State.stopped, State.rolled_back}),
    State.rolled_back: frozenset({State.rolled_back}),
}
"""The states that may follow each state; a state may follow itself."""


class RecordStore:
    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def key(self, job: str, ds: str, run_id: str) -> str:
        """Returns the key of a record, relative to the lake. Raises UsageError for an invalid run id."""
        return f"{_folder(job, ds)}/{check_name(run_id, 'run id')}.json"

    # Reading

    def jobs(self) -> list[str]:
        """Returns the jobs that have run records, sorted."""
        names = self._storage.folders("runs")
        return [name.removeprefix("job=") for name in names if name.startswith("job=")]

    def days(self, job: str) -> list[str]:
        """Returns the days that have run records, sorted."""
        names = self._storage.folders(f"runs/job={job}")
        return [name.removeprefix("ds=") for name in names if name.startswith("ds=")]

    def exists(self, job: str, ds: str, run_id: str) -> bool:
        return self._storage.head(self.key(job, ds, run_id)) is not None

    def read(self, job: str, ds: str, run_id: str) -> RunRecord:
        """Returns the record of a run. Raises UsageError if there is none, LakeDamaged if it cannot be read."""
        key = self.key(job, ds, run_id)
        record = self._read(key)
        if record is None:
            raise UsageError(f"no run is called {run_id!r}", where=self._storage.where(key))
        return record

    def find(self, run_id: str) -> RunRecord:
        """Returns the record of a run of any job and day. Raises UsageError if there is none."""
        check_name(run_id, "run id")
        for job in self.jobs():
            for ds in reversed(self.days(job)):
                if self.exists(job, ds, run_id):
                    return self.read(job, ds, run_id)
        where = self._storage.where("runs")
        raise UsageError(f"no run is called {run_id!r}", where=where, next_step="lakescore runs lists them")

    def newest_id(self, job: str, ds: str) -> str:
        """Returns the id of a day's newest run, or an empty string."""
        return max(self.ids(job, ds), default="")

    def ids(self, job: str, ds: str) -> list[str]:
        """Returns the ids of a day's runs, oldest first. Reads no record."""
        names = [file.path.rpartition("/")[2] for file in self._storage.files(_folder(job, ds))]
        return sorted(name.removesuffix(".json") for name in names if name.endswith(".json"))

    def iter_day(self, job: str, ds: str) -> Iterator[RunRecord]:
        """Yields the runs of a day, newest first; reads each record only when it is reached."""
        for file in reversed(self._storage.files(_folder(job, ds))):
            if file.path.endswith(".json") and (record := self._read(file.path)) is not None:
                yield record

    def of_day(self, job: str, ds: str) -> list[RunRecord]:
        """Returns the runs of a day, newest first."""
        return list(self.iter_day(job, ds))

    def last_complete(self, job: str, ds: str) -> RunRecord | None:
        """Returns the complete run of a day that finished last, or None."""
        return next(iter(self.complete(self.of_day(job, ds))), None)

    @staticmethod
    def complete(records: Iterable[RunRecord]) -> list[RunRecord]:
        """Returns the complete runs among these, the one that finished last first."""
        found = [record for record in records if record.state is State.complete]
        return sorted(found, key=lambda record: record.finished_at or record.started_at, reverse=True)

    # Changing

    def create(self, record: RunRecord) -> None:
        """Stores the record of a new run. Raises CommitConflict if a run with its id exists already."""
        key = self.key(record.job, record.ds, record.run_id)
        if not self._storage.update(key, record.to_json(), None):
            where = self._storage.where(key)
            raise CommitConflict(f"run {record.run_id} already has a record", where=where, next_step="run again")

    def change(self, record: RunRecord, change: Callable[[RunRecord], RunRecord]) -> RunRecord:
        """Applies a change to the stored record of a run, and returns the record as stored afterwards.

        `change` is given the stored record, which may be newer than `record`, and is called again if another process
        stores a newer one first. A change that leaves the record as it is writes nothing. Raises RunEnded if the new
        state may not follow the stored one, CommitConflict if other processes keep changing the record.
        """
        key = self.key(record.job, record.ds, record.run_id)
        for _ in range(TRIES):
            seen = self._storage.head(key)  # before reading the record, which is then at least as new
            stored = self.read(record.job, record.ds, record.run_id)
            changed = change(stored)
            if changed == stored:
                return stored
            if changed.state not in NEXT[stored.state]:
                raise RunEnded(
                    f"run {record.run_id} of {record.ds} has ended as {stored.state}; it cannot become {changed.state}",
                    where=self._storage.where(key),
                    next_step="run again: a new run scores the rows without a prediction",
                )
            try:
                if self._storage.update(key, changed.to_json(), seen):
                    return changed
            except CommitUnknown:
                continue  # the next iteration finds out whether it was written
        raise CommitConflict(f"the record of run {record.run_id} keeps changing", where=self._storage.where(key))

    def add(self, record: RunRecord, addition: Addition) -> RunRecord:
        """Adds the results of a stage to the stored record of its run. Raises the same errors as `change`."""
        return self.change(record, addition.applied_to)

    def end(
        self,
        record: RunRecord,
        state: State,
        error: str,
        checks: tuple[CheckResult, ...] = (),
        *,
        stage: str | None = None,
        peak_memory_bytes: int = 0,
    ) -> RunRecord:
        """Ends a run in a stage without a commit, and returns its stored record.

        A run that has already ended is not changed.
        """

        def ended(stored: RunRecord) -> RunRecord:
            if stored.state not in OPEN:
                return stored
            return stored.with_(
                state=state,
                error=error,
                ended_in=stage,
                checks=checks or stored.checks,
                finished_at=now(),
                peak_memory_bytes=max(stored.peak_memory_bytes, peak_memory_bytes),
            )

        return self.change(record, ended)

    def _read(self, key: str) -> RunRecord | None:
        content = self._storage.read(key)
        if content is None:
            return None
        record = (_kept if len(content) <= KEPT_BYTES else parse)(content, self._storage.where(key))
        if (place := self.key(record.job, record.ds, record.run_id)) != key:
            raise LakeDamaged(
                "a run record does not lie in its place",
                where=self._storage.where(key),
                expected=self._storage.where(place),
                next_step="move it there if it is missing there, else out of runs/",
            )
        return record


def parse(content: bytes, where: str) -> RunRecord:
    """Reads the text of a run record; fields that a later version of Lakescore has added to the format are ignored.

    Raises LakeDamaged if the format is unknown, or the text is not a run record.
    """
    try:
        record = RunRecord.model_validate_json(content)
    except ValidationError as error:
        _check_format(content, where)  # of another one, any field may be invalid
        problem = error.errors(include_url=False)[0]  # in pydantic's words, as the record is not hand-written
        place = ".".join(map(str, problem["loc"])) or "the whole file"
        raise _damaged(problem["msg"], f"{where}, {place}") from None
    if record.format != RECORD_FORMAT:
        _check_format(content, where)
    return record


def _check_format(content: bytes, where: str) -> None:
    try:
        document = json.loads(content)
    except ValueError as error:
        raise _damaged(str(error), f"{where}, the whole file") from None
    found = document.get("format", RECORD_FORMAT) if isinstance(document, dict) else RECORD_FORMAT
    if found != RECORD_FORMAT:
        raise LakeDamaged(
            "a run record has an unknown format",
            where=where,
            expected=RECORD_FORMAT,
            got=repr(found),
            next_step="use the version of Lakescore that wrote it",
        )


_kept = lru_cache(KEPT)(parse)
"""`parse`, which returns the same value for the same text: each day of a backfill reads the records of days before."""


def _damaged(problem: str, where: str) -> LakeDamaged:
    return LakeDamaged(
        f"a run record cannot be read: {problem}",
        where=where,
        next_step="restore it, or move it out of runs/: the predictions do not depend on it",
    )


def _folder(job: str, ds: str) -> str:
    return f"runs/job={job}/ds={ds}"
