"""docs/python.md: its blocks over the lake of docs/queries.md, in order, and its list of names."""

from __future__ import annotations

import contextlib
import io
import os
import re
from pathlib import Path
from typing import Any

import pytest

import pipeline
from tests.docs import documented, snippets

DOCUMENT = documented.DOCS / "python.md"
BLOCK = re.compile(r"```python\n(?P<code>.*?)```\n```output\n(?P<output>.*?)```", re.DOTALL)


def test_blocks_print_what_is_documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documented.example_lake(tmp_path / "lake")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    text = made = DOCUMENT.read_text("utf-8")
    for match in BLOCK.finditer(text):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            snippets.run_python("python.md", match["code"], names)
        made = made.replace(match[0], f"```python\n{match['code']}```\n```output\n{printed.getvalue()}```")
    if os.environ.get("UPDATE_DOCS"):
        DOCUMENT.write_text(made, "utf-8")
    assert made == DOCUMENT.read_text("utf-8")
    assert len(BLOCK.findall(text)) == text.count("```python")


def test_public_names_are_documented_and_there() -> None:
    table = DOCUMENT.read_text("utf-8").partition("These names are")[0]
    assert set(re.findall(r"`(\w+)`", table)) >= set(pipeline.__all__)
    for name in pipeline.__all__:
        assert not (getattr(pipeline, name).__doc__ or f"{name}(").startswith(f"{name}("), name  # not a dataclass's own
    assert set(pipeline.__all__) <= set(dir(pipeline))
