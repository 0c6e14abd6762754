"""Runs the fenced blocks of a document, in order, in one folder: what people copy from it must work."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import Any

from tests.calling import Cli
from tests.docs.documented import DOCS

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Command:
    """A line of a block `sh`."""

    text: str

    @property
    def program(self) -> str:
        return shlex.split(self.text)[0]

    def run(self, cli: Cli) -> str:
        """Runs a line that begins with `lakescore`; it must succeed. Returns what it prints."""
        program, *arguments = shlex.split(self.text)
        assert program == "lakescore", self.text
        return cli(*arguments).stdout


def blocks(document: str) -> list[tuple[str, str]]:
    """Returns language and text of each block."""
    return BLOCK.findall((DOCS / document).read_text("utf-8"))


def commands(text: str) -> list[Command]:
    return [Command(line) for line in text.splitlines()]


def run_python(document: str, text: str, names: dict[str, Any]) -> None:
    """Runs a block; `names` are those of the blocks before, and get those of this one."""
    exec(compile(text, DOCS / document, "exec"), names)
