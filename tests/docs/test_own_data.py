"""docs/own-data.md: from an empty folder to a report, by what is installed from the wheel, far from any checkout."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.docs import own_data, transcripts
from tests.docs.documented import DOCS
from tests.installed import Installed

DOCUMENT, HEADING = "own-data.md", "From an empty folder to a report"
NOT_THE_SAME_TWICE = {
    r"\d{8}T\d{9}Z-[0-9a-f]{8}": "RUN",
    r"digest [0-9a-f]{12}": "digest 0f3c9a...",
    r"(--example NAME); .*": r"\1; ...",
    r"^took .* peak memory .*\n": "",
}
"""Run ids, the digest of a file that holds times, the list of examples, and durations."""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_walk_with_own_data_prints_what_is_documented(installed: Installed, tmp_path: Path) -> None:
    own_data.write(tmp_path)
    project = tmp_path / "shop"
    project.mkdir()

    def run(command: str) -> str:
        printed = installed.shell(command, project).replace(str(tmp_path), "/home/me")
        for pattern, word in NOT_THE_SAME_TWICE.items():
            printed = re.sub(pattern, word, printed, flags=re.MULTILINE)
        for back in (1, 2):  # `job new` proposes yesterday, and midnight may have passed
            printed = printed.replace(f"{datetime.now(UTC) - timedelta(days=back):%Y-%m-%d}", "2026-01-05")
        return printed

    printed = dict(transcripts.follow(DOCUMENT, HEADING, run))
    assert "nothing would stop a run" in printed["lakescore job check"]
    assert "amount_range" in printed["lakescore run --date 2026-01-06"]
    assert (project / "lake" / "reports" / "index.html").is_file()
    assert (project / "dags" / "jobs" / "orders" / "input.json").is_file()


def test_readme_has_the_same_commands() -> None:
    commands = [step["command"] for step in transcripts.steps(DOCS / DOCUMENT, HEADING)]
    text = (DOCS.parent / "README.md").read_text("utf-8")
    block = text.partition("## Your own data")[2].partition("```console\n")[2].partition("```")[0]
    assert [line.removeprefix("$ ").partition("   #")[0].rstrip() for line in block.splitlines()] == commands
    assert len(commands) == 10
