"""Transcripts are compared by their words and, nearly, their numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.transcripts import similar, steps

SHOWN = "2026-01-05  complete   1,000 rows  auc 0.871\n ─────\n"


@pytest.mark.parametrize(
    ("printed", "same"),
    [
        ("2026-01-05 complete 1,020 rows auc 0.88\n ──────", True),
        ("2026-01-06 complete 1,000 rows auc 0.871 ─", False),
        ("2026-01-05 stopped 1,000 rows auc 0.871 ─", False),
        ("2026-01-05 complete 1,300 rows auc 0.871 ─", False),
        ("2026-01-05 complete 1,000 rows auc 0.5 ─", False),
        ("2026-01-05 complete 1,000 rows auc ─", False),
    ],
)
def test_texts_are_similar_if_words_are_equal_and_numbers_close(printed: str, same: bool) -> None:
    assert similar(SHOWN, printed) is same


def test_steps_of_a_section_are_its_commands_with_what_stands_below(tmp_path: Path) -> None:
    document = tmp_path / "a.md"
    document.write_text("\n## one\n\n    $ first\n    a\n\n    b\n\nText.\n\n    $ second\n\n## two\n\n    $ third\n")
    found = [(step["command"], step["output"]) for step in steps(document, "one")]
    assert found == [("first", "    a\n\n    b\n"), ("second", "")]
