"""Copies in Parquet of a job's text files, one per period and source, which runs read in their stead.

    imported/job=<job>/ds=<ds>/<source>.parquet

A copy has the rows of all text files of its source, read as `lakescore import` reads them. Its metadata say of which
files it is, as they were listed, and how they were read; it counts only as long as that is still so. It is replaced as
a whole. Whether a period is up to date is told by the listing of the text alone, as for Parquet: a copy that is lost is
made again.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.context import Context
from pipeline.database.connection import connect, fit
from pipeline.database.resources import batch_rows, resources
from pipeline.errors import InputChanged, InputEmpty, InputMissing, LakescoreError, ModelError, UsageError
from pipeline.ingest.writing import DayWriter
from pipeline.job.config import Job
from pipeline.lake.layout import Lake
from pipeline.model.user_rows import columns_read
from pipeline.records import FileInfo, Plan
from pipeline.selecting.source import with_folders
from pipeline.storage import make_folder, sync_file, translated_os_errors
from pipeline.storage.local import WRITING
from pipeline.storage.parquet import read_metadata
from pipeline.tabular import sources
from pipeline.tabular.sources import Kind
from pipeline.tabular.spelling import Spelling
from pipeline.tabular.whole import is_blank

if TYPE_CHECKING:
    from duckdb import DuckDBPyRelation as Relation

    from pipeline.model.manifest import Signature

Files = Mapping[str, Sequence[FileInfo]]
FORMAT = 1
"""Changes if the same text would be read as other rows than before."""
KINDS = {"csv": Kind.csv, "jsonl": Kind.json}
MAX_THREADS = 8
"""As for an import: each thread holds buffers while it reads text."""
ENDLESS = 1 << 62


@dataclass(frozen=True)
class InputFiles:
    """The files of a period by source: as they are listed, and as they are read."""

    listed: dict[str, tuple[FileInfo, ...]]
    """What the job's patterns match; this identifies the input."""
    read: dict[str, tuple[FileInfo, ...]]
    """Parquet files with the rows: the same, or the copies of text."""
    imported: dict[str, str] = field(default_factory=dict)
    """Digest of each copy, by source."""


