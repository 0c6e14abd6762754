"""Options that several commands have: which of them contradict each other, and what they override."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.errors import UsageError
from pipeline.lake.layout import Lake
from tests.calling import Cli
from tests.ingest.reading import days_of

DAY = "2026-01-31"


@pytest.mark.parametrize(
    "options",
    [(), ("--date", DAY, "--partition-by", "day"), ("--date", DAY, "--append", "--replace"), ("--date", "yesterday")],
)
def test_import_with_contradicting_options_is_refused(
    lake: Lake, cli: Cli, tmp_path: Path, options: tuple[str, ...]
) -> None:
    (tmp_path / "a.csv").write_text("id,day\n1,2026-01-01\n")
    cli("import", "a.csv", *options, expect=UsageError)
    assert days_of(lake) == []


def test_lake_given_as_an_option_wins_over_the_environment(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAKESCORE_LAKE", "usual")
    given = json.loads(cli("generate", "--date", DAY, "--rows", 5, "--lake", "given", "--create", "--json").stdout)
    usual = json.loads(cli("generate", "--date", DAY, "--rows", 7, "--create", "--json").stdout)
    assert [day["rows"] for day in given + usual] == [5, 7]
    assert {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*.parquet")} == {"given", "usual"}
    assert (tmp_path / "given" / given[0]["files"][0]).stat().st_size == given[0]["bytes"]
