"""Notes about a period that has no run to tell: each counts as long as the period's input files are those it saw."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TypeVar

from pipeline.lake.layout import Lake
from pipeline.records import FileInfo, Stored, same_files

Files = Mapping[str, tuple[FileInfo, ...]]


class Note(Stored):
    input: dict[str, tuple[FileInfo, ...]]
    at: datetime


N = TypeVar("N", bound=Note)


def find(lake: Lake, key: str, kind: type[N], files: Files) -> N | None:
    """Returns a note; None if there is none, if it cannot be read, or if the files are others since.

    One that is foreign or damaged is written again by the next run.
    """
    content = lake.storage.read(key)
    if content is None:
        return None
    try:
        note = kind.model_validate_json(content)
    except ValueError:
        return None
    return note if same_files(note.input, files) else None
