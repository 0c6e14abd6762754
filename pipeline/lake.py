"""Where everything lies in a lake, and how to find it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pydantic import ValidationError

from pipeline.errors import LakeDamaged, StorageError, UsageError
from pipeline.records import DAY, FileInfo, RunRecord, State, check_day, check_name, is_day
from pipeline.storage import LocalStorage, Storage, open_storage

LAKE_FORMAT = 1
MARKER = "lakescore.json"
PART = re.compile(r"part-(\d{8})\.parquet")


@dataclass(frozen=True)
class Partition:
    """The predictions of one job, day and model version: the unit that commits."""

    job: str
    ds: str
    version: str

    @property
    def folder(self) -> str:
        return f"predictions/job={self.job}/ds={self.ds}/model_version={self.version}"

    @property
    def success(self) -> str:
        return f"{self.folder}/_SUCCESS"

    def part(self, number: int) -> str:
        return f"{self.folder}/part-{number:08d}.parquet"


class Lake:
    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    @property
    def workspace(self) -> LocalStorage:
        """The disk on which runs stage: of a lake on a disk, the lake itself."""
        return self.storage.workspace

    @classmethod
    def open(cls, root: str) -> Lake:
        """Opens a lake, which may be empty. Raises LakeDamaged if a later version of Lakescore wrote it."""
        if not root.removeprefix("file://"):
            raise UsageError("the lake's root is empty", expected="a folder", next_step="is a shell variable not set?")
        lake = cls(open_storage(root))
        marker = lake.storage.read(MARKER)
        if marker is not None and (found := _format_of(marker)) != LAKE_FORMAT:
            raise LakeDamaged(
                "this lake has another format",
                where=lake.storage.where(MARKER),
                expected=LAKE_FORMAT,
                got=found,
                next_step="use the version of Lakescore that wrote it",
            )
        return lake

    @property
    def is_local(self) -> bool:
        return self.workspace is self.storage

    def prepare(self) -> None:
        """Makes the lake writable by us; on first use probes that the storage keeps the protocol's promise."""
        if self.storage.head(MARKER) is None:
            self.storage.probe()
            self.storage.write(MARKER, json.dumps({"format": LAKE_FORMAT}).encode() + b"\n")

    # Input

    def input_files(self, patterns: dict[str, str], ds: str) -> dict[str, tuple[FileInfo, ...]]:
        """Returns the files of each source for a day."""
        check_day(ds)
        return {name: tuple(self.storage.glob(pattern.replace("{ds}", ds))) for name, pattern in patterns.items()}

    def input_days(self, patterns: Iterable[str]) -> list[str]:
        """Returns the days for which there is any input, sorted."""
        days = set()
        for pattern in patterns:
            if "{ds}" not in pattern:
                continue
            before = self.storage.where(pattern.split("{ds}")[0] + "x").removesuffix("x")
            for file in self.storage.glob(pattern.replace("{ds}", "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]")):
                where = self.storage.where(file.path)
                match = DAY.search(where, min(len(_fixed(before)), len(where)))
                if match and is_day(match.group()):
                    days.add(match.group())
        return sorted(days)

    # Predictions

    def parts(self, partition: Partition) -> tuple[FileInfo, ...]:
        """Returns the part files in order, without a gap.

        A listing of a busy folder may miss a name; each number below the highest is looked up by name then.
        Raises LakeDamaged if one is not there at all.
        """
        found: dict[int, FileInfo] = {}
        for file in self.storage.files(partition.folder):
            match = PART.fullmatch(file.path.removeprefix(f"{partition.folder}/"))
            if match is not None:
                found[int(match.group(1))] = file
        for number in range(max(found, default=-1)):
            if number not in found:
                info = self.storage.head(partition.part(number))
                if info is None:
                    raise LakeDamaged(
                        "a part file is missing from the sequence",
                        where=self.storage.where(partition.part(number)),
                        next_step="restore it from a backup; a part is never removed by Lakescore",
                    )
                found[number] = info
        return tuple(found[number] for number in sorted(found))

    def versions(self, job: str, ds: str) -> list[str]:
        names = self.storage.folders(f"predictions/job={job}/ds={ds}")
        return [name.removeprefix("model_version=") for name in names if name.startswith("model_version=")]

    def prediction_days(self, job: str) -> list[str]:
        return self._days(f"predictions/job={job}")

    def run_days(self, job: str) -> list[str]:
        return self._days(f"runs/job={job}")

    def _days(self, folder: str) -> list[str]:
        names = self.storage.folders(folder)
        return [name.removeprefix("ds=") for name in names if name.startswith("ds=")]

    def quarantine_files(self, job: str, ds: str) -> tuple[FileInfo, ...]:
        return tuple(self.storage.files(f"quarantine/job={job}/ds={ds}"))

    # Run records

    def record_key(self, job: str, ds: str, run_id: str) -> str:
        return f"runs/job={job}/ds={ds}/{check_name(run_id, 'run id')}.json"

    def write_record(self, record: RunRecord) -> None:
        self.storage.write(
            self.record_key(record.job, record.ds, record.run_id), record.model_dump_json(indent=1).encode() + b"\n"
        )

    def newest_run(self, job: str, ds: str) -> str:
        """Returns the id of a day's newest run, or an empty string."""
        names = [file.path.rpartition("/")[2] for file in self.storage.files(f"runs/job={job}/ds={ds}")]
        return max((name.removesuffix(".json") for name in names if name.endswith(".json")), default="")

    def read_record(self, job: str, ds: str, run_id: str) -> RunRecord:
        """Raises UsageError if there is no such run, LakeDamaged if its record cannot be read."""
        key = self.record_key(job, ds, run_id)
        record = self._read_record(key)
        if record is None:
            raise UsageError(f"no run is called {run_id!r}", where=self.storage.where(key))
        return record

    def find_record(self, run_id: str) -> RunRecord:
        """Returns the record of a run of any job and day. Raises UsageError if there is none."""
        check_name(run_id, "run id")
        for folder in self.storage.folders("runs"):
            job = folder.removeprefix("job=")
            for ds in reversed(self.run_days(job)):
                if self.storage.head(self.record_key(job, ds, run_id)) is not None:
                    return self.read_record(job, ds, run_id)
        raise UsageError(f"no run is called {run_id!r}", where=self.storage.where("runs"), next_step="lakescore status")

    def iter_records(self, job: str, ds: str) -> Iterator[RunRecord]:
        """Yields the runs of a day, newest first, each read when it is asked for."""
        for file in reversed(self.storage.files(f"runs/job={job}/ds={ds}")):
            if file.path.endswith(".json") and (record := self._read_record(file.path)) is not None:
                yield record

    def records(self, job: str, ds: str) -> list[RunRecord]:
        """Returns the runs of a day, newest first."""
        return list(self.iter_records(job, ds))

    def last_complete(self, job: str, ds: str) -> RunRecord | None:
        complete = [record for record in self.records(job, ds) if record.state is State.complete]
        return max(complete, key=lambda record: record.finished_at or record.started_at, default=None)

    def _read_record(self, key: str) -> RunRecord | None:
        content = self.storage.read(key)
        if content is None:
            return None
        try:
            return RunRecord.model_validate_json(content)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            raise LakeDamaged(
                f"a run record cannot be read: {problem['msg']}",
                where=f"{self.storage.where(key)}, {'.'.join(map(str, problem['loc'])) or 'the whole file'}",
                next_step="restore it, or move it out of runs/: the predictions themselves do not need it",
            ) from None


def _format_of(marker: bytes) -> object:
    try:
        return json.loads(marker)["format"]
    except (ValueError, KeyError, TypeError):
        raise StorageError(f"{MARKER} is not ours", got=repr(marker[:60])) from None


def _fixed(prefix: str) -> str:
    """Returns the part of a path before its first wildcard."""
    return re.split(r"[*?\[]", prefix)[0]
