"""docs/examples.md: the examples of `lakescore init`, run from the installed wheel, print what is documented."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from csv import reader
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pyarrow.csv import read_csv

from tests.docs import transcripts
from tests.installed import Installed
from tests.orchestration.receivers import web_hook

DOCUMENT = "examples.md"
WEEKS = ("2026-01-05", "2026-01-12", "2026-01-19")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture
def shell(installed: Installed, tmp_path: Path) -> Callable[[str], str]:
    """Runs commands one after the other in an empty folder, by what is installed from the wheel."""
    return lambda command: installed.shell(command, tmp_path).replace(f"{tmp_path}/", "")


def rows(shell: Callable[[str], str], query: str) -> list[list[str]]:
    """Returns the rows of a query, without the line of the columns."""
    return list(reader(shell(f'lakescore query "{query}" --format csv').splitlines()))[1:]


def keys(path: Path) -> list[str]:
    found: list[str] = (read_csv if path.suffix == ".csv" else pq.read_table)(path).column("customer_id").to_pylist()
    return found


def one(folder: Path, ds: str, name: str) -> Path:
    (found,) = folder.glob(f"drop/campaign/*/{ds}/*/{name}")
    return found


def uncommented(job: Path) -> None:
    """Lets a job announce what it delivers, as the comment in its file says."""
    text = job.read_text("utf-8")
    assert "# announce" in text
    job.write_text(text.replace("# announce", "announce"), "utf-8")


def test_campaign(shell: Callable[[str], str], installed: Installed, tmp_path: Path) -> None:
    printed = dict(transcripts.follow(DOCUMENT, "campaign", shell))
    assert (
        "3 up to date; 0 rows scored" in printed["lakescore backfill --job campaign --from 2026-01-05 --to 2026-01-19"]
    )
    exports = rows(shell, "SELECT ds, key_text, export_group FROM exports WHERE target = 'win_back'")
    assert Counter(ds for ds, *_ in exports) == dict.fromkeys(WEEKS, 10_000)
    opted_out = set((tmp_path / "opted_out.csv").read_text().split()[1:])
    files = [path for path in (tmp_path / "drop").rglob("win_back*.*") if path.is_file()]
    assert len(files) == 12, "rows and holdout, as CSV and as Parquet, of three weeks"
    for path in files:
        assert not opted_out & set(keys(path)), path
    for ds in WEEKS:
        assert keys(one(tmp_path, ds, "win_back.csv")) == keys(one(tmp_path, ds, "win_back_parquet.parquet"))
    groups: dict[str, set[str]] = {}
    for _, key, group in exports:
        groups.setdefault(key, set()).add(group)
    often = Counter(key for _, key, _ in exports)
    assert sum(times == 3 for times in often.values()) > 5_000
    assert all(len(found) == 1 for found in groups.values()), "a customer has changed the group between two weeks"
    assert {"target", "holdout"} == set().union(*groups.values())
    page = (tmp_path / "lake" / "reports" / "index.html").read_text("utf-8")
    assert page.count("<td>beyond chance</td>") == 3
    marketing_is_told_once(installed, tmp_path)


def marketing_is_told_once(installed: Installed, folder: Path) -> None:
    """Runs the next week twice, with a receiver of messages."""
    uncommented(folder / "dags" / "jobs" / "campaign" / "job.toml")
    with web_hook() as hook:
        for _ in range(2):
            installed.shell("lakescore run --job campaign --date 2026-01-26", folder, MARKETING=hook.url)
    (message,) = hook.received
    assert message["title"].startswith("win_back 2026-01-26: ")
    (link,) = re.findall(r"https://files\.example\.com/drop/campaign/win_back/(\S+/win_back\.csv)", message["message"])
    assert (folder / "drop" / "campaign" / "win_back" / link).is_file()


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
