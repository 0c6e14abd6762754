"""Transcripts in the documents: commands that follow each other, with what they print. UPDATE_DOCS=1 writes them anew.

Figures of a model that was trained here may differ a little by processor: words must be the same, numbers close.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.docs.documented import DOCS

STEP = re.compile(
    r"^    \$ (?P<command>.+)\n(?P<output>(?:    (?!\$ ).*\n|\n(?=    (?!\$ )|\n+    (?!\$ )))*)", re.MULTILINE
)
NUMBER = re.compile(r"(?<![\w.-])-?\d[\d,]*(?:\.\d+)?(?![\w-])")
CLOSE = 0.15
FEW = 2


def follow(document: str, heading: str, run: Callable[[str], str]) -> Iterator[tuple[str, str]]:
    """Runs the commands below a heading in order, compares what they print, and yields both."""
    path = DOCS / document
    for number in range(len(steps(path, heading))):
        command = steps(path, heading)[number]["command"]
        printed = "\n".join(line.rstrip() for line in run(command).splitlines()).strip("\n")
        if os.environ.get("UPDATE_DOCS"):
            _replace(path, steps(path, heading)[number], printed)
        shown = _plain(steps(path, heading)[number]["output"])
        assert similar(shown, printed), f"{command}\n\n{document} has\n{shown}\n\nbut it prints\n{printed}"
        yield command, printed


def steps(path: Path, heading: str) -> list[re.Match[str]]:
    text = path.read_text("utf-8")
    begin = text.index(f"\n## {heading}\n")
    end = text.find("\n## ", begin + 1)
    return list(STEP.finditer(text, begin, len(text) if end < 0 else end))


def similar(shown: str, printed: str) -> bool:
    """Tells whether two texts have the same words and nearly the same numbers; the width of columns does not count."""
    if _words(shown) != _words(printed):
        return False
    pairs = zip(NUMBER.findall(shown), NUMBER.findall(printed), strict=True)
    return all(_close(float(a.replace(",", "")), float(b.replace(",", ""))) for a, b in pairs)


def _words(text: str) -> list[str]:
    return re.sub("─+", "─", NUMBER.sub("0", text)).split()


def _close(a: float, b: float) -> bool:
    whole = a.is_integer() and b.is_integer()
    return abs(a - b) <= max(CLOSE * abs(a), FEW if whole else 0.02)


def _plain(output: str) -> str:
    return "\n".join(line.removeprefix("    ").rstrip() for line in output.splitlines()).strip("\n")


def _replace(path: Path, step: re.Match[str], printed: str) -> None:
    block = "".join(f"    {line}".rstrip() + "\n" for line in printed.splitlines())
    text = path.read_text("utf-8")
    path.write_text(f"{text[: step.start()]}    $ {step['command']}\n{block}{text[step.end() :]}", "utf-8")
