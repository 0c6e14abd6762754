"""Whether a day is split, into how many buckets, and what is said about it before."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline import machine
from pipeline.buckets import work
from pipeline.buckets.choosing import Choice, buckets_of, expected, of_task, open_engine
from pipeline.buckets.work import Result, Work, check_machines, check_same_hash, look
from pipeline.context import Context
from pipeline.database.resources import Resources
from pipeline.engines.threads import Threads
from pipeline.errors import UsageError
from pipeline.flow.preview import preview
from pipeline.records import RunRecord, StageReport
from pipeline.selecting.plan import plan
from tests.calling import Cli
from tests.workspace import DAY, Workspace


def score_report(record: RunRecord) -> StageReport:
    return next(report for report in record.stages if report.stage == "score")


def engine(workspace: Workspace, text: str, **settings: Any) -> Context:
    path = workspace.settings.jobs / "toy" / "job.toml"
    before = path.read_text().partition("\n[engine]")[0]
    path.unlink()
    path.write_text(f"{before}\n[engine]\n{text}\n")
    return workspace.context(**settings)


@pytest.mark.parametrize(
    ("rows", "columns", "slots", "buckets"),
    [
        (1, 3, 2, 2),
        (5_000_000, 8, 2, 6),  # a million rows each
        (5_000_000, 8, 1, 5),
        (5_000_000, 200, 2, 24),  # 350 MB hold 218,750 rows of 200 columns
        (100_000_000, 8, 16, 112),
    ],
)
def test_buckets_have_a_million_rows_or_as_many_as_fit_into_memory(
    workspace: Workspace, rows: int, columns: int, slots: int, buckets: int
) -> None:
    assert buckets_of(workspace.context(memory_limit="350MB"), rows, columns, slots) == buckets


def test_processes_share_the_memory_of_the_machine(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace.day(10)
    monkeypatch.setattr(machine, "usable_memory", lambda: 16 * 10**9)
    ctx = engine(workspace, 'name = "processes"\nmemory_limit = "4GB"', threads=8)
    assert expected(ctx, 64_000_000, 1000) == Choice("processes", 512)  # 1 GB holds 125,000 rows of 1,000 columns
    assert of_task(ctx, 8).resources(1000) == Resources("1000MB", 1)
    assert of_task(ctx, 200).batch_rows(1000) == 2048 < of_task(ctx, 1).batch_rows(1000)
    record = plan(workspace.context(), DAY)
    task = Work.of(of_task(replace(ctx, frugal=True), 8), record, 512).open()
    assert (task.processes, task.frugal, task.resources(1000)) == (8, True, Resources("1000MB", 1))
    ctx = engine(workspace, 'name = "spark"\nmemory_limit = "4GB"')
    assert of_task(ctx, 8).resources(1000) == Resources("4GB", 1)
    monkeypatch.setattr(machine, "usable_memory", lambda: 10**9)
    with open_engine(engine(workspace, 'name = "processes"', threads=None)) as processes:
        assert processes.slots == 1


def test_choice_follows_the_job_and_the_rows(workspace: Workspace) -> None:
    assert expected(workspace.context(), 10**9, 8) == Choice("threads", None)
    ctx = engine(workspace, 'name = "processes"')
    assert expected(ctx, 999_999, 8) == Choice("threads", None)
    assert expected(ctx, 1_000_000, 8) == Choice("processes", 2)
    ctx = engine(workspace, 'name = "spark"\nmin_rows = 0')
    assert expected(ctx, 3_000_000, 8) == Choice("spark", 3, at_least=True)
    ctx = engine(workspace, 'name = "spark"\nmin_rows = 0\nbuckets = 7')
    assert expected(ctx, 3_000_000, 8) == Choice("spark", 7)
    assert expected(ctx, 0, 8) == Choice("threads", None)


def test_plan_says_what_would_score_a_day(workspace: Workspace, cli: Cli) -> None:
    workspace.day(100)
    assert preview(workspace.context(), DAY).choice == Choice("threads", None)
    ctx = engine(workspace, 'name = "processes"\nmin_rows = 100\nbuckets = 5')
    found = preview(ctx, DAY).as_dict()
    assert (found["engine"], found["buckets"], found["at_least"]) == ("processes", 5, False)
    assert "scored in 5 buckets of keys, by processes" in cli("plan", "--job", "toy", "--date", DAY).stdout
    engine(workspace, 'name = "spark"\nmin_rows = 100')
    assert "scored in 1 bucket of keys or more, by spark" in cli("plan", "--job", "toy", "--date", DAY).stdout


def test_plan_estimates_the_cost_from_runs_that_were_scored_alike(workspace: Workspace, cli: Cli) -> None:
    workspace.day(2000)
    first = score_report(workspace.complete())
    workspace.day(3000, "2026-01-02")
    ctx = engine(workspace, 'name = "processes"\nmin_rows = 1\nbuckets = 2')
    found = preview(ctx, "2026-01-02")
    assert (found.rows_per_s, found.scored_alike) == (first.rows_per_s, False)
    assert found.estimated_cpu_s == pytest.approx(first.cpu_s * 1.5)
    assert found.as_dict()["estimated_cpu_s"] == found.estimated_cpu_s
    assert "a past run, whose day was scored otherwise" in cli("plan", "--job", "toy", "--date", "2026-01-02").stdout
    lake = ctx.lake
    record = lake.records.last_complete("toy", DAY)
    assert record is not None
    bucketed = first.model_copy(update={"buckets": 2, "wall_s": first.wall_s * 3})
    older = record.with_(run_id="20260101T000000Z-00000000", stages=(bucketed,))
    lake.records.create(older)
    found = preview(ctx, "2026-01-02")
    assert (found.rows_per_s, found.scored_alike) == (bucketed.rows_per_s, True)
    assert preview(engine(workspace, 'name = "threads"'), "2026-01-02").rows_per_s == first.rows_per_s


def test_machines_that_do_not_fit_are_named(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace.day(100)
    ctx = workspace.context()
    record = plan(ctx, DAY)
    check_machines(Threads(2), ctx, record)
    assert not list(workspace.lake.glob(".staging/**/sight-*"))

    def answered(**found: object) -> None:
        monkeypatch.setattr(work, "look", lambda text: json.dumps({**json.loads(look(text)), **found}))

    answered(sees=False)
    with pytest.raises(UsageError, match="does not see the lake") as raised:
        check_machines(Threads(1), ctx, record)
    assert sys.executable in str(raised.value.where)
    answered(code="another")
    with pytest.raises(UsageError, match="another version of Lakescore"):
        check_machines(Threads(1), ctx, record)
    monkeypatch.setattr(work, "look", look)
    monkeypatch.setattr(work, "PACKAGES", ("numpy", "nowhere_to_be_found"))
    with pytest.raises(UsageError, match="lacks the package nowhere_to_be_found"):
        check_machines(Threads(1), ctx, record)


def test_lake_or_model_that_a_machine_does_not_see_is_named(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.day(100)
    ctx = workspace.context()
    record = plan(ctx, DAY)

    def elsewhere(name: str) -> None:
        def moved(text: str) -> str:
            task = json.loads(text)
            return look(json.dumps({**task, "work": {**task["work"], name: str(tmp_path / "elsewhere")}}))

        monkeypatch.setattr(work, "look", moved)

    elsewhere("lake")
    with pytest.raises(UsageError, match="does not see the lake"):
        check_machines(Threads(1), ctx, record)
    elsewhere("models")
    with pytest.raises(UsageError, match="cannot open the lake, or the model") as raised:
        check_machines(Threads(1), ctx, record)
    assert "elsewhere" in str(raised.value.got)


def test_other_versions_of_duckdb_are_refused() -> None:
    one = Result(cpu_s=0.0, peak_memory_bytes=0)
    check_same_hash([one, one])
    with pytest.raises(UsageError, match="different versions of DuckDB") as raised:
        check_same_hash([one, one.model_copy(update={"duckdb": "1.0.0"})])
    assert raised.value.got == "1.0.0"
