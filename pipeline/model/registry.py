"""The models of a folder: `<name>/<version>/model.json` beside the model's file, and `<name>/aliases.json`.

A name and version stand for one digest for ever. A version appears whole or not at all, by one rename; an alias is the
only thing that changes, by replacing a file. Readers take no lock; writers of one model take turns.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from pipeline.errors import ModelError, ModelMismatch, ModelNotFound, ModelRefused, UsageError, nearest
from pipeline.job_tables import Precision
from pipeline.model import baseline, golden, kinds
from pipeline.model.card import Card
from pipeline.model.manifest import Manifest, digest, parse, problem
from pipeline.records import NAME, Name, check_name, now
from pipeline.storage import LocalStorage, explained, make_folder, sync_folder

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.model.predictor import Predictor

PRODUCTION = "production"
MANIFEST = "model.json"
ALIASES = "aliases.json"
RESTORE = "put the registered file back, or register the model under a new version"
_ALIASES = TypeAdapter(dict[Name, Name])


class Registry:
    def __init__(self, root: Path) -> None:
        self.root = root
        self._storage = LocalStorage(root)

    # Reading

    def resolve(self, name: str, version_or_alias: str) -> Manifest:
        """Raises ModelNotFound, naming what there is, and ModelError for a damaged `model.json`."""
        check_name(version_or_alias, "version")
        aliases = self.aliases(name)
        manifest = self._manifest(name, aliases.get(version_or_alias, version_or_alias))
        if manifest is None:
            raise self._not_found(name, version_or_alias, aliases)
        return manifest

    def manifests(self, name: str | None = None) -> list[Manifest]:
        """Returns the registered versions of a model, or of all, by name and then oldest first."""
        found = [
            manifest
            for each in (self._names() if name is None else [check_name(name, "model")])
            for version in self._versions(each)
            if (manifest := self._manifest(each, version)) is not None
        ]
        return sorted(found, key=lambda manifest: (manifest.name, manifest.registered_at))

    def aliases(self, name: str) -> dict[str, str]:
        """Returns the version that each alias of a model stands for."""
        key = f"{check_name(name, 'model')}/{ALIASES}"
        content = self._read(key)
        try:
            return {} if content is None else _ALIASES.validate_json(content)
        except ValidationError as error:
            what, got = problem(error)
            raise ModelError(
                f"{ALIASES} cannot be read: {what}",
                where=self.root / key,
                expected='a JSON object such as {"production": "v1"}',
                got=got,
                next_step="correct it, or remove it and promote again",
            ) from None

    def content(self, manifest: Manifest) -> bytes:
        """Returns the model's file. Raises ModelMismatch if it, or the signature, is not what was registered."""
        folder = self.root / manifest.name / manifest.version
        content = self._read(f"{manifest.name}/{manifest.version}/{manifest.file}")
        if content is None:
            raise ModelMismatch(f"the model's file {manifest.file} is not there", where=folder, next_step=RESTORE)
        if (actual := digest({manifest.file: content}, manifest.signature)) != manifest.digest:
            raise ModelMismatch(
                f"model {manifest.name} {manifest.version} is not what was registered: its digest differs",
                where=folder,
                expected=manifest.digest,
                got=actual,
                next_step=RESTORE,
            )
        return content

    def load(
        self,
        manifest: Manifest,
        device: str = "auto",
        trusted: str | None = None,
        *,
        precision: Precision = "float32",
        compiled: bool = False,
    ) -> Predictor:
        """Returns the model, ready to score. `trusted` is the digest of a model whose file's code may be run.

        Raises ModelMismatch as `content` does, ModelRefused for code without trust, and what `Predictor` raises.
        """
        from pipeline.model.predictor import Predictor

        check_trusted(manifest, trusted)
        content = self.content(manifest)
        where = self.root / manifest.name / manifest.version / manifest.file
        module = kinds.module(manifest.kind, content, where, manifest.signature)
        return Predictor(module, manifest.signature, device, precision=precision, compiled=compiled)

    def golden(self, manifest: Manifest) -> bytes | None:
        """Returns `golden.parquet`, or None if there is none. Raises ModelMismatch if it was changed."""
        if manifest.golden is None:
            return None
        return self._unchanged(manifest, self._golden_file(manifest), manifest.golden, "golden batch")

    def baseline(self, manifest: Manifest) -> bytes | None:
        """Returns `baseline.parquet`, or None if there is none. Raises ModelMismatch if it was changed."""
        if manifest.baseline is None:
            return None
        return self._unchanged(manifest, self._baseline_file(manifest), manifest.baseline, "baseline")

    def _unchanged(self, manifest: Manifest, file: str, digest: str, what: str) -> bytes:
        """Returns the content of a model's file. Raises ModelMismatch if it has not the digest of its registration."""
        content = self._read(f"{manifest.name}/{manifest.version}/{file}")
        if content is None or hashlib.sha256(content).hexdigest() != digest:
            raise ModelMismatch(
                f"the {what} of {manifest.name} {manifest.version} is not what was registered",
                where=self.root / manifest.name / manifest.version / file,
                got="another file" if content else "no file",
                next_step=RESTORE,
            )
        return content

    # Writing

    def register(  # noqa: PLR0913 -- what a model may come with
        self,
        checkpoint: Path,
        *,
        name: str,
        version: str,
        features: Sequence[str] | None,
        classes: Sequence[str | int] | None = None,
        alias: str | None = None,
        examples: pa.Table | None = None,
        training: Path | None = None,
        card: Card = Card(),  # noqa: B008 -- frozen
    ) -> Manifest:
        """Copies a model into the registry; the same content again changes nothing and succeeds.

        `features` are in the order of the model's training; None takes those that the file lists. `classes` likewise,
        and are 0, 1, ... if the file lists none. `examples` are rows for the golden batch: the features and, if the
        training code gave them, its `prob_class_<i>`, which the model must reproduce. `training` is a Parquet or CSV
        file of training rows, whose profile is kept. `card` holds the rest. Nothing is written if anything is wrong:
        raises ModelRefused for the file, or for a version that names other content; UsageError for a name or an absent
        file.
        """
        self._check_names(name, version, alias)
        content = kinds.read_file(checkpoint)
        found = kinds.inspect(content, checkpoint, card.signature.get("architecture"), trusted=card.trusted)
        signature = found.signature(features, classes, checkpoint, card.signature)
        file = kinds.FILES[found.kind]
        module = kinds.module(found.kind, content, checkpoint, signature)
        batch = golden.make(module, signature, examples, checkpoint)
        profile = None if training is None else baseline.make(module, signature, training)
        manifest = Manifest(
            name=name,
            version=version,
            digest=digest({file: content}, signature),
            file=file,
            kind=found.kind,
            signature=signature,
            recorded_version=found.version,
            golden=hashlib.sha256(batch).hexdigest(),
            baseline=None if profile is None else hashlib.sha256(profile).hexdigest(),
            metrics=dict(card.metrics),
            provenance=card.provenance(checkpoint, found.written_by),
            registered_at=now(),
        )
        with self._writing(name):
            self._check_apart(name, version=version, alias=alias)
            registered = self._add(manifest, content, batch, profile)
            if profile is not None and registered.baseline is None:
                raise ModelRefused(
                    f"{name} {version} was registered without training data, for ever",
                    where=self.root / name / version,
                    next_step="register it under a new version",
                )
            if alias is not None:
                self._point(name, alias, version)
        return registered

    def promote(self, name: str, version: str, alias: str = PRODUCTION) -> None:
        """Lets an alias stand for a version, given by its own name or that of another alias.

        Raises ModelNotFound if there is no such version, UsageError for an alias that is a version's name.
        """
        check_name(alias, "alias")
        manifest = self.resolve(name, version)
        with self._writing(name):
            self._check_apart(name, version=None, alias=alias)
            self._point(name, alias, manifest.version)

    def _add(self, manifest: Manifest, content: bytes, batch: bytes, profile: bytes | None) -> Manifest:
        """Enters a version, unless it is there. Raises ModelRefused if it is there with other content."""
        folder = self.root / manifest.name / manifest.version
        existing = self._manifest(manifest.name, manifest.version)
        if existing is not None:
            if existing.digest != manifest.digest:
                raise ModelRefused(
                    f"{manifest.name} {manifest.version} names other content already, for ever",
                    where=folder,
                    expected=existing.digest,
                    got=manifest.digest,
                    next_step="register it under a new version",
                )
            self.content(existing)
            return existing
        if folder.exists():
            raise ModelRefused("something that is not a model lies there", where=folder, next_step="move it away")
        building = f"{manifest.name}/.{manifest.version}.{secrets.token_hex(4)}.tmp"
        try:
            self._storage.write(f"{building}/{manifest.file}", content)
            self._storage.write(f"{building}/{self._golden_file(manifest)}", batch)
            if profile is not None:
                self._storage.write(f"{building}/{self._baseline_file(manifest)}", profile)
            self._storage.write(f"{building}/{MANIFEST}", manifest.to_json())
            (self.root / building).rename(folder)
        finally:
            shutil.rmtree(self.root / building, ignore_errors=True)
        sync_folder(folder.parent)
        return manifest

    def _golden_file(self, _manifest: Manifest) -> str:
        return golden.FILE

    def _baseline_file(self, _manifest: Manifest) -> str:
        return baseline.FILE

    def _point(self, name: str, alias: str, version: str) -> None:
        aliases = {**self.aliases(name), alias: version}
        self._storage.write(f"{name}/{ALIASES}", json.dumps(aliases, indent=1, sort_keys=True).encode() + b"\n")

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        """Lets one process at a time write to a model, and clears what one that crashed left half built."""
        folder = self.root / name
        with explained(folder):
            make_folder(folder)
            with (folder / ".lock").open("ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # released with the file, also by a crash
                for left in folder.glob(".*.tmp"):
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
                yield

    def _check_names(self, name: str, version: str, alias: str | None) -> None:
        check_name(name, "model")
        check_name(version, "version")
        if alias is not None:
            check_name(alias, "alias")
        if version in (ALIASES, alias):
            raise UsageError(f"a version cannot be called {version!r}: that is the name of something else")
        if (folder := self.root / name).exists() and not folder.is_dir():
            raise UsageError(f"a model cannot be called {name!r}: a file lies there", where=folder)

    def _check_apart(self, name: str, *, version: str | None, alias: str | None) -> None:
        """Raises UsageError if one name would be both a version and an alias."""
        aliases, versions = self.aliases(name), self._versions(name)
        if version in aliases or alias in versions:
            both, kind = (version, "an alias") if version in aliases else (alias, "a version")
            raise UsageError(
                f"{both!r} is {kind} of {name} already",
                where=self.root / name,
                expected=f"a name other than the versions {_listed(versions)} and the aliases {_listed(aliases)}",
                next_step="choose another name",
            )

    # What is there

    def _names(self) -> list[str]:
        return [name for name in self._storage.folders("") if NAME.fullmatch(name) and self._versions(name)]

    def _versions(self, name: str) -> list[str]:
        """Returns the complete versions; what is being built starts with a dot."""
        if not (self.root / name).is_dir():
            return []
        folders = self._storage.folders(name)
        return [each for each in folders if NAME.fullmatch(each) and (self.root / name / each / MANIFEST).is_file()]

    def _manifest(self, name: str, version: str) -> Manifest | None:
        key = f"{name}/{version}/{MANIFEST}"
        content = self._read(key)
        if content is None:
            return None
        manifest = parse(content, self.root / key)
        if (manifest.name, manifest.version) != (name, version):
            raise ModelError(
                "model.json is that of another model: `name` and `version` are not those of its folder",
                where=self.root / key,
                expected=f"{name} {version}",
                got=f"{manifest.name} {manifest.version}",
                next_step="move the folder back; a copy is registered, not made by hand",
            )
        return manifest

    def _read(self, key: str) -> bytes | None:
        path = self.root / key
        with explained(path):
            return path.read_bytes() if path.is_file() else None

    def _not_found(self, name: str, wanted: str, aliases: dict[str, str]) -> ModelNotFound:
        if versions := self._versions(name):
            shown = [*versions, *(f"{alias} (alias of {version})" for alias, version in aliases.items())]
            dangling = f" (it stands for {aliases[wanted]}, which is not there)" if wanted in aliases else ""
            return ModelNotFound(
                f"model {name} has no version or alias {wanted!r}{dangling or nearest(wanted, [*versions, *aliases])}",
                where=self.root / name,
                expected=_listed(shown),
                next_step=f"lakescore models promote {name} VERSION --alias {wanted}, or name one of these",
            )
        names = self._names()
        return ModelNotFound(
            f"no model is called {name!r}{nearest(name, names)}",
            where=self.root,
            expected=_listed(names),
            next_step=f"lakescore models register CHECKPOINT --name {name} --version v1 --features ...",
        )


def check_trusted(manifest: Manifest, trusted: str | None) -> None:
    """Raises ModelRefused if the model's file holds code and `trusted` is not the model's digest."""
    if manifest.kind == "pickled" and trusted != manifest.digest:
        raise ModelRefused(
            f"the file of model {manifest.name} {manifest.version} holds code, which is run only if the job trusts it",
            expected='trust_code = true and digest = "..." under [model] in job.toml',
            got=f"the model's digest is {manifest.digest}" + (f", the job's {trusted}" if trusted else ""),
            next_step="name this digest there if you trust whoever made it, or export the model with torch.export",
        )


def check_pinned(manifest: Manifest, pinned: str | None) -> None:
    """Raises ModelMismatch if a job pins another digest."""
    if pinned is not None and pinned != manifest.digest:
        raise ModelMismatch(
            f"model {manifest.name} {manifest.version} is not the one that the job pins",
            expected=pinned,
            got=manifest.digest,
            next_step="correct `digest` under [model] in job.toml, or promote the model that it names",
        )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