@dataclass(frozen=True)
class Copies:
    """The copies of a job's text, made if need be: in the lake or, if `folder` is given, in that folder.

    `signature` is that of the model whose features the files hold: its numbers must be numbers. Without one, a copy for
    any model will do.
    """

    lake: Lake
    job: Job
    signature: Signature | None = None
    folder: Path | None = None

    @cached_property
    def columns(self) -> dict[str, list[str]]:
        """The columns whose types the job's key and the model decide, as arguments of `sources.read`."""
        found = columns_read(self.signature) if self.signature and self.job.input.path else {}
        return {**found, "key": [*self.job.input.key, *found.get("key", ())]}

    def of(self, listed: Files, ds: str | None) -> InputFiles:
        """Returns what to read instead of listed files. `ds` is None for files that all periods share.

        Raises InputChanged if they are no longer as listed, InputEmpty if they have no columns, and what an import of
        them would raise.
        """
        read, imported = {name: tuple(files) for name, files in listed.items()}, {}
        for name in sorted(self.job.input.text & set(listed)):
            copy, imported[name] = self._copy(name, read[name], ds)
            read[name] = (copy,)
        return InputFiles({name: tuple(files) for name, files in listed.items()}, read, imported)

    def _copy(self, source: str, files: Sequence[FileInfo], ds: str | None) -> tuple[FileInfo, str]:
        text = self._digest(source, files)
        digest = _sha([text, self.columns])
        key = self._key(source, ds)
        found, says = self.stored(source, ds)
        if found is not None and says.get("text") == text and (self.signature is None or says["digest"] == digest):
            return found, says["digest"]
        metadata = {"text": text, "digest": digest}
        if self.folder is not None:
            made = self.folder / f"{digest}.parquet"
            if not made.exists():
                self._write(source, files, ds, made, metadata)
            return _info(made), digest
        assert ds is not None
        self.lake.prepare()
        with _scratch(self.lake) as folder:
            made = folder / "copy.parquet"
            self._write(source, files, ds, made, metadata)
            sync_file(made)
            return self.lake.storage.replace(key, made), digest

    def stored(self, source: str, ds: str | None) -> tuple[FileInfo | None, dict[str, str]]:
        """Returns the copy in the lake, and what it says about itself."""
        import pyarrow as pa

        key = self._key(source, ds)
        found = None if ds is None else self.lake.storage.head(key)
        try:
            if found is not None:
                with self.lake.storage.open(key) as file:
                    return found, read_metadata(file)
        except (FileNotFoundError, pa.ArrowException):
            pass  # it is made again
        return None, {}

    def _key(self, source: str, ds: str | None) -> str:
        return f"imported/job={self.job.name}/ds={ds}/{source}.parquet"

    def _digest(self, source: str, files: Sequence[FileInfo]) -> str:
        """Identifies rows by the listing of their files, and by how they are read."""
        said = self.job.input
        listing = [file.model_dump(mode="json", exclude_none=True) for file in files]
        options = [said.format, said.delimiter, said.decimal, sorted(said.types.items()), said.patterns[source]]
        return _sha([FORMAT, options, listing])

    def _write(
        self, source: str, files: Sequence[FileInfo], ds: str | None, made: Path, metadata: Mapping[str, str]
    ) -> None:
        with ExitStack() as stack:
            found = self._find(stack, source, files, ds)
            limits = resources(self.job.engine)
            con = stack.enter_context(connect(limits.memory_limit, min(limits.threads, MAX_THREADS)))
            stack.enter_context(sources.translated_read_errors(found))
            rows = sources.read(con, found, **self.columns)
            limits = resources(self.job.engine, len(rows.columns))
            fit(con, replace(limits, threads=min(limits.threads, MAX_THREADS)))
            rows = with_folders(rows, self.lake, self.job, source, files, self._features)
            self._write_rows(rows, made, metadata)
        self._check_listing(source, files, ds)

    def _write_rows(self, rows: Relation, made: Path, metadata: Mapping[str, str]) -> None:
        with rows.to_arrow_reader(batch_rows(len(rows.columns))) as reader:
            place = made.with_name(f"{made.name}.{secrets.token_hex(4)}.tmp")
            key = self.job.input.key
            with DayWriter(lambda _: place, reader.schema, repeat(ENDLESS), key=key, metadata=metadata) as writer:
                for batch in reader:
                    writer.write(batch)
                writer.touch()
        place.replace(made)

    @property
    def _features(self) -> tuple[str, ...]:
        return self.signature.features if self.signature else ()

    def _find(self, stack: ExitStack, source: str, files: Sequence[FileInfo], ds: str | None) -> sources.Files:
        said = self.job.input
        try:
            paths = [self._local(stack, file) for file in files]
            blank = {path for path in paths if is_blank(path)}
            if len(blank) < len(paths):
                if said.format == "jsonl":  # no line is no row; an empty CSV lacks its header
                    paths = [path for path in paths if path not in blank]
                kind, types = KINDS[said.format], sources.parse_types(said.types)
                return sources.find(paths, types, said.decimal, said.delimiter, kind=kind, spelling=Spelling.job)
        except (InputMissing, FileNotFoundError):
            self._check_listing(source, files, ds)
            raise
        except UsageError as error:
            where = f"{self.job.folder / 'job.toml'}, [input]" if error.where is None else error.where
            raise UsageError(error.what, where=where, expected=error.expected, got=error.got) from None
        raise InputEmpty(
            f"the input of {ds or source} has no rows",
            where=self.lake.storage.where(files[0].path),
            expected="at least one row, or empty_input = 'skip' in [policy]",
            got="empty files" if len(files) > 1 else "an empty file",
            next_step="write the file again, or let the job skip such days",
        )

    def _local(self, stack: ExitStack, file: FileInfo) -> Path:
        """Returns the path of a file on this machine; of one in an object store, that of a copy for now."""
        if self.lake.is_local or file.path.startswith("/"):
            return self.lake.workspace.path(file.path).absolute()
        folder = stack.enter_context(_scratch(self.lake))
        target = folder / file.path.rpartition("/")[2]
        stack.enter_context(_named(target, self.lake.storage.where(file.path)))
        with translated_os_errors(target), self.lake.storage.open(file.path) as store, target.open("wb") as copy:
            shutil.copyfileobj(store, copy, 1 << 20)
        return target

    def _check_listing(self, source: str, files: Sequence[FileInfo], ds: str | None) -> None:
        """Raises InputChanged if the files are not those that were listed: others may have been read."""
        if ds is None:
            now: tuple[FileInfo, ...] = tuple(self.lake.matching(self.job.patterns[source].files()))
        else:
            now = self.lake.input_files({source: self.job.patterns[source]}, ds)[source]
        if now != tuple(files):
            changed = sorted({file.path for file in set(now).symmetric_difference(files)})
            raise InputChanged(
                f"the input of {ds or source} changed while it was imported",
                where=", ".join(changed[:3]),
                next_step="run again once it is written completely; write it elsewhere and then rename it",
            )


