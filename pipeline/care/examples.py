"""Removes the examples of bad values that validations keep if a job sets `samples`: in the history, and on its pages.

An example does not say whose it is. So an erasure removes all of the job, if the lake has a trace of the key.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.care.erasures import ErasedFile
from pipeline.care.files import TRIES
from pipeline.errors import CommitConflict, LakeDamaged
from pipeline.lake.layout import Lake

if TYPE_CHECKING:
    from pipeline.records import FileInfo

COLUMN = "examples"


def with_examples(lake: Lake, job: str, values: set[str], *, traced: bool) -> list[ErasedFile]:
    """Returns the files of the history with examples, and how many checks have some.

    None unless another file has a trace of the key, `traced`, or the values of the key are among the examples of one.
    """
    found = []
    for file in lake.storage.files(f"quality/job={job}"):
        if file.path.endswith(".parquet") and (examples := _examples(lake, file)):
            folder, _, name = file.path.rpartition("/")
            traced = traced or values <= {text for each in examples for text in each}
            found.append(ErasedFile(folder=folder, file=name, run_id=_run_of(name), rows=len(examples)))
    return found if traced else []


def remove_examples(lake: Lake, file: ErasedFile, folder: Path) -> None:
    """Removes the examples from a file of the history and its page, which the next report makes again without them."""
    key = f"{file.folder}/{file.file}"
    for _ in range(TRIES):
        seen = lake.storage.head(key)
        if seen is None or not _examples(lake, seen):
            break
        rows = _read(lake, seen)
        at = rows.schema.get_field_index(COLUMN)
        made = folder / file.file
        pq.write_table(
            rows.set_column(at, rows.schema.field(at), pa.nulls(len(rows), rows.schema.field(at).type)), made
        )
        lake.storage.update(key, made, seen)
        made.unlink()
    else:
        raise CommitConflict("other processes keep replacing a file", where=lake.storage.where(key), next_step="repeat")
    page = file.file.removesuffix(".parquet") + ".html"
    lake.storage.delete(f"{file.folder.replace('quality/', 'quality/docs/', 1)}/{page}")


def _examples(lake: Lake, file: FileInfo) -> list[list[str]]:
    rows = _read(lake, file)
    return [each for each in rows[COLUMN].to_pylist() if each] if COLUMN in rows.column_names else []


def _read(lake: Lake, file: FileInfo) -> pa.Table:
    try:
        with lake.storage.open(file.path) as source:
            return pq.ParquetFile(source).read()
    except pa.ArrowException as error:
        where = lake.storage.where(file.path)
        raise LakeDamaged("a validation cannot be read", where=where, got=str(error)) from error


def _run_of(name: str) -> str:
    return name.rpartition("-")[0]
