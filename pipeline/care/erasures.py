"""The records of erasures, `care/erased-<id>.json`, written before the first file is changed.

Until an erasure has ended, its record holds the key, which the lake then still holds too: so an interrupted erasure is
noticed, and a repetition finds it. Afterwards the record names files and runs only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from pipeline.errors import LakeDamaged
from pipeline.lake.layout import Lake
from pipeline.records import Stored, new_run_id, now

FORMAT = 2
"""Format of a record. In format 1, which has no such field, the files do not say themselves what was erased."""
MARK = "erased"
"""Entry in the metadata of a file: the number of rows erased from it."""


class ErasedFile(Stored):
    folder: str
    file: str
    run_id: str
    rows: int


class Erasure(Stored):
    """The record of an erasure."""

    format: int = 1
    id: str = ""
    job: str
    at: datetime
    finished_at: datetime | None = None
    key: str | None = None
    """The key, until the erasure has ended."""
    files: tuple[ErasedFile, ...] = ()
    """Files in which the key was found, with the number of its rows."""

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)

    def as_dict(self) -> dict[str, Any]:
        return {**self.model_dump(mode="json", exclude={"key", "format"}), "rows": self.rows}

    def with_files(self, found: Iterable[ErasedFile]) -> Erasure:
        files = {(file.folder, file.file): file for file in (*self.files, *found)}
        return self.model_copy(update={"files": tuple(files.values())})


def begin(lake: Lake, job: str, key_text: str) -> Erasure:
    """Returns a new record, which is not stored yet, with the files of erasures of the key that were interrupted."""
    new = Erasure(format=FORMAT, id=new_run_id(), job=job, at=now())
    return new.with_files(file for each in _interrupted(lake, job, key_text) for file in each.files)


def note(lake: Lake, erasure: Erasure, key_text: str) -> None:
    """Stores the record of an erasure that goes on."""
    _write(lake, erasure.model_copy(update={"key": key_text}))


def finish(lake: Lake, erasure: Erasure, key_text: str) -> Erasure:
    """Stores that an erasure has ended, and with it those that were interrupted: no file holds the key any more."""
    for other in _interrupted(lake, erasure.job, key_text):
        if other.id != erasure.id:
            _write(lake, other.model_copy(update={"key": None, "finished_at": now()}))
    done = erasure.model_copy(update={"finished_at": now()})
    if lake.storage.head(_key(erasure)) is not None:
        _write(lake, done)
    return done


def _interrupted(lake: Lake, job: str, key_text: str) -> Iterator[Erasure]:
    return (erasure for erasure in unfinished(lake) if (erasure.job, erasure.key) == (job, key_text))


def unfinished(lake: Lake) -> Iterator[Erasure]:
    return (erasure for erasure in _all(lake) if erasure.key is not None)


def rows_by_records(lake: Lake) -> dict[tuple[str, str], int]:
    """Returns the number of rows that were erased from files that do not say so themselves, by folder and run id."""
    found: Counter[tuple[str, str]] = Counter()
    for erasure in _all(lake):
        for file in erasure.files if erasure.format == 1 else ():
            found[file.folder, file.run_id] += file.rows
    return dict(found)


def where(lake: Lake, erasure: Erasure) -> str:
    return lake.storage.where(_key(erasure))


def _all(lake: Lake) -> Iterator[Erasure]:
    for file in lake.storage.files("care"):
        if file.path.rpartition("/")[2].startswith("erased-"):
            if (content := lake.storage.read(file.path)) is None:
                continue
            try:
                yield Erasure.model_validate_json(content)
            except ValidationError as error:
                problem = error.errors(include_url=False)[0]["msg"]
                raise LakeDamaged(
                    f"the record of an erasure cannot be read: {problem}",
                    where=lake.storage.where(file.path),
                    next_step="restore it, or move it out of care/",
                ) from None


def _write(lake: Lake, erasure: Erasure) -> None:
    lake.storage.write(_key(erasure), erasure.model_dump_json(indent=1).encode() + b"\n")


def _key(erasure: Erasure) -> str:
    return f"care/erased-{erasure.id}.json"
