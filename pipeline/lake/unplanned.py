"""The periods for which no run could be planned: an unreadable file, a missing model. Such a run has no record.

`unplanned/job=<job>/ds=<ds>.json` has the error, and which files were there. It counts until another run of the period
begins, and as long as these are the files.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from pipeline.errors import InputChanged, InputError, InputMissing, LakescoreError
from pipeline.lake import notes
from pipeline.lake.layout import Lake
from pipeline.lake.notes import Files, Note
from pipeline.lake.patterns import Pattern
from pipeline.records import RunRecord, now

log = logging.getLogger(__name__)


class Unplanned(Note):
    error: str


@contextmanager
def noted(lake: Lake, job: str, patterns: Mapping[str, Pattern], ds: str) -> Iterator[None]:
    """Notes the error with which the planning of a period fails, and raises it.

    A period without input is no failure of the lake, and changed input is planned again: neither is noted.
    """
    try:
        yield
    except (InputMissing, InputChanged):
        raise
    except LakescoreError as error:
        try:
            note = Unplanned(error=str(error), input=dict(_files(lake, patterns, ds)), at=now())
            lake.storage.write(_key(job, ds), note.model_dump_json().encode())
        except LakescoreError as second:
            log.warning("the failure of %s could not be noted: %s", ds, second.what)
        raise


def find(lake: Lake, job: str, ds: str, files: Files, newest: RunRecord | None) -> Unplanned | None:
    """Returns why no run of a period could be planned; None if a run has begun since, or the files are others."""
    found = notes.find(lake, _key(job, ds), Unplanned, files)
    since = found is not None and newest is not None and newest.started_at >= found.at
    return None if since else found


def _files(lake: Lake, patterns: Mapping[str, Pattern], ds: str) -> Files:
    try:
        return lake.input_files(patterns, ds)
    except InputError:  # it may be what is wrong
        return {}


def _key(job: str, ds: str) -> str:
    return f"unplanned/job={job}/ds={ds}.json"