def to_read(ctx: Context, listed: Files, ds: str, signature: Signature | None) -> InputFiles:
    """Returns what to read instead of the listed files of a period; imports text if need be."""
    return Copies(ctx.lake, ctx.job, signature, ctx.copies).of(listed, ds)


def of_plan(ctx: Context, plan: Plan, ds: str) -> Files:
    """Returns the files that a run reads. Raises InputChanged if a copy is no longer the one of the plan."""
    if not plan.imported:
        return plan.input
    copies = Copies(ctx.lake, ctx.job)
    stored = {name: copies.stored(name, ds) for name in plan.imported}
    if all(found and says["digest"] == plan.imported[name] for name, (found, says) in stored.items()):
        return {**plan.input, **{name: (found,) for name, (found, _) in stored.items() if found}}
    found = to_read(ctx, plan.input, ds, ctx.manifest().signature)
    if found.imported != plan.imported:
        raise InputChanged(
            f"the text of {ds} would now be read in another way than the run has planned",
            where=ctx.job.folder / "job.toml",
            next_step="run again: rows that are already scored are kept",
        )
    return found.read


def signature_of(ctx: Context) -> Signature | None:
    """Returns the signature of the job's model, or None if it is not registered."""
    try:
        return ctx.manifest().signature
    except ModelError:
        return None


@contextmanager
def reading_only(ctx: Context) -> Iterator[Context]:
    """Yields a context that makes missing copies in a temporary folder, and so leaves the lake as it is."""
    if not ctx.job.input.text or ctx.copies is not None:
        yield ctx
        return
    with tempfile.TemporaryDirectory(prefix="lakescore-text-") as folder:
        yield replace(ctx, copies=Path(folder))


def _sha(parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False, sort_keys=True).encode()).hexdigest()


def _info(path: Path) -> FileInfo:
    found = path.stat()
    return FileInfo(path=str(path), size=found.st_size, etag=f"{found.st_ino:x}-{found.st_mtime_ns:x}")


@contextmanager
def _scratch(lake: Lake) -> Iterator[Path]:
    folder = lake.workspace.path(f"{WRITING}/{secrets.token_hex(8)}")
    with translated_os_errors(folder):
        make_folder(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _named(path: Path, name: str) -> Iterator[None]:
    """Errors about a file name it as it is named in the object store."""
    try:
        yield
    except LakescoreError as error:
        if error.where is None or str(path) not in error.where:
            raise
        error.where = error.where.replace(str(path), name)
        error.args = (str(error),)
        raise
