"""Checks that files are whole: compressed ones end where they should, and none changes while it is read.

DuckDB takes what it can decompress: of a `.zst` that was cut off it reads the beginning, with a torn last value, and it
does not compare the checksum of a `.gz`. So every compressed file is decompressed once to its end before it is read.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from pipeline.database.connection import incomplete_file
from pipeline.errors import InputChanged, UnreadableFile
from pipeline.storage import translate_error, translated_os_errors

CODECS = {".gz": "gzip", ".zst": "zstd"}
"""Compressions by the last suffix of a file's name, in lower case."""
CHUNK = 1 << 20


class Seen(NamedTuple):
    """What changes when a file is written to or replaced."""

    size: int
    modified_ns: int
    inode: int


def look_at(path: Path) -> Seen:
    with translated_os_errors(path):
        found = path.stat()
    return Seen(found.st_size, found.st_mtime_ns, found.st_ino)


def check_unchanged(seen: Iterable[tuple[Path, Seen]]) -> None:
    """Raises InputChanged for a file that is not as it was."""
    for path, before in seen:
        try:
            now = look_at(path)
        except FileNotFoundError:
            now = None
        if now != before:
            raise InputChanged(
                "a file changed while it was read",
                where=path,
                got="the file is gone" if now is None else f"{before.size:,} bytes before, {now.size:,} bytes now",
                next_step="try again once it is written completely; write it elsewhere and then rename it",
            )


def open_bytes(path: Path) -> pa.NativeFile:
    """Opens a file for reading, decompressed if its name says that it is compressed."""
    return pa.input_stream(str(path), compression=CODECS.get(path.suffix.lower()))


def is_blank(path: Path) -> bool:
    """Tells whether a file has no text at all, or only white space; not for one that cannot be read, or is cut off."""
    if path.suffix.lower() in CODECS and look_at(path).size == 0:
        return False
    try:
        with open_bytes(path) as stream:
            while chunk := stream.read(CHUNK):
                if chunk.strip():
                    return False
    except OSError:
        return False
    return True


def check_compressed(path: Path) -> None:
    """Decompresses a file to its end, all frames or members of it; does nothing for a file that is not compressed.

    Raises IncompleteFile if it ends too early, UnreadableFile if a checksum is wrong or anything else follows.
    """
    if path.suffix.lower() not in CODECS:
        return
    try:
        with open_bytes(path) as stream:
            while stream.read(CHUNK):
                pass
    except OSError as error:
        if (translated := translate_error(error, path)) is not None:
            raise translated from error
        if "Truncated" in str(error):
            raise incomplete_file(path) from error
        raise UnreadableFile(
            "a compressed file is damaged",
            where=path,
            got=str(error).splitlines()[0],
            next_step=f"get it again, or look at it with {CODECS[path.suffix.lower()]} --test",
        ) from error
