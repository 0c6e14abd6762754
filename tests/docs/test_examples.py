"""docs/examples.md: the examples of `lakescore init`, run from the installed wheel, print what is documented."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.docs import transcripts
from tests.installed import Installed

DOCUMENT = "examples.md"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture
def shell(installed: Installed, tmp_path: Path) -> Callable[[str], str]:
    """Runs commands one after the other in an empty folder, by what is installed from the wheel."""
    return lambda command: installed.shell(command, tmp_path)


def rows(shell: Callable[[str], str], query: str) -> list[list[str]]:
    """Returns the rows of a query, without the line of the columns."""
    return [line.split(",") for line in shell(f'lakescore query "{query}" --format csv').splitlines()[1:]]


ALL_ROWS = "SELECT {} FROM predictions AS p JOIN labels AS l USING (job, ds, key_text) WHERE {}"


def test_risk(shell: Callable[[str], str]) -> None:
    printed = dict(transcripts.follow(DOCUMENT, "risk", shell))
    assert "7 up to date; 0 rows scored" in printed["lakescore backfill --job risk --from 2026-01-15 --to 2026-01-21"]
    alerts = rows(shell, "SELECT case_id, count(*) FROM flags WHERE alert = 'sent' GROUP BY case_id")
    assert len(alerts) > 30
    assert {times for _, times in alerts} == {"1"}, "a case has alerted twice within the week"
    per_day = rows(
        shell, "SELECT ds, count(*) FILTER (alert = 'sent'), count(*) FILTER (alert = 'cut') FROM flags GROUP BY ds"
    )
    assert max(int(sent) for _, sent, _ in per_day) == 10, "the budget is used up, and not more"
    assert any(int(cut) > 0 for *_, cut in per_day)
    planted = ALL_ROWS.format("count(DISTINCT account)", "l.label = '1'")
    told = "p.account IN (SELECT case_id FROM flags WHERE alert = 'sent')"
    alerts_right = ALL_ROWS.format("count(DISTINCT account)", f"l.label = '1' AND {told}")
    ((taken_over,),), ((found,),) = rows(shell, planted), rows(shell, alerts_right)
    assert int(found) / len(alerts) >= 0.8, "as docs/examples.md says"
    assert int(found) / int(taken_over) >= 0.9
