"""Delivery records: what was sent to which target, one JSON file per run and target.

    deliveries/job=<job>/ds=<ds>/<run_id>.<target>.json

The record is written before anything leaves the lake, so that a crash is seen. Only this module changes one, by
compare-and-swap on what was read; `NEXT` says which states may follow which.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import ValidationError

from pipeline.errors import CommitConflict, CommitUnknown, LakeDamaged
from pipeline.job.targets import Target
from pipeline.lake.layout import Lake
from pipeline.lake.record_store import TRIES
from pipeline.records import Ds, ModelRef, Name, RunRecord, Stored, now

FORMAT = 1
THREADS = 8


class DeliveryState(StrEnum):
    delivering = "delivering"
    """Has begun; after a crash, what has left the lake is unknown. The next attempt begins again."""
    delivered = "delivered"
    failed = "failed"
    """Is tried again by the next run of the period, or by `lakescore publish`."""
    held = "held"
    """Of an older period than one that was delivered: sent only if a person asks for it."""
    superseded = "superseded"
    """Another run of the period was delivered or is current, or an older period was sent on demand in its place."""
    withdrawn = "withdrawn"
    """The run was rolled back after the delivery."""


NEXT: dict[DeliveryState, frozenset[DeliveryState]] = {
    **{state: frozenset(DeliveryState) for state in DeliveryState},
    DeliveryState.withdrawn: frozenset({DeliveryState.withdrawn}),
}
"""The states that may follow each state; a state may follow itself. A run that was rolled back is not sent again."""


class Delivery(Stored):
    format: int = FORMAT
    job: Name
    ds: Ds
    run_id: Name
    target: Name
    kind: str
    state: DeliveryState
    model: ModelRef
    at: datetime
    """Time of the state."""
    basis: str = ""
    """The sha256 over the target's configuration and the files that were read; another basis is sent again."""
    rows: int = 0
    digest: str = ""
    """The sha256 of what was sent."""
    place: str = ""
    """Where it was sent, without secrets."""
    delivered_at: datetime | None = None
    """Time at which it was last delivered, whatever has happened since."""
    attempts: int = 0
    details: dict[str, Any] = {}
    reason: str | None = None
    """Why it is in a state other than delivered; or, in what is returned, that a newer period was delivered since."""

    @property
    def is_out(self) -> bool:
        """Whether the target has it, or had it: also if it was to be sent again, and that failed."""
        kept = (DeliveryState.delivered, DeliveryState.failed, DeliveryState.delivering)
        return self.delivered_at is not None and self.state in kept

    def with_(self, **changes: object) -> Delivery:
        return self.model_copy(update=changes)

    def to_json(self) -> bytes:
        return self.model_dump_json(indent=1).encode() + b"\n"


Change = Callable[[Delivery], Delivery]


class DeliveryStore:
    def __init__(self, lake: Lake) -> None:
        self._storage = lake.storage

    def of(self, job: str, target: str | None = None) -> list[Delivery]:
        """Returns the deliveries of a job, or of one of its targets, the one whose state is newest last."""
        return self._under(f"deliveries/job={job}", target)

    def of_run(self, record: RunRecord) -> list[Delivery]:
        """Returns the deliveries of a run, the one whose state is newest last."""
        found = self._under(_folder(record.job, record.ds), None)
        return [delivery for delivery in found if delivery.run_id == record.run_id]

    def find(self, record: RunRecord, target: str) -> Delivery | None:
        return self._read(_key(record.job, record.ds, record.run_id, target))

    def change(self, record: RunRecord, target: Target, kind: str, change: Change) -> Delivery:
        """Applies a change to the stored delivery of a run, which is `held` and empty if there is none yet.

        `change` is called again if another process stores a newer one first. A state that may not follow the stored
        one leaves it as it is. Returns what is stored afterwards. Raises CommitConflict if it keeps changing.
        """
        key = _key(record.job, record.ds, record.run_id, target.name)
        for _ in range(TRIES):
            seen = self._storage.head(key)  # before reading, which is then at least as new
            stored = self._read(key) if seen is not None else None
            base = stored or Delivery(
                job=record.job,
                ds=record.ds,
                run_id=record.run_id,
                target=target.name,
                kind=kind,
                state=DeliveryState.held,
                model=record.model,
                at=now(),
            )
            changed = change(base)
            if changed == stored or changed.state not in NEXT[base.state]:
                return base
            changed = changed.with_(at=now())
            try:
                if self._storage.update(key, changed.to_json(), seen):
                    return changed
            except CommitUnknown:
                continue  # the next iteration finds out whether it was written
        raise CommitConflict("a delivery record keeps changing", where=self._storage.where(key))

    def _under(self, folder: str, target: str | None) -> list[Delivery]:
        end = ".json" if target is None else f".{target}.json"
        keys = [file.path for file in self._storage.files(folder) if file.path.endswith(end)]
        with ThreadPoolExecutor(THREADS) as pool:
            found = [delivery for delivery in pool.map(self._read, keys) if delivery is not None]
        wanted = [delivery for delivery in found if target is None or delivery.target == target]
        return sorted(wanted, key=lambda delivery: (delivery.at, delivery.run_id, delivery.target))

    def _read(self, key: str) -> Delivery | None:
        content = self._storage.read(key)
        if content is None:
            return None
        try:
            found = Delivery.model_validate_json(content)
        except ValidationError as error:
            raise _damaged(self._storage.where(key), error.errors(include_url=False)[0]["msg"]) from None
        if found.format != FORMAT:
            raise LakeDamaged(
                "a delivery record has an unknown format",
                where=self._storage.where(key),
                expected=FORMAT,
                got=found.format,
                next_step="use the version of Lakescore that wrote it",
            )
        if _key(found.job, found.ds, found.run_id, found.target) != key:
            raise _damaged(self._storage.where(key), "it does not lie in its place")
        return found


def _damaged(where: str, problem: str) -> LakeDamaged:
    return LakeDamaged(
        f"a delivery record cannot be read: {problem}",
        where=where,
        next_step="restore it, or move it out of deliveries/: the run is then delivered again",
    )


def _folder(job: str, ds: str) -> str:
    return f"deliveries/job={job}/ds={ds}"


def _key(job: str, ds: str, run_id: str, target: str) -> str:
    return f"{_folder(job, ds)}/{run_id}.{target}.json"
