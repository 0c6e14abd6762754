"""`lakescore demo`: the first thing that a newcomer runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline.errors import UsageError
from tests.calling import Cli
from tests.cli.ledger import numbers


@pytest.mark.slow
def test_demo_scores_two_days_and_prints_their_ledgers_and_history(cli: Cli, tmp_path: Path) -> None:
    shown = cli("demo", "--dir", "tour", "--rows", 200).stdout
    assert re.search(r"v1, accuracy \d+% on customers it has not seen\n", shown)
    days = [numbers(part) for part in re.split(r"^\S.*, run \S+$", shown, flags=re.MULTILINE)[1:3]]
    for ledger in days:
        assert ledger.pop("candidates") == sum(ledger.values()) == 200
    assert len(re.findall(r"up to date, 200 rows .* no data was read", shown)) == 2
    history = shown.partition("4. The history")[2].partition("5. The report")[0]
    assert re.findall(r"^ *batch_inference +(\S+)", history, re.MULTILINE) == ["2026-01-01", "2026-01-02"]
    index = tmp_path / "tour" / "lake" / "reports" / "index.html"
    assert index.is_file()
    assert "lakescore explain user_000042 --replay" in shown.partition("Now try, in tour:\n")[2]

    again = cli("demo", "--dir", "tour", "--rows", 200).stdout
    assert "v1 is there from an earlier demo; lakescore demo --dir tour --fresh begins anew" in again
    assert len(re.findall(r"up to date, 200 rows .* no data was read", again)) == 4
    (tmp_path / "tour" / "notes.txt").write_text("of the earlier demo")
    fresh = cli("demo", "--dir", "tour", "--rows", 100, "--fresh").stdout
    assert "v1, accuracy" in fresh
    assert len(re.findall(r"up to date, 100 rows .* no data was read", fresh)) == 2
    assert not (tmp_path / "tour" / "notes.txt").exists()


@pytest.mark.parametrize("options", [(), ("--fresh",)])
def test_demo_leaves_a_folder_with_files_alone(cli: Cli, tmp_path: Path, options: tuple[str, ...]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    assert "is not empty" in cli("demo", "--dir", "mine", "--rows", 5, *options, expect=UsageError).stderr
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
