"""The folder of an export, and its manifest: written last, it names each file with its digest.

    <to>/<job>/<target>/current.json                              manifest of the newest export
    <to>/<job>/<target>/<period>/<run_id>.<digest>/manifest.json  and beside it the files that it names

Files have the digest of their content in their folder's name, so that none is ever replaced by other rows. Only the two
manifests change: after a rollback they say `withdrawn`.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import JobError
from pipeline.job.targets import ExportTarget
from pipeline.lake.layout import Lake
from pipeline.records import RunRecord
from pipeline.storage import Storage, open_storage
from pipeline.storage.local import LocalStorage

FORMAT = 1
IN_LAKE = "handed_over"
MANIFEST, CURRENT = "manifest.json", "current.json"


@dataclass(frozen=True)
class Place:
    """Where the exports of a target lie."""

    storage: Storage
    prefix: str

    @classmethod
    def of(cls, lake: Lake, target: ExportTarget, job: str) -> Place:
        """Raises JobError for a place within the lake: other programs' files do not belong there."""
        if target.to is None:
            return cls(lake.storage, f"{IN_LAKE}/{job}/{target.name}")
        root = lake.storage.where("x").removesuffix("x").rstrip("/")
        if f"{target.to.rstrip('/')}/".startswith(f"{root}/") or _is_within(target.to, root):
            raise JobError(
                f"the target {target.name!r} writes into the lake",
                where="[[publish]] in job.toml",
                expected="a place outside, or no `to`: the files then go into the lake's own folder for them",
                got=target.to,
            )
        return cls(open_storage(target.to), f"{job}/{target.name}")

    def folder(self, record: RunRecord, digest: str) -> str:
        return f"{self.prefix}/{record.ds}/{record.run_id}.{digest[:12]}"

    @property
    def current(self) -> str:
        return f"{self.prefix}/{CURRENT}"

    def newest(self) -> str | None:
        """Returns the period of the current export, unless it is withdrawn; None if there is none."""
        manifest = json.loads(self.storage.read(self.current) or b"{}")
        return manifest.get("ds") if manifest.get("state") == "complete" else None

    def show(self, folder: str, manifest: dict[str, Any]) -> None:
        """Makes a finished folder visible: its manifest, then that of what is current."""
        content = _as_json(manifest)
        self.storage.write(f"{folder}/{MANIFEST}", content)
        self.storage.write(self.current, _as_json({**manifest, "folder": folder.removeprefix(f"{self.prefix}/")}))

    def withdraw_run(self, ds: str, run_id: str) -> bool:
        """Marks all exports of a run as withdrawn, also one that was not recorded. Returns whether there are any."""
        names = (file.path.rpartition("/") for file in self.storage.files(f"{self.prefix}/{ds}"))
        folders = [folder for folder, _, name in names if name == MANIFEST and f"/{run_id}." in folder]
        for folder in folders:
            self.withdraw(folder, f"run {run_id} was rolled back")
        return bool(folders)

    def withdraw(self, folder: str, why: str) -> None:
        """Marks an export as withdrawn, also as the current one if that is what it is."""
        for key in (f"{folder}/{MANIFEST}", self.current):
            content = self.storage.read(key)
            manifest = json.loads(content) if content else {"format": FORMAT}
            if key == self.current and manifest.get("folder") != folder.removeprefix(f"{self.prefix}/"):
                continue
            self.storage.write(key, _as_json({**manifest, "state": "withdrawn", "reason": why}))


def withdraw_exports_of(lake: Lake, job: str, tables: Collection[str]) -> list[dict[str, Any]]:
    """Removes the files of exports in the lake that have rows of tables, as what was removed since the last one, too.

    `tables` are names of files below `exports/`. Returns the files, as `care` records them.
    """
    wanted, removed = {name.removesuffix(".parquet") for name in tables}, []
    for file in lake.storage.files(f"{IN_LAKE}/{job}"):
        folder, _, name = file.path.rpartition("/")
        if name != MANIFEST:
            continue
        manifest = json.loads(lake.storage.read(file.path) or b"{}")
        exports = [each for each in (manifest, manifest.get("changes_since")) if each]
        if wanted.isdisjoint(f"{each['run_id']}.{manifest['target']}.{each['digest'][:12]}" for each in exports):
            continue
        Place(lake.storage, f"{IN_LAKE}/{job}/{manifest['target']}").withdraw(folder, "rows of a key were erased")
        for each in manifest["files"]:
            lake.storage.delete(f"{folder}/{each['name']}")
            removed.append({"folder": folder, "file": each["name"], "run_id": manifest["run_id"], "rows": 0})
    return removed


def _is_within(place: str, root: str) -> bool:
    if "://" in place or "://" in root:
        return False
    return Path(place).resolve().is_relative_to(Path(root).resolve())


def is_local(storage: Storage) -> bool:
    return isinstance(storage, LocalStorage)


def _as_json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n"
