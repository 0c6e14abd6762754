"""Next steps as a person can enter them: with the job and the lake that the command named by options.

The code that knows what has to be done, such as `lakescore run --date 2026-01-31`, does not know how the job and the
lake were named. The options are noted as they are parsed, and added where a command is printed.
"""

from __future__ import annotations

import re
import shlex
from functools import cache
from typing import Any

import typer

from pipeline.cli.commands import COMMANDS, command_line

OPTIONS = {"job": "--job", "lake": "--lake"}
COMMAND = re.compile(r"\blakescore (?P<words>[a-z]+(?: [a-z]+)?)(?P<rest>(?: [^\s;,`]+)*)")

_given: dict[str, str] = {}


def forget() -> None:
    """Forgets the options of an earlier command in this process."""
    _given.clear()


def note(parameter: typer.CallbackParam, value: str | None) -> str | None:
    """Notes an option that a person gave: the callback of `--job` and `--lake`, which have no default."""
    if value is not None and parameter.name in OPTIONS:
        _given[parameter.name] = value
    return value


def completed(text: str) -> str:
    """Returns a text in which each `lakescore COMMAND` has the `--job` and `--lake` of this command, if it takes them.

    A `--job` that stands there names the same job: it is written as the person did, who may have given a folder.
    """
    return COMMAND.sub(_completed, text) if _given else text


def _completed(match: re.Match[str]) -> str:
    name, takes = _options_of(match["words"])
    rest = match["words"].removeprefix(name) + match["rest"]
    added = ""
    for option, value in _given.items():
        flag, quoted = OPTIONS[option], shlex.quote(value)
        before, there, after = f"{rest} ".partition(f" {flag} ")
        if there:
            rest = f"{before} {flag} {quoted} {after.partition(' ')[2]}".rstrip()
        elif flag in takes:
            added += f" {flag} {quoted}"
    return f"lakescore {name}{added}{rest}"


@cache
def _options_of(words: str) -> tuple[str, frozenset[str]]:
    """Returns the name of the command that some words begin with, and its options; no options if there is none."""
    name, _, second = words.partition(" ")
    if not any(name in commands for commands in COMMANDS.values()):
        return name, frozenset()
    command: Any = typer.main.get_command(command_line(name)).commands.get(name)  # type: ignore[attr-defined]
    if hasattr(command, "commands"):
        if second not in command.commands:
            return name, frozenset()
        name, command = f"{name} {second}", command.commands[second]
    return name, frozenset(option for parameter in command.params for option in parameter.opts)
