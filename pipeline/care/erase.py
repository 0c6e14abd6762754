"""Removes every trace of a key from predictions, quarantine, releases, labels, staging and rolled-back files.

Also from the tables of exports and flags, and with them the files of exports that lie in the lake: of these, a whole
export goes, and its manifest says that it is withdrawn. Files that were written elsewhere are the receivers'. Copies of
text input with the key are removed; a run makes them again.

Examples of values that validations keep do not say whose they are: all of the job go (`examples.py`).

Files keep their names and numbers; each says in its metadata how many rows were erased from it. The erasure is recorded
(`erasures.py`) before the first file is changed. The input is not changed: as long as it contains the key, the next run
scores it again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
from duckdb import ColumnExpression, ConstantExpression

from pipeline.care import erasures
from pipeline.care.erasures import MARK, ErasedFile, Erasure
from pipeline.care.examples import remove_examples, with_examples
from pipeline.care.files import clear_abandoned, metadata_of, scratch, with_rows
from pipeline.columns import KEY_TEXT, RESERVED
from pipeline.database.aligning import with_key_text
from pipeline.database.connection import as_patterns, connect, translated_errors
from pipeline.errors import CommitConflict, LakeDamaged, LakescoreError
from pipeline.explain.key_lookup import split
from pipeline.job.config import Job
from pipeline.lake.layout import PART, Lake
from pipeline.publish.manifest import withdraw_exports_of
from pipeline.records import FileInfo, RunRecord
from pipeline.storage import digest_of
from pipeline.storage.parquet import ROW_GROUP, read_metadata, read_schema

if TYPE_CHECKING:
    from duckdb import DuckDBPyRelation as Relation

IMPORTED = "imported"
"""Folder of copies of text input."""
PASSES = 5
"""Maximum number of passes over the files: in the meantime, other processes may add files with the key."""
TABLES = (
    *("predictions", "quarantine", "releases", "labels", "rolled_back/predictions", "rolled_back/quarantine"),
    *("exports", "flags", IMPORTED),
)
"""Folders of Parquet files with rows of keys."""


class _Found(NamedTuple):
    """A file with the key, and its lake: the lake itself, or the local workspace of one in an object store."""

    lake: Lake
    file: FileInfo
    noted: ErasedFile


def erase(lake: Lake, job: Job, key_text: str, *, dry_run: bool = False) -> Erasure:
    """Removes the rows of a key, written as for `explain`: values of several columns are joined by commas.

    Returns what was erased, or with `dry_run` what would be: nothing if there is no trace of the key. Can be repeated;
    a repetition finishes what was interrupted. Raises UsageError for a key with a wrong number of values, LakeDamaged
    for an unreadable file, since it may contain the key, and CommitConflict if other processes keep adding the key.
    """
    values = set(split(key_text, len(job.input.key)))
    done = erasures.begin(lake, job.name, key_text)
    if not dry_run:
        clear_abandoned(lake)
        _drop_copies_without_the_key_columns(lake, job)
    without: set[tuple[str, FileInfo]] = set()
    with scratch(lake) as folder:
        for _ in range(PASSES):
            found = list(_find(lake, job, key_text, without))
            if not found:
                break
            done = done.with_files(each.noted for each in found)
            if dry_run:
                break
            erasures.note(lake, done, key_text)  # before the first file is changed
            for each in found:
                _remove(each, job, key_text, folder)
        else:
            raise CommitConflict(
                "other processes keep adding the key", where=job.name, next_step="wait until no run is active; repeat"
            )
        examples = with_examples(lake, job.name, values, traced=bool(done.files))
        done = done.with_files(examples)
        if dry_run:
            return done
        if examples:
            erasures.note(lake, done, key_text)
        for file in examples:
            remove_examples(lake, file, folder)
    return erasures.finish(lake, done.with_files(_withdrawn(lake, job, done)), key_text)


def _find(lake: Lake, job: Job, key_text: str, without: set[tuple[str, FileInfo]]) -> Iterator[_Found]:
    """Yields the files with the key. Adds the others to `without`; those are not read again in the next pass."""
    for place in [lake] if lake.is_local else [lake, Lake(lake.workspace)]:
        for file in _candidates(place, job.name):
            if (place.storage.where(file.path), file) in without:
                continue
            rows = _count(place, file, job, key_text)
            if rows:
                where, _, name = file.path.rpartition("/")
                run = "" if where.startswith(IMPORTED) else metadata_of(place, file.path).get("run_id", "")
                yield _Found(place, file, ErasedFile(folder=where, file=name, run_id=run, rows=rows))
            else:
                without.add((place.storage.where(file.path), file))


def _candidates(lake: Lake, job: str) -> Iterator[FileInfo]:
    for top in TABLES:
        for file in lake.storage.files(f"{top}/job={job}"):
            is_part = PART.fullmatch(file.path.rpartition("/")[2])
            if file.path.endswith(".parquet") and (top != "predictions" or is_part):
                yield file
    if lake.is_local:
        for top in (f".staging/job={job}", f".rejected/job={job}"):
            yield from (file for file in lake.storage.files(top) if file.path.endswith(".parquet"))


def _count(lake: Lake, file: FileInfo, job: Job, key_text: str) -> int:
    try:
        with _rows(lake, file, job, key_text) as (of_key, _):
            return int(of_key.aggregate("count(*)").fetchall()[0][0])
    except (LakescoreError, FileNotFoundError):
        if lake.storage.head(file.path) is None:
            return 0  # removed since it was listed
        raise


def _remove(found: _Found, job: Job, key_text: str, folder: Path) -> None:
    """Removes the rows of the key from a file, unless it has changed since: then the next pass finds it again."""
    lake, file, noted = found
    if file.path.startswith(".staging/"):
        # With fewer rows, the run's ledger would not add up. Without any, the run ends, and is planned again.
        shutil.rmtree(lake.workspace.path(file.path).parent, ignore_errors=True)
        return
    if file.path.startswith(f"{IMPORTED}/"):
        lake.storage.delete(file.path)  # rewritten, it would no longer be a copy
        return
    try:
        with _rows(lake, file, job, key_text) as (_, others), others.to_arrow_reader(ROW_GROUP) as batches:
            before = int(metadata_of(lake, file.path).get(MARK, 0))
            made = with_rows(lake, file.path, folder, batches, {MARK: str(before + noted.rows)})
    except (LakescoreError, FileNotFoundError):
        if lake.storage.head(file.path) is None:
            return
        raise
    metadata = read_metadata(made)
    digest = digest_of(made)
    _note_digest(lake, file, metadata, lambda old: tuple(dict.fromkeys((*old, digest))))
    if lake.storage.update(file.path, made, file):
        _note_digest(lake, file, metadata, lambda _: (digest,))
    made.unlink()


def _note_digest(
    lake: Lake, file: FileInfo, metadata: Mapping[str, str], change: Callable[[tuple[str, ...]], tuple[str, ...]]
) -> None:
    """Changes the digests of a part file in the record of its run, if that has digests."""
    job, ds, run_id, name = (metadata.get(each, "") for each in ("job", "ds", "run_id", "staged"))
    if not file.path.startswith("predictions/") or not run_id or not lake.records.exists(job, ds, run_id):
        return

    def changed(stored: RunRecord) -> RunRecord:
        old = stored.digests.get(name)
        return stored if old is None else stored.with_(digests={**stored.digests, name: change(old)})

    lake.records.change(lake.records.read(job, ds, run_id), changed)


def _withdrawn(lake: Lake, job: Job, done: Erasure) -> Iterator[ErasedFile]:
    """Removes the files of exports that were made from the files of an erasure; yields them."""
    for file in withdraw_exports_of(lake, job.name, [file.file for file in done.files]):
        yield ErasedFile.model_validate(file)


def _drop_copies_without_the_key_columns(lake: Lake, job: Job) -> None:
    """Removes the copies of text in which a key cannot be looked up: their rows get one from the job's SELECT."""
    for file in lake.storage.files(f"{IMPORTED}/job={job.name}"):
        with lake.storage.open(file.path) as source:
            names = read_schema(source).names
        if KEY_TEXT in names or not set(job.input.key) <= set(names):
            lake.storage.delete(file.path)


@contextmanager
def _rows(lake: Lake, file: FileInfo, job: Job, key_text: str) -> Iterator[tuple[Relation, Relation]]:
    """Yields the rows of the key and the others; a row whose key is NULL is one of the others."""
    where = lake.storage.where(file.path)
    try:
        with connect() as con, translated_errors(file.path):
            lake.storage.attach(con)
            rows = con.read_parquet(as_patterns([where]), hive_partitioning=False)
            columns = [ColumnExpression(name) for name in rows.columns]
            marked = rows if KEY_TEXT in rows.columns else with_key_text(rows, job.input.key, RESERVED)
            of_key = ColumnExpression("key_text") == ConstantExpression(key_text)
            others = marked.filter(~of_key | ColumnExpression("key_text").isnull()).select(*columns)
            yield marked.filter(of_key), others
    except pa.ArrowException as error:
        raise LakeDamaged("a file cannot be read", where=where, got=str(error)) from error
