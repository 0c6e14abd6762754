"""Loads the SELECTs in `sql/`. A file's name says what it returns; its header states grain and parameters."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from pipeline.errors import UsageError, nearest
from pipeline.packaged import queries


@cache
def load(name: str) -> str:
    """Returns the text of `sql/<name>.sql`, such as `load("selecting/to_score")`."""
    return queries().joinpath(*f"{name}.sql".split("/")).read_text(encoding="utf-8")


@dataclass(frozen=True)
class NamedQuery:
    name: str
    text: str

    @property
    def header(self) -> list[str]:
        """The lines of the comment at the top, without dashes."""
        lines = []
        for line in self.text.splitlines():
            if not line.startswith("--"):
                break
            lines.append(line.removeprefix("--").strip())
        return lines

    @property
    def statement(self) -> str:
        """The text without the comment at the top."""
        return "\n".join(self.text.splitlines()[len(self.header) :])

    @property
    def title(self) -> str:
        return self.header[0] if self.header else ""


@cache
def named() -> dict[str, NamedQuery]:
    """Returns the queries in `sql/query/named/`, by name: those that users can call."""
    found = [each for each in queries().joinpath("query", "named").iterdir() if each.name.endswith(".sql")]
    texts = {each.name.removesuffix(".sql"): each.read_text(encoding="utf-8") for each in found}
    return {name: NamedQuery(name, texts[name]) for name in sorted(texts)}


def find(name: str) -> NamedQuery:
    """Returns a named query. Raises UsageError, with the nearest name, if there is none."""
    try:
        return named()[name]
    except KeyError:
        raise UsageError(
            f"no query is called {name!r}{nearest(name, list(named()))}",
            expected=", ".join(named()),
            next_step="lakescore query --list",
        ) from None
