"""Output: tables for people, JSON for programs, and nothing else on standard output."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.cli.output import console, table
from pipeline.lake.layout import Lake
from tests import lakes
from tests.calling import Cli

STATUS = ("status", "--job", "churn")

pytestmark = pytest.mark.usefixtures("churn")


@pytest.fixture
def lake(lake: Lake) -> Lake:
    """One day of 1,500 predictions, and one of which nothing is scored."""
    lakes.add_day(lake, "2026-01-01", [f"u{row}" for row in range(1500)])
    lakes.add_input(lake, "2026-01-02", lakes.input_rows(["a"]))
    return lake


def test_table_aligns_numbers_at_the_right_and_marks_what_is_absent(cli: Cli, lake: Lake) -> None:
    lines = cli(*STATUS).stdout.splitlines()
    (heading,) = (line for line in lines if line.split()[:2] == ["day", "state"])
    rows = [line for line in lines if line.strip().startswith("2026-01-0")]
    assert [row.split()[:4] for row in rows] == [
        ["2026-01-01", "complete", "v1", "1,500"],
        ["2026-01-02", "missing", "-", "-"],
    ]
    end = heading.index("rows") + len("rows")
    assert [row[:end].split()[-1] for row in rows] == ["1,500", "-"], "each ends where its heading does"


def test_output_that_is_not_a_terminal_has_no_colours(cli: Cli, lake: Lake) -> None:
    assert "\x1b" not in cli(*STATUS).stdout


def test_json_is_the_only_document_and_notes_go_to_stderr(cli: Cli, lake: Lake) -> None:
    done = cli(*STATUS, "--json")
    found = json.loads(done.stdout)
    assert [(day["ds"], day["candidates"]) for day in found["days"]] == [("2026-01-01", 1500), ("2026-01-02", None)]
    assert "churn_model" in done.stderr, "the model is not registered"


def test_json_keeps_letters_of_every_language(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "Größe Ω").mkdir()
    assert "Größe Ω" in cli("catalog", "--lake", "Größe Ω", "--job", "churn", "--json").stdout


def test_text_between_colons_is_no_emoji(capsys: pytest.CaptureFixture[str]) -> None:
    """Checks have names such as `nulls:a:b`."""
    console().print("nulls:a: 1, :warning:", markup=False)
    table(("check",), [("nulls:a:",)])
    printed = capsys.readouterr().out
    assert "nulls:a: 1, :warning:" in printed
    assert printed.count("nulls:a:") == 2


def test_columns_that_are_whole_are_not_broken_where_others_are(capsys: pytest.CaptureFixture[str]) -> None:
    table(("run", "reason"), [("20260101T000000000Z-0a1b2c3d", "because " * 40)], whole=("run",))
    assert "20260101T000000000Z-0a1b2c3d" in capsys.readouterr().out


RUN = "20260101T000000000Z-0a1b2c3d"


@pytest.mark.parametrize(("width", "below"), [(80, ("run", "note")), (60, ())])
def test_table_that_is_too_wide_keeps_words_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int, below: tuple[str, ...]
) -> None:
    """A line below each row has what does not fit, or each value has a line of its own."""
    monkeypatch.setenv("COLUMNS", str(width))
    row = ("2026-01-01", "complete", 5000, 0, RUN, "the input changed since, and much else happened")
    table(("day", "state", "scored", "quarantined", "run", "note"), [row] * 3, whole=("run",), below=below)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    for word in ("2026-01-01", "complete", "5,000", RUN, "happened"):
        assert text.count(word) == 3
    assert text.count("quarantined") == (1 if below else 3)


def test_line_below_a_row_leaves_out_what_is_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    table(("day", "rows", "late", "note"), [("2026-01-01", 7, 0, "")], below=("late", "note"))
    assert capsys.readouterr().out.split() == ["day", "rows", "─" * 16, "2026-01-01", "7"]
