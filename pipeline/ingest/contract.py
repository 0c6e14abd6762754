"""What a job and its model need of the columns of files, checked before an import stores anything."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from pipeline.database.keys import KEY_TYPES, canonical
from pipeline.errors import SchemaMismatch
from pipeline.job.config import Job
from pipeline.model.manifest import Manifest
from pipeline.model.schema_check import check_fit
from pipeline.model.user_rows import columns_read
from pipeline.tabular.sources import Files, Kind
from pipeline.tabular.spelling import Spelling

UNCHECKED = "--unchecked imports the files as they are"
NO_DELIMITER = "the header has none of the delimiters that are found by themselves: comma, semicolon, tab, |"
DATA = re.compile(r"[-+.]?\d.*|")
"""What looks like a value, and not like the name of a column."""


@dataclass(frozen=True)
class Contract:
    """The columns that a job reads, and the model that scores them: None if it is not registered yet."""

    job: Job
    manifest: Manifest | None

    @property
    def read(self) -> dict[str, list[str]]:
        """The columns whose types the key and the model decide, as arguments of `sources.read`."""
        found = columns_read(self.manifest.signature) if self.manifest else {}
        return {**found, "key": [*self.job.input.key, *found.get("key", ())]}

    @property
    def needed(self) -> tuple[str, ...]:
        features = self.manifest.signature.features if self.manifest else self.job.input.features or ()
        time = self.job.input.partition_by
        return tuple(dict.fromkeys((*self.job.input.key, *self.job.input.carry, *features, *([time] if time else []))))

    def check(self, columns: Mapping[str, str], files: Files, folders: Collection[str]) -> None:
        """Raises SchemaMismatch, or ModelMismatch if the job's features are not the model's.

        `columns` maps names to types; `folders` are the columns that readers take from the path.
        """
        there = {*columns, *(name for name in self.needed if name.lower() in folders)}
        if missing := [name for name in self.needed if name not in there]:
            raise self._missing(missing, list(columns), files)
        for name in self.job.input.key:
            if name in columns and canonical(columns[name]) not in KEY_TYPES:
                raise SchemaMismatch(
                    f"column {name!r} is the key of job {self.job.name}, and cannot be one",
                    where=files,
                    expected="an integer of up to 64 bits, text, a date, a timestamp or a boolean",
                    got=columns[name],
                    next_step=f"{files.spelling.type(name, 'VARCHAR')}; {UNCHECKED}",
                )
        if self.manifest is not None:
            toml = self.job.folder / "job.toml"
            check_fit(self.manifest, self.job.input.features, dict.fromkeys(there, "") | dict(columns), files, job=toml)

    def _missing(self, missing: Sequence[str], found: Sequence[str], files: Files) -> SchemaMismatch:
        what, step = f"job {self.job.name} needs {_listed(missing)}, which the files lack", UNCHECKED
        expected = _listed(self.needed)
        if files.kind is Kind.csv and len(missing) == len(self.needed):
            if len(found) == 1 and (between := re.findall(r"[^\w\s\"'.-]", found[0])):
                what = f"the header has no {files.delimiter!r}" if files.delimiter else NO_DELIMITER
                step = f"{Spelling.command.delimiter(between[0])}; {UNCHECKED}"
            elif sum(bool(DATA.fullmatch(name)) for name in found) * 2 >= len(found):
                what = "the first line does not look like a header, and names none of the columns of the job"
                step = f"add a first line such as {','.join(self.needed)}; {UNCHECKED}"
        if step == UNCHECKED and (renames := self._renames(missing, found, files)):
            step = f"{renames}; {UNCHECKED}"
        first = f"{files.paths[0]}, line 1" if files.kind is Kind.csv else files
        return SchemaMismatch(what, where=first, expected=expected, got=_listed(found), next_step=step)

    def _renames(self, missing: Sequence[str], found: Sequence[str], files: Files) -> str:
        """Returns the options that give columns of similar names those that the job needs, as far as they are clear."""
        left = [name for name in found if name not in self.needed and name not in files.renamed.values()]
        pairs = []
        for name in missing:
            plain = {re.sub(r"\W|_", "", other).casefold(): other for other in left}
            close = get_close_matches(re.sub(r"\W|_", "", name).casefold(), plain, n=1, cutoff=0.6)
            if close:
                pairs.append(f"--rename {_quoted(plain[close[0]])}={_quoted(name)}")
                left.remove(plain[close[0]])
        return " ".join(pairs)


def _listed(names: Collection[str]) -> str:
    return ", ".join(map(repr, names))


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"[\w.-]+", name) else f'"{name}"'
