"""What needs attention: each trouble with its reason, its owner and its command, and none where nothing is wrong."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ModelNotFound
from pipeline.lake import unplanned
from pipeline.lake.layout import Lake, Partition
from pipeline.lake.patterns import Pattern
from pipeline.periods import Grain
from pipeline.records import RunRecord, State
from pipeline.report import attention, facts
from pipeline.report.attention import Trouble
from tests import lakes

DAYS = ["2026-01-05", "2026-01-06", "2026-01-07"]
MORNING = datetime(2026, 1, 8, 14, tzinfo=UTC)
SCHEDULE = {"every": "day", "cron": "0 2 * * *", "owner": "retail"}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return lakes.open_lake(tmp_path / "lake")


def add(lake: Lake, ds: str, state: State = State.complete, number: int = 0, **changes: Any) -> RunRecord:
    lakes.add_input(lake, ds, lakes.input_rows(["a", "b"]))
    record = lakes.add_run(lake, Partition("churn", ds, "v1"), state=state, scored=2, number=number)
    config = {"schedule": SCHEDULE, "input": {"path": lakes.PATTERN}}
    record = record.with_(**{"job_config": config, **changes})
    lakes.put_record(lake, record)
    return record


def found(lake: Lake, at: datetime = MORNING) -> dict[str, Trouble]:
    troubles = attention.of_jobs(lake, [facts.job_facts(lake, job) for job in facts.jobs(lake)], at)
    assert len({each.word for each in troubles}) == len(troubles)
    return {each.word: each for each in troubles}


def test_job_that_is_complete_and_on_time_needs_no_attention(lake: Lake) -> None:
    for ds in DAYS:
        add(lake, ds)
    assert found(lake) == {}


def test_days_that_failed_are_one_line_with_owner_reason_stage_and_a_command_for_all(lake: Lake) -> None:
    add(lake, DAYS[0])
    error = "a file cannot be read\n  where     part.parquet\n  next      restore it"
    for ds in DAYS[1:]:
        add(lake, ds, State.failed, error=error, ended_in="score")
    (trouble,) = found(lake).values()
    assert (trouble.word, trouble.owner, trouble.periods) == ("failed", "retail", 2)
    assert (trouble.since, trouble.ds) == (DAYS[1], DAYS[2])
    assert trouble.reason == "a file cannot be read: part.parquet, in score"
    where = str(lake.storage.where("")).rstrip("/")
    assert trouble.command == f"lakescore backfill --job churn --from {DAYS[1]} --to {DAYS[2]} --lake {where}"


def test_run_that_failed_after_another_was_complete_needs_attention(lake: Lake) -> None:
    for ds in DAYS:
        add(lake, ds)
    add(lake, DAYS[2], State.failed, number=1)
    trouble = found(lake)["failed"]
    assert trouble.page is not None
    assert trouble.page.endswith(f"{lakes.run_id(DAYS[2], 1)}.html")


def test_period_that_is_due_is_late_from_half_a_period_on(lake: Lake) -> None:
    for ds in DAYS:
        add(lake, ds)
    day_after = MORNING + timedelta(days=1)
    assert found(lake, day_after.replace(hour=11)) == {}
    trouble = found(lake, day_after.replace(hour=13))["late"]
    assert (trouble.since, trouble.ds, trouble.periods) == ("2026-01-08", "2026-01-08", 1)
    assert "--date 2026-01-08" in trouble.command


@pytest.mark.parametrize(
    "changes", [{"started_at": MORNING + timedelta(days=9)}, {"job_config": {"schedule": {"cron": ""}}}]
)
def test_job_that_is_run_by_hand_is_never_late(lake: Lake, changes: dict[str, Any]) -> None:
    add(lake, DAYS[0], **changes)
    assert "late" not in found(lake, MORNING + timedelta(days=20))


def test_input_that_has_changed_since_makes_a_day_partial(lake: Lake) -> None:
    for ds in DAYS:
        add(lake, ds)
    lakes.add_input(lake, DAYS[1], lakes.input_rows(["c"]), "more.parquet")
    trouble = found(lake)["partial"]
    assert (trouble.ds, trouble.periods) == (DAYS[1], 1)


def test_day_for_which_no_run_could_be_planned_has_failed_for_that_reason(lake: Lake) -> None:
    for ds in (DAYS[0], DAYS[2]):
        add(lake, ds)
    lakes.add_input(lake, DAYS[1], lakes.input_rows(["a"]))
    patterns = {"unscored": Pattern(lakes.PATTERN)}
    with pytest.raises(ModelNotFound), unplanned.noted(lake, "churn", patterns, DAYS[1]):
        raise ModelNotFound("no model is called x", where="models")
    trouble = found(lake)["failed"]
    assert (trouble.ds, trouble.page) == (DAYS[1], None)
    assert trouble.reason == "no run could be planned: no model is called x: models"


def test_words_of_a_weekly_job_are_those_of_weeks(lake: Lake) -> None:
    config = {"schedule": {**SCHEDULE, "every": "week"}, "input": {"path": lakes.PATTERN}}
    add(lake, "2026-01-05", State.failed, job_config=config)
    assert found(lake)["failed"].grain is Grain.week
