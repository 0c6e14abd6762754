"""A storage that fails at the nth call of a verb, before or after it took effect, or whose listings miss names."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.errors import CommitUnknown, StorageUnavailable
from pipeline.records import FileInfo
from pipeline.storage import LocalStorage

VERBS = ("files", "folders", "glob", "head", "read", "open", "create", "write", "replace", "delete")
WRITES = ("create", "write", "replace", "delete")
FAULTS = ("before", "after", "conflict", "too many requests", "listing")


class FaultyStorage(LocalStorage):
    """Fails once, at call number `at` of `verb`; what it did is in `fired`."""

    def __init__(self, root: Path, verb: str, at: int, fault: str, rng: random.Random) -> None:
        super().__init__(root)
        self.verb, self.at, self.fault, self.rng = verb, at, fault, rng
        self.calls, self.fired = 0, False

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name not in VERBS or name != super().__getattribute__("verb"):
            return found
        return lambda *arguments: self._call(found, *arguments)

    def _call(self, real: Callable[..., Any], *arguments: Any) -> Any:
        self.calls += 1
        if self.calls != self.at:
            return real(*arguments)
        self.fired = True
        if self.fault == "listing":
            return self._lagging(real(*arguments))
        if self.fault == "after":  # a time-out whose write did happen
            real(*arguments)
        if self.verb == "create" and self.fault != "too many requests":
            raise CommitUnknown("injected: no telling", where=arguments[0])
        raise StorageUnavailable(f"injected: {self.fault}", where=arguments[0] if arguments else self.root)

    def _lagging(self, found: Any) -> Any:
        """Leaves out the newest names, as a listing does that lags, or one in the middle."""
        if isinstance(found, list) and found and isinstance(found[0], FileInfo):
            return found[: self.rng.randrange(len(found))] if self.rng.random() < 0.5 else found[1:]
        return found
