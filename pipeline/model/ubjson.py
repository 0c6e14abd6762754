"""Reads Universal Binary JSON as XGBoost writes it: typed arrays, lengths of 64 bits; any other is refused."""

from __future__ import annotations

from typing import Any

import numpy as np

MOST_LEVELS = 64
NUMBERS = {b"i": ">i1", b"U": ">u1", b"I": ">i2", b"l": ">i4", b"L": ">i8", b"d": ">f4", b"D": ">f8"}
"""Types of numbers by their marks."""
CONSTANTS = {b"T": True, b"F": False, b"Z": None}


def loads(content: bytes) -> Any:
    """Returns the document, with lists for arrays. Raises ValueError for content that is not valid."""
    reader = _Reader(content)
    found = reader.value(reader.take(1), 0)
    if reader.place != len(content):
        raise ValueError(f"{len(content) - reader.place} bytes after the end")
    return found


class _Reader:
    def __init__(self, content: bytes) -> None:
        self._content, self.place = content, 0

    def take(self, count: int) -> bytes:
        start, self.place = self.place, self.place + count
        if count < 0 or self.place > len(self._content):
            raise ValueError("it ends too early")
        return self._content[start : self.place]

    def value(self, mark: bytes, level: int) -> Any:
        """Returns the value after its mark."""
        if level > MOST_LEVELS:
            raise ValueError(f"more than {MOST_LEVELS} levels")
        if mark in CONSTANTS:
            return CONSTANTS[mark]
        if mark in NUMBERS:
            return self._numbers(mark, 1)[0]
        if mark == b"S":
            return self._text()
        if mark == b"[":
            return self._array(level)
        if mark == b"{":
            return self._object(level)
        raise ValueError(f"unknown mark {mark!r} at byte {self.place - 1}")

    def _numbers(self, mark: bytes, count: int) -> list[Any]:
        kind = np.dtype(NUMBERS[mark])
        found: list[Any] = np.frombuffer(self.take(count * kind.itemsize), kind).tolist()
        return found

    def _count(self) -> int:
        if (mark := self.take(1)) != b"L":
            raise ValueError(f"{mark!r} in place of a length")
        count: int = self._numbers(mark, 1)[0]
        return count

    def _text(self) -> str:
        return self.take(self._count()).decode()

    def _array(self, level: int) -> list[Any]:
        mark = self.take(1)
        if mark == b"$":
            kind = self.take(1)
            if kind not in NUMBERS or self.take(1) != b"#":
                raise ValueError("an array of another type than numbers")
            return self._numbers(kind, self._count())
        if mark == b"#":
            return [self.value(self.take(1), level + 1) for _ in range(self._count())]
        found = []
        while mark != b"]":
            found.append(self.value(mark, level + 1))
            mark = self.take(1)
        return found

    def _object(self, level: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while self._content[self.place : self.place + 1] != b"}":
            name = self._text()
            if name in found:
                raise ValueError(f"{name!r} occurs twice")
            found[name] = self.value(self.take(1), level + 1)
        self.take(1)
        return found
