"""A folder of models: `<name>/<version>/model.json` beside the model's file, and `<name>/aliases.json`.

A name and version permanently identify one digest. A version appears atomically, by one rename; only aliases ever
change, by an atomic replacement of their file. Readers take no lock; writers of one model take turns.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from pipeline.errors import ModelError, ModelMismatch, ModelNotFound, ModelRefused, UsageError, nearest
from pipeline.job.config import Precision
from pipeline.model import baseline, formats, golden, scalers, unstated, user_rows
from pipeline.model.card import Card
from pipeline.model.identity import check_trusted, other_content, warn_of_other_versions
from pipeline.model.manifest import Manifest, digest, parse
from pipeline.model.trial import try_out
from pipeline.parsing import first_problem
from pipeline.records import NAME, Name, check_name, now
from pipeline.storage import LocalStorage, make_folder, sync_folder, translated_os_errors

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.model.predictor import Predictor
    from pipeline.tabular.sources import Files

PRODUCTION = "production"
MANIFEST = "model.json"
ALIASES = "aliases.json"
VERSION = re.compile(r"v?\d[\d.]*")
"""What looks like a version, and not like an alias."""
RESTORE = "put the registered file back, or register the model under a new version"
_ALIASES = TypeAdapter(dict[Name, Name])


class Registry:
    def __init__(self, root: Path) -> None:
        self.root = root
        self._storage = LocalStorage(root)

    @property
    def url(self) -> str:
        """The address by which another process opens the registry."""
        return str(self.root.absolute())

    # Reading

    def resolve(self, name: str, version_or_alias: str) -> Manifest:
        """Returns the manifest of a version or alias.

        Raises ModelNotFound, with the names that exist, and ModelError for a damaged `model.json`.
        """
        check_name(version_or_alias, "version")
        aliases = self.aliases(name)
        manifest = self._manifest(name, aliases.get(version_or_alias, version_or_alias))
        if manifest is None:
            raise self._not_found(name, version_or_alias, aliases)
        return manifest

    def manifests(self, name: str | None = None) -> list[Manifest]:
        """Returns the registered versions of one model or of all models, by name, oldest first."""
        found = [
            manifest
            for each in (self._names() if name is None else [check_name(name, "model")])
            for version in self._versions(each)
            if (manifest := self._manifest(each, version)) is not None
        ]
        return sorted(found, key=lambda manifest: (manifest.name, manifest.registered_at))

    def aliases(self, name: str) -> dict[str, str]:
        """Returns the aliases of a model and the version that each points to."""
        key = f"{check_name(name, 'model')}/{ALIASES}"
        content = self._read(key)
        try:
            return {} if content is None else _ALIASES.validate_json(content)
        except ValidationError as error:
            problem = first_problem(error, Manifest, valid=())
            raise ModelError(
                f"{ALIASES} cannot be read: {problem.what}",
                where=self.root / key,
                expected='a JSON object such as {"production": "v1"}',
                got=problem.got,
                next_step="correct it, or remove it and promote again",
            ) from None

    def content(self, manifest: Manifest) -> bytes:
        """Returns the model's file. Raises ModelMismatch if the file or the signature is not as registered."""
        folder = self.root / manifest.name / manifest.version
        content = self._read(f"{manifest.name}/{manifest.version}/{manifest.file}")
        if content is None:
            raise ModelMismatch(f"the model's file {manifest.file} is missing", where=folder, next_step=RESTORE)
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
        """Returns the model, ready to score. `trusted` is the digest of a model whose code may be run.

        Raises ModelMismatch as `content` does, ModelRefused for untrusted code, and the errors of `Predictor`.
        """
        from pipeline.model.predictor import Predictor

        check_trusted(manifest, trusted)
        content = self.content(manifest)
        where = self.root / manifest.name / manifest.version / manifest.file
        module = formats.module(manifest.kind, content, where, manifest.signature)
        warn_of_other_versions(manifest, module)
        return Predictor(module, manifest.signature, device, precision=precision, compiled=compiled)

    def golden(self, manifest: Manifest) -> bytes | None:
        """Returns the content of `golden.parquet`, or None. Raises ModelMismatch if it was changed."""
        if manifest.golden is None:
            return None
        return self._unchanged(manifest, self._golden_file(manifest), manifest.golden, "golden batch")

    def baseline(self, manifest: Manifest) -> bytes | None:
        """Returns the content of `baseline.parquet`, or None. Raises ModelMismatch if it was changed."""
        if manifest.baseline is None:
            return None
        return self._unchanged(manifest, self._baseline_file(manifest), manifest.baseline, "baseline")

    def _unchanged(self, manifest: Manifest, file: str, digest: str, what: str) -> bytes:
        """Returns the content of a file. Raises ModelMismatch if it does not have the registered digest."""
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
        examples: pa.Table | Files | None = None,
        training: Files | None = None,
        card: Card = Card(),  # noqa: B008 -- frozen
    ) -> Manifest:
        """Copies a model into the registry. Registering the same content again succeeds and changes nothing.

        `features` are in the order used in training; by default, those listed in the file. `classes` likewise, or
        0, 1, ... if the file lists none. `examples` are rows for the golden batch: the features and optionally the
        outputs of the training code, such as `prob_class_<i>`, which the model must reproduce. `training` are files of
        training rows, whose profile is kept. `card` has the other metadata. What the model outputs is found out, unless
        the card's signature says it.

        A file of weights does not say its structure: `unstated.settle` tells what does.

        Raises ModelRefused for a bad file, a version that has other content, or if what the model outputs or its
        structure cannot be told; UsageError for an invalid name or an absent file. Nothing is written then.
        """
        self._check_names(name, version, alias)
        content = formats.read_file(checkpoint)
        wanted = {name: card.signature.get(name) for name in ("architecture", "output")}
        found = formats.inspect(content, checkpoint, **wanted, trusted=card.trusted)
        named = found.names(features, card.signature)
        if card.schema is not None:
            found = card.schema.joined(found, named, card.signature, checkpoint)
        names = named or found.features
        given = found.stated.completed(card.signature, checkpoint)
        entries = scalers.declared(given, card.scaling, found.scaler, names, checkpoint)
        signature = baseline.fitted(found.signature(named, classes, checkpoint, entries), training, checkpoint)
        if card.assume_mlp and found.weights is None:
            raise ModelRefused(
                "the file has a structure of its own, and nothing about it is assumed",
                where=checkpoint,
                got=f"a {found.kind}",
                next_step="omit --assume-mlp",
            )
        file = formats.FILES[found.kind]
        module = formats.module(found.kind, content, checkpoint, signature)
        before = self._manifest(name, version)
        rows = user_rows.table(examples, signature)
        tried = try_out(
            module,
            signature,
            rows,
            training,
            checkpoint,
            stated="outputs" in given,
            before=None if before is None else before.signature,
        )
        signature, profile = tried.signature, tried.baseline
        findings = {**tried.findings, **found.stated.findings}
        registered_before = before is not None and before.digest == digest({before.file: content}, signature)
        if "task" in found.stated.entries:
            findings["task"] = found.stated.said_by
        if found.weights is not None and not registered_before:  # of what is registered, nothing is asked again
            findings["structure"] = unstated.settle(
                found.weights, module, signature, rows, checkpoint, assume_mlp=card.assume_mlp
            )
        manifest = Manifest(
            name=name,
            version=version,
            digest=digest({file: content}, signature),
            file=file,
            kind=found.kind,
            signature=signature,
            recorded_version=found.version,
            golden=hashlib.sha256(tried.golden).hexdigest(),
            baseline=None if profile is None else hashlib.sha256(profile).hexdigest(),
            metrics=dict(card.metrics),
            provenance=card.provenance(checkpoint, found.written_by, findings, module),
            registered_at=now(),
        )
        with self._writing(name):
            self._check_apart(name, version=version, alias=alias)
            registered = self._add(manifest, content, tried.golden, profile)
            if profile is not None and registered.baseline is None:
                raise ModelRefused(
                    f"{name} {version} was registered without training data, and a version cannot be changed",
                    where=self.root / name / version,
                    next_step="register it under a new version",
                )
            if alias is not None:
                self._point(name, alias, version)
        return registered

    def promote(self, name: str, version: str, alias: str = PRODUCTION) -> None:
        """Points an alias to a version, which is given by name or by another alias.

        Raises ModelNotFound for an unknown version, UsageError if the alias is the name of a version.
        """
        check_name(alias, "alias")
        try:
            manifest = self.resolve(name, version)
        except ModelNotFound as error:
            if self._versions(name):  # resolve() advises to make the alias that is not there: here it is the version
                error.next_step = "name one of these, or register this version first"
            raise
        with self._writing(name):
            self._check_apart(name, version=None, alias=alias)
            self._point(name, alias, manifest.version)

    def _add(self, manifest: Manifest, content: bytes, batch: bytes, profile: bytes | None) -> Manifest:
        """Adds a version unless it already exists. Raises ModelRefused if it exists with other content."""
        folder = self.root / manifest.name / manifest.version
        existing = self._manifest(manifest.name, manifest.version)
        if existing is not None:
            if existing.digest != manifest.digest:
                raise other_content(existing, manifest, folder)
            self.content(existing)
            return existing
        if folder.exists():
            raise ModelRefused("the version's folder exists but is not a model", where=folder, next_step="move it away")
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
        """Locks a model for writing, and removes incomplete files that a crashed process has left."""
        folder = self.root / name
        with translated_os_errors(folder):
            make_folder(folder)
            with (folder / ".lock").open("ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # released when the file is closed, even by a crash
                for left in folder.glob(".*.tmp"):
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
                yield

    def _check_names(self, name: str, version: str, alias: str | None) -> None:
        check_name(name, "model")
        check_name(version, "version")
        if alias is not None:
            check_name(alias, "alias")
        if version in (ALIASES, alias):
            raise UsageError(f"a version cannot be called {version!r}: this name is already used")
        if (folder := self.root / name).exists() and not folder.is_dir():
            raise UsageError(f"a model cannot be called {name!r}: a file has this name", where=folder)

    def _check_apart(self, name: str, *, version: str | None, alias: str | None) -> None:
        """Raises UsageError if a name would be both a version and an alias."""
        aliases, versions = self.aliases(name), self._versions(name)
        if version in aliases or alias in versions:
            both, kind = (version, "an alias") if version in aliases else (alias, "a version")
            raise UsageError(
                f"{both!r} is already {kind} of {name}",
                where=self.root / name,
                expected=f"a name other than the versions {_listed(versions)} and the aliases {_listed(aliases)}",
                next_step="choose another name",
            )

    # Listing

    def _names(self) -> list[str]:
        return [name for name in self._storage.folders("") if NAME.fullmatch(name) and self._versions(name)]

    def _versions(self, name: str) -> list[str]:
        """Returns the complete versions; folders of incomplete versions start with a dot."""
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
                "model.json belongs to another model: `name` and `version` do not match its folder",
                where=self.root / key,
                expected=f"{name} {version}",
                got=f"{manifest.name} {manifest.version}",
                next_step="move the folder back; to copy a model, register it",
            )
        return manifest

    def _read(self, key: str) -> bytes | None:
        path = self.root / key
        with translated_os_errors(path):
            return path.read_bytes() if path.is_file() else None

    def is_there(self) -> bool:
        """Tells whether the folder of models exists; a prefix of an object store always does."""
        return type(self) is not Registry or self.root.is_dir()

    def _not_found(self, name: str, wanted: str, aliases: dict[str, str]) -> ModelNotFound:
        if versions := self._versions(name):
            shown = [*versions, *(f"{alias} (alias of {version})" for alias, version in aliases.items())]
            promote = f"lakescore models promote {name} VERSION --alias {wanted}, or name one of these"
            dangling = f" (it points to {aliases[wanted]}, which does not exist)" if wanted in aliases else ""
            return ModelNotFound(
                f"model {name} has no version or alias {wanted!r}{dangling or nearest(wanted, [*versions, *aliases])}",
                where=self.root / name,
                expected=_listed(shown),
                next_step="name one of these" if VERSION.fullmatch(wanted) else promote,
            )
        names = self._names()
        register = f"lakescore models register CHECKPOINT --name {name} --version v1 --features ..."
        there = names or self.is_there()
        return ModelNotFound(
            f"no model is called {name!r}{nearest(name, names)}",
            where=self.root if there else f"{self.root}, a folder that does not exist",
            expected=_listed(names) if names else None,
            next_step=register if there else f"{register}; if models are elsewhere, correct LAKESCORE_MODELS",
        )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
