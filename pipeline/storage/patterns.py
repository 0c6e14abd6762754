"""Path patterns: `*`, `?` and `[...]` within a name, and `**` for any number of folders.

Names that begin with `.` or `_` are not data, by a convention of Spark, Hive, Delta and others: writers give such names
to files that are not finished, and to their own notes (`_SUCCESS`, `_temporary`, `_delta_log`, `.part.crc`). They never
match, except in the part of a pattern before its first wildcard.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from pipeline.records import FileInfo

WILD = re.compile(r"[*?\[]")


class Matches(NamedTuple):
    """What a pattern matches."""

    files: list[FileInfo]
    """The files, sorted by path."""
    others: dict[str, str]
    """Whatever else matches, and cannot be read as a file, by path: what it is, such as `a folder`."""


def fixed_steps(steps: Sequence[str]) -> int:
    """Returns the number of steps before the first one with a wildcard."""
    return next((number for number, step in enumerate(steps) if WILD.search(step)), len(steps))


def hidden(steps: Sequence[str]) -> bool:
    return any(step.startswith((".", "_")) for step in steps)


def matches(path: Sequence[str], steps: Sequence[str]) -> bool:
    """Returns whether the steps of a path match those of a pattern."""
    if not steps or not path:
        return not path and all(step == "**" for step in steps)
    if steps[0] == "**":
        return matches(path[1:], steps) or matches(path, steps[1:])
    return fnmatchcase(path[0], steps[0]) and matches(path[1:], steps[1:])


def unread(folders: Collection[str], files: Collection[str]) -> list[str]:
    """Returns the folders, sorted, below which none of the files lies."""
    read = {str(above) for file in files for above in PurePosixPath(file).parents}
    return sorted(set(folders) - read)


def expand(root: Path, pattern: str) -> Iterator[str]:
    """Yields what matches on a disk, in any order, some of it perhaps twice; of a last `**`, no folders.

    Also yields a link that leads nowhere, if there might be matching files behind it. Raises OSError for a folder that
    cannot be listed.
    """
    steps = PurePosixPath(pattern).parts
    fixed = fixed_steps(steps)
    return _below(root, PurePosixPath(*steps[:fixed]), steps[fixed:])


def _below(root: Path, key: PurePosixPath, steps: Sequence[str]) -> Iterator[str]:
    """Yields what matches the steps below a folder."""
    if not steps:
        if os.path.lexists(root / key):
            yield str(key)
        return
    step, rest = steps[0], steps[1:]
    if step == "**":
        yield from _anywhere_below(root, key, rest, ())
    elif not WILD.search(step):
        if not hidden([step]):
            yield from _below(root, key / step, rest)
    else:
        for entry in _entries(root / key):
            if fnmatchcase(entry.name, step):
                if not rest or _leads_nowhere(entry):
                    yield str(key / entry.name)
                elif entry.is_dir():
                    yield from _below(root, key / entry.name, rest)


def _anywhere_below(
    root: Path, key: PurePosixPath, rest: Sequence[str], above: tuple[tuple[int, int], ...]
) -> Iterator[str]:
    """Yields what matches `rest` below a folder at any depth; `above` identifies the folders on the way to it."""
    here = _identity(root / key)
    if here in above:
        return  # a link back: its files are found where they are
    if rest:
        yield from _below(root, key, rest)
    for entry in _entries(root / key):
        if _leads_nowhere(entry):
            yield str(key / entry.name)
        elif entry.is_dir():
            yield from _anywhere_below(root, key / entry.name, rest, (*above, here))
        elif not rest:
            yield str(key / entry.name)


def _leads_nowhere(entry: os.DirEntry[str]) -> bool:
    return entry.is_symlink() and not Path(entry.path).exists()


def _identity(folder: Path) -> tuple[int, int]:
    try:
        found = folder.stat()
    except (FileNotFoundError, NotADirectoryError):
        return -1, -1
    return found.st_dev, found.st_ino


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """Returns the entries of a folder that are not hidden."""
    try:
        with os.scandir(folder) as found:
            return [entry for entry in found if not hidden([entry.name])]
    except (FileNotFoundError, NotADirectoryError):  # absent, or gone since its parent was listed
        return []
