"""Removes every trace of a key from what we store: predictions, quarantine, releases, staging, what was rolled back.

The files keep their names and numbers. What was done is recorded under `care/`, by file and run, without the key. The
input is not ours: while the key stands there, the next run scores it again.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
from duckdb import ColumnExpression, ConstantExpression

from pipeline import database
from pipeline.care.files import metadata_of, rewrite, scratch
from pipeline.errors import LakeDamaged
from pipeline.job import Job
from pipeline.lake import PART, Lake
from pipeline.records import new_run_id, now
from pipeline.relations import with_key_text
from pipeline.reserved import RESERVED
from pipeline.storage import Storage


@dataclass
class Erased:
    """What was done, without the key."""

    job: str
    at: str
    files: list[dict[str, Any]] = field(default_factory=list)
    """`folder`, `file`, `run_id` and `rows` of each."""

    @property
    def rows(self) -> int:
        return sum(file["rows"] for file in self.files)

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "rows": self.rows}


def erase(lake: Lake, job: Job, key_text: str) -> Erased:
    """Removes the rows of a key, written as `explain` takes it: several columns joined by commas.

    Can be repeated. Raises LakeDamaged for a file that cannot be read: whether the key stands in it nobody knows.
    """
    done = Erased(job.name, now().isoformat())
    with scratch(lake) as folder:
        for part in _candidates(lake, job.name):
            if rows := _erase(lake, part, job, key_text, folder):
                run = metadata_of(lake, part).get(b"lakescore.run_id", b"").decode()
                place, _, name = part.rpartition("/")
                done.files.append({"folder": place, "file": name, "run_id": run, "rows": rows})
        if not lake.is_local:
            disk = Lake(lake.workspace)
            for path in _staged(disk.storage, job.name):
                if rows := _erase(disk, path, job, key_text, folder):
                    done.files.append(
                        {"folder": "staging", "file": path.rpartition("/")[2], "run_id": "", "rows": rows}
                    )
    if done.files:
        lake.storage.write(f"care/erased-{new_run_id()}.json", json.dumps(done.as_dict(), indent=1).encode() + b"\n")
    return done


def erased_rows(lake: Lake) -> dict[tuple[str, str], int]:
    """Returns the rows that were erased from the parts of a partition's folder, by folder and run."""
    found: Counter[tuple[str, str]] = Counter()
    for file in lake.storage.files("care"):
        for each in json.loads(lake.storage.read(file.path) or b"{}").get("files", []):
            found[each["folder"], each["run_id"]] += each["rows"]
    return dict(found)


def _candidates(lake: Lake, job: str) -> Iterator[str]:
    for top in ("predictions", "quarantine", "releases", "labels", "rolled_back/predictions", "rolled_back/quarantine"):
        for file in lake.storage.files(f"{top}/job={job}"):
            if file.path.endswith(".parquet") and (
                top != "predictions" or PART.fullmatch(file.path.rpartition("/")[2])
            ):
                yield file.path
    if lake.is_local:
        yield from _staged(lake.storage, job)


def _staged(storage: Storage, job: str) -> Iterator[str]:
    for top in (".staging", ".rejected"):
        for file in storage.files(f"{top}/job={job}"):
            if file.path.endswith(".parquet"):
                yield file.path


def _erase(lake: Lake, path: str, job: Job, key_text: str, folder: Any) -> int:
    """Rewrites a file without the rows of the key; returns how many there were."""
    try:
        with database.connection() as con, database.explained(path):
            lake.storage.attach(con)
            rows = con.read_parquet([lake.storage.where(path)], hive_partitioning=False)
            columns = [ColumnExpression(name) for name in rows.columns]
            marked = with_key_text(rows, job.input.key, RESERVED)
            of_key = ColumnExpression("key_text") == ConstantExpression(key_text)
            count = int(marked.filter(of_key).aggregate("count(*)").fetchall()[0][0])
            if count:
                others = marked.filter(~of_key | ColumnExpression("key_text").isnull()).select(*columns)
                with others.to_arrow_reader(122_880) as batches:
                    rewrite(lake, path, folder, batches)
    except pa.ArrowException as error:
        raise LakeDamaged("a file cannot be read", where=lake.storage.where(path), got=str(error)) from error
    return count
