"""The registry in an object store, which has no renames and no locks.

File names of a version contain the digest of their content, so that two registrations with different content never
write to the same file. `model.json` is created last, and only if absent: this makes the version appear atomically.
Aliases are changed by compare-and-swap.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import CommitConflict
from pipeline.model import baseline, golden
from pipeline.model.identity import other_content
from pipeline.model.manifest import Manifest, digest
from pipeline.model.registry import ALIASES, MANIFEST, Registry
from pipeline.records import NAME
from pipeline.storage import open_storage

TRIES = 20


def open_registry(url: str) -> Registry:
    """Opens a folder of models, or one in an object store. Raises UsageError for any other URL."""
    if "://" in url and not url.startswith("file://"):
        return RemoteRegistry(url)
    return Registry(Path(url.removeprefix("file://")))


class RemoteRegistry(Registry):
    def __init__(self, url: str) -> None:
        super().__init__(Path(url))
        self._remote, self._url = open_storage(url), url

    @property
    def url(self) -> str:
        return self._url

    def _add(self, manifest: Manifest, content: bytes, batch: bytes, profile: bytes | None) -> Manifest:
        manifest = _named_by_content(manifest, content)
        existing = self._manifest(manifest.name, manifest.version)
        if existing is None:
            folder = f"{manifest.name}/{manifest.version}"
            self._remote.write(f"{folder}/{manifest.file}", content)
            self._remote.write(f"{folder}/{self._golden_file(manifest)}", batch)
            if profile is not None:
                self._remote.write(f"{folder}/{self._baseline_file(manifest)}", profile)
            with tempfile.NamedTemporaryFile() as file:
                Path(file.name).write_bytes(manifest.to_json())
                try:
                    self._remote.create(f"{folder}/{MANIFEST}", Path(file.name))
                except FileExistsError:
                    existing = self._manifest(manifest.name, manifest.version)
        if existing is None:
            return manifest
        if existing.digest != manifest.digest:
            raise other_content(existing, manifest, self._remote.where(f"{manifest.name}/{manifest.version}"))
        self.content(existing)
        return existing

    def _golden_file(self, manifest: Manifest) -> str:
        assert manifest.golden is not None
        return f"{manifest.golden[:16]}-{golden.FILE}"

    def _baseline_file(self, manifest: Manifest) -> str:
        assert manifest.baseline is not None
        return f"{manifest.baseline[:16]}-{baseline.FILE}"

    def _point(self, name: str, alias: str, version: str) -> None:
        key = f"{name}/{ALIASES}"
        for _ in range(TRIES):
            seen = self._remote.head(key)
            aliases = {**self.aliases(name), alias: version}
            if self._remote.update(key, json.dumps(aliases, indent=1, sort_keys=True).encode() + b"\n", seen):
                return
        raise CommitConflict("other processes keep changing the aliases", where=self._remote.where(key))

    @contextmanager
    def _writing(self, _name: str) -> Iterator[None]:
        """Takes no lock: conditional writes in `_add` and `_point` detect concurrent writers."""
        yield

    def _names(self) -> list[str]:
        return [name for name in self._remote.folders("") if NAME.fullmatch(name) and self._versions(name)]

    def _versions(self, name: str) -> list[str]:
        found = [file.path.split("/") for file in self._remote.files(name)]
        return sorted(path[1] for path in found if len(path) == 3 and path[2] == MANIFEST and NAME.fullmatch(path[1]))

    def _read(self, key: str) -> bytes | None:
        return self._remote.read(key)


def _named_by_content(manifest: Manifest, content: bytes) -> Manifest:
    file = f"{hashlib.sha256(content).hexdigest()[:16]}-{manifest.file}"
    return manifest.model_copy(update={"file": file, "digest": digest({file: content}, manifest.signature)})
