"""Finds what a crashed run had staged, and tells whether another run can use it."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.context import Context
from pipeline.records import RunRecord
from pipeline.staging.folders import shared_staging_folder, staged_files, staging_folder
from pipeline.staging.writer import file_metadata
from pipeline.storage import make_folder
from pipeline.storage.parquet import read_metadata

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)

LEFT = "left-"
"""Prefix of links to another run's staged files, while this run reads what it can adopt."""


def left_behind(ctx: Context, record: RunRecord) -> Iterator[list[Path]]:
    """Returns the scored files of each other run of the same partition, model and job, newest run first.

    The paths are hard links of this run: the other run may end, and remove its files, while they are read.
    """
    own = ctx.lake.workspace.path(staging_folder(record))
    runs = [run for run in ctx.lake.workspace.folders(shared_staging_folder(record)) if run != record.run_id]
    return linked(own, ((run, staged_files(ctx, record.with_(run_id=run), "scored")) for run in reversed(runs)))


def linked(own: Path, left: Iterable[tuple[str, Sequence[Path]]]) -> Iterator[list[Path]]:
    """Yields hard links, in the folder `own`, of the files of each run, while they are read."""
    token = secrets.token_hex(4)  # two processes may run the same stage
    for run, paths in left:
        links = []
        for path in paths:
            make_folder(own)
            link = own / f"{LEFT}{token}-{run}-{path.name}"
            with suppress(FileNotFoundError, FileExistsError):  # removed since it was listed; linked before
                os.link(path, link)
            if link.exists():
                links.append(link)
        if links:
            yield links
        for link in links:
            link.unlink(missing_ok=True)


def is_trustworthy(path: Path, record: RunRecord, schema: pa.Schema) -> bool:
    """Tells whether a file is complete, of this model, job and day, and has the columns `schema`. Reads every page."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    own = file_metadata(record)
    try:
        found = read_metadata(path)
        if any(found.get(name) != own[name] for name in own if name != "run_id"):
            return False
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            if not file.schema_arrow.equals(schema):
                return False
            for _ in file.iter_batches():
                pass
    except (pa.ArrowException, OSError) as error:
        log.warning("staged file cannot be read, and is not adopted: %s (%s)", path, error)
        return False
    return True
