"""What Great Expectations finds out about a rule."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.records import Rule


@dataclass(frozen=True)
class Finding:
    """The result of Great Expectations for one rule."""

    rule: Rule
    success: bool
    observed: str | None
    unexpected: int | None
    share: float | None
    error: str | None
    """Message of the exception, if the expectation raised one."""
    examples: tuple[str, ...] = ()
    """Values that break the rule, if they were asked for; the most frequent of them first where they were counted."""
