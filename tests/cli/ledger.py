"""Reads the ledger that a command has printed."""

from __future__ import annotations

import re


def numbers(text: str) -> dict[str, int]:
    """Returns the number of rows by term, from the printed ledger."""
    names = "candidates|to score|scored|unchanged|quarantined|duplicates|overtaken"
    found = re.findall(rf"^ *({names}) +([\d,]+)\b", text, re.MULTILINE)
    return {name: int(number.replace(",", "")) for name, number in found}
