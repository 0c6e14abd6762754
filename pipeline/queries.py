"""Loads the SELECTs in `sql/`. A file's name says what it returns; its header says grain and parameters."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pipeline.errors import UsageError, nearest


def resources() -> Path:
    """Returns the folder that holds `sql/`: inside the installed package, or the project beside it."""
    package = Path(__file__).parent
    return package if (package / "sql").is_dir() else package.parent


@cache
def load(name: str) -> str:
    """Returns the text of `sql/<name>.sql`, such as `load("select/to_score")`."""
    return (resources() / "sql" / f"{name}.sql").read_text("utf-8")


@dataclass(frozen=True)
class NamedQuery:
    name: str
    text: str

    @property
    def header(self) -> list[str]:
        """The comment on top, without its dashes."""
        lines = []
        for line in self.text.splitlines():
            if not line.startswith("--"):
                break
            lines.append(line.removeprefix("--").strip())
        return lines

    @property
    def title(self) -> str:
        return self.header[0] if self.header else ""


@cache
def named() -> dict[str, NamedQuery]:
    """Returns the queries meant for people, those in `sql/queries/`."""
    folder = resources() / "sql" / "queries"
    return {path.stem: NamedQuery(path.stem, path.read_text("utf-8")) for path in sorted(folder.glob("*.sql"))}


def find(name: str) -> NamedQuery:
    """Raises UsageError, naming the nearest one."""
    try:
        return named()[name]
    except KeyError:
        raise UsageError(
            f"no query is called {name!r}{nearest(name, list(named()))}",
            expected=", ".join(named()),
            next_step="lakescore query --list",
        ) from None
