"""Data Docs."""

from __future__ import annotations

from typing import Any


def write(*_: Any) -> None: ...
