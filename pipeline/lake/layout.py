"""The layout of a lake: the paths of its files, and finding them."""

from __future__ import annotations

import json
import re
import secrets
import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import CommitConflict, CommitUnknown, LakeDamaged, StorageError, UnreadableFile, UsageError
from pipeline.lake.patterns import Pattern
from pipeline.lake.record_store import TRIES, RecordStore
from pipeline.periods import Period
from pipeline.records import FileInfo, RunRecord
from pipeline.storage import LocalStorage, Storage, make_folder, open_storage, translated_os_errors

LAKE_FORMAT = 1
MARKER = "lakescore.json"
PROBED = ".staging/probed"
"""Folder, in the workspace, with an empty file for each machine on which the storage was probed."""
PART = re.compile(r"part-([0-9]{8})\.parquet")


@dataclass(frozen=True)
class Partition:
    """The predictions of one job, day and model version: the unit of a commit."""

    job: str
    ds: str
    version: str

    @classmethod
    def of(cls, record: RunRecord) -> Partition:
        """Returns the partition that a run brings up to date."""
        return cls(record.job, record.ds, record.model.version)

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
        self.records = RecordStore(storage)

    @property
    def workspace(self) -> LocalStorage:
        """The local disk on which runs stage their rows: the lake's own storage if the lake is on a disk."""
        return self.storage.workspace

    @classmethod
    def open(cls, root: str) -> Lake:
        """Opens a lake, which may be empty. Raises LakeDamaged if a later version of Lakescore wrote it."""
        if not root.removeprefix("file://"):
            raise UsageError(
                "the lake's root is empty", expected="a folder", next_step="check for an unset shell variable"
            )
        lake = cls(open_storage(root))
        marker = lake.storage.read(MARKER)
        if marker is not None and (found := _format_of(marker)) != LAKE_FORMAT:
            raise LakeDamaged(
                "this lake has a different format",
                where=lake.storage.where(MARKER),
                expected=LAKE_FORMAT,
                got=found,
                next_step="use the version of Lakescore that wrote it",
            )
        return lake

    @property
    def is_local(self) -> bool:
        return self.workspace is self.storage

    def exists(self) -> bool:
        """Tells whether there is a lake, or a place for one: an existing folder, or objects below the prefix."""
        if self.is_local:
            return Path(self.workspace.root).exists()
        return self.storage.head(MARKER) is not None or bool(self.storage.folders(""))

    def prepare(self) -> None:
        """Prepares the lake for writing: marks a new one, and checks the storage when a machine first writes to it.

        The same folder or bucket may refuse a taken name on one machine, and not on another with another mount.
        """
        seen = self.workspace.path(f"{PROBED}/{socket.gethostname()}")
        if not seen.exists():
            self.storage.probe()
            with translated_os_errors(seen):
                make_folder(seen.parent)
                seen.touch()
        if self.storage.head(MARKER) is None:
            self.storage.write(MARKER, json.dumps({"format": LAKE_FORMAT}).encode() + b"\n")

    def identity(self) -> str:
        """Returns an id of this lake, the same on every machine and under every path; makes it when first asked for.

        A copy of a lake has the id of its original. Raises CommitConflict if other processes keep changing the marker.
        """
        for _ in range(TRIES):
            seen = self.storage.head(MARKER)
            marker = json.loads(self.storage.read(MARKER) or json.dumps({"format": LAKE_FORMAT}))
            if isinstance(found := marker.get("id"), str):
                return found
            marker["id"] = secrets.token_hex(8)
            with suppress(CommitUnknown):  # the next iteration finds out whether it was written
                self.storage.update(MARKER, json.dumps(marker).encode() + b"\n", seen)
        raise CommitConflict("the marker of the lake keeps changing", where=self.storage.where(MARKER))

    # Input

    def input_files(self, patterns: Mapping[str, Pattern], ds: str) -> dict[str, tuple[FileInfo, ...]]:
        """Returns the files of a period by source.

        Raises UnreadableFile if a pattern also matches anything else, InputError for a file that may be of another
        period, too.
        """
        return {name: tuple(self._files_of(pattern, ds)) for name, pattern in patterns.items()}

    def _files_of(self, pattern: Pattern, ds: str) -> list[FileInfo]:
        period = Period.parse(ds, pattern.grain)
        files = self.matching(pattern.files_of(period))
        if not pattern.is_loose:
            return files
        for file in files:
            pattern.check(self.storage.where(file.path))
        of = {file: set(pattern.periods_of(self.storage.where(file.path))) for file in files}
        return [file for file in files if period in of[file] or not of[file]]

    def matching(self, pattern: str) -> list[FileInfo]:
        """Returns the files that a pattern matches. Raises UnreadableFile if it also matches anything else."""
        files, others = self.storage.glob(pattern)
        for path, what in others.items():
            raise UnreadableFile(
                "the input's pattern matches something that is not a file",
                where=self.storage.where(path),
                expected=f"files that match {pattern}",
                got=what,
                next_step="move it away, or let its name begin with _"
                + (
                    "; to read the files in it, name them in the pattern, for example by **" if "folder" in what else ""
                ),
            )
        return files

    def input_days(self, patterns: Iterable[Pattern]) -> list[str]:
        """Returns the periods that have input from any of the patterns, sorted; it may be input that cannot be read."""
        found: set[Period] = set()
        for pattern in patterns:
            matches = self.storage.glob(pattern.files()) if pattern.dated else None
            for path in (*(file.path for file in matches.files), *matches.others) if matches else ():
                found.update(pattern.periods_of(self.storage.where(path)))
        return [period.ds for period in sorted(found)]

    def imported_days(self, job: str) -> list[str]:
        """Returns the periods of which there are copies of text, sorted."""
        names = self.storage.folders(f"imported/job={job}")
        return [name.removeprefix("ds=") for name in names if name.startswith("ds=")]

    def imported_files(self, job: str, ds: str) -> tuple[FileInfo, ...]:
        return tuple(self.storage.files(f"imported/job={job}/ds={ds}"))

    # Predictions

    def parts(self, partition: Partition) -> tuple[FileInfo, ...]:
        """Returns the part files in order, without a gap.

        A listing of a busy folder may miss a name, so each missing number below the highest is looked up by name.
        Raises LakeDamaged if that part does not exist.
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
                        next_step="restore it from a backup; Lakescore never removes a part file",
                    )
                found[number] = info
        return tuple(found[number] for number in sorted(found))

    def versions(self, job: str, ds: str) -> list[str]:
        names = self.storage.folders(f"predictions/job={job}/ds={ds}")
        return [name.removeprefix("model_version=") for name in names if name.startswith("model_version=")]

    def prediction_days(self, job: str) -> list[str]:
        names = self.storage.folders(f"predictions/job={job}")
        return [name.removeprefix("ds=") for name in names if name.startswith("ds=")]

    def quarantine_files(self, job: str, ds: str) -> tuple[FileInfo, ...]:
        return tuple(self.storage.files(f"quarantine/job={job}/ds={ds}"))


def _format_of(marker: bytes) -> object:
    try:
        return json.loads(marker)["format"]
    except (ValueError, KeyError, TypeError):
        raise StorageError(f"{MARKER} is not a valid marker of a lake", got=repr(marker[:60])) from None
