"""How a person says what is not inferred from text: options of a command, or keys under [input] of a job."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

DELIMITERS = ",;\t|"
"""Delimiters that are found in a header; any other single character has to be said."""
ALIASES: Mapping[str, str] = MappingProxyType({"tab": "\t", r"\t": "\t"})
"""How a delimiter may be written that is hard to type."""


class Spelling(StrEnum):
    command = "command"
    job = "job"

    def decimal(self, point: str) -> str:
        return f"--decimal {point}" if self is Spelling.command else f"decimal = {json.dumps(point)} in [input]"

    def delimiter(self, character: str) -> str:
        if self is Spelling.job:
            return f"delimiter = {json.dumps(character)} in [input]"
        return f"--delimiter {'tab' if character == chr(9) else repr(character)}"

    def type(self, column: str, kind: str) -> str:
        """Returns how a person gives a column a type."""
        if self is Spelling.command:
            return f"--types {shlex.quote(f'{column}={kind}')}"
        name = column if re.fullmatch(r"[A-Za-z0-9_-]+", column) else json.dumps(column, ensure_ascii=False)
        return f"types = {{ {name} = {json.dumps(kind)} }} in [input]"

    @property
    def types(self) -> str:
        """The name of the option for types."""
        return "--types" if self is Spelling.command else "types in [input]"
