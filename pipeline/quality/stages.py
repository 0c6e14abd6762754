"""The two stages: the input is validated before anything is scored, the predictions before any becomes visible."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from pipeline import database, selection
from pipeline.context import Context, timed
from pipeline.lake import Partition
from pipeline.quality import examine, history, outputs, rowrules, suite, verdict
from pipeline.quality.builtin import Keys
from pipeline.records import CheckResult, Plan, Rule, RunRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.quality.examine import Examined
    from pipeline.selection import Selection


def validate_input(ctx: Context, record: RunRecord) -> RunRecord:
    """The stage: judges the day's input, and notes in the plan the rules whose rows go to the quarantine.

    Raises QualityStop if a critical check fails, or if more rows break a rule than the job allows.
    """
    partition = Partition(record.job, record.ds, record.model.version)
    has_suite = bool(suite.load(ctx.job, "input") or suite.load(ctx.job, "output"))
    with timed("import_quality") as importing:
        if has_suite:
            importlib.import_module("pipeline.quality.gx_engine")
    with timed("validate_input") as clock, selection.select(ctx, record.plan, partition) as selected:
        keys = Keys(record.plan.candidates.rows, record.plan.null_keys, _repeated(selected))
        with database.explained(partition.folder, selected.reads):
            found = examine.examine(ctx, selected.con, record.ds, record.plan.key, record.plan.features, keys)
        history.write_run(ctx, record, "input", found.checks, found.findings)
        _stop_if_critical(ctx, record, found.checks, "the input fails")
        plan = with_broken_rules(ctx, record.plan, record.ds, found.broken)
        if found.broken and not plan.released:
            _stop_if_too_many(ctx, record, selected, found)
        clock.rows = keys.rows
    checks = (*(check for check in record.checks if check.suite != "input"), *found.checks)
    imported = (importing.report,) if has_suite else ()
    return record.with_(plan=plan, checks=checks, stages=(*record.stages, *imported, clock.report))


def with_broken_rules(ctx: Context, plan: Plan, ds: str, broken: tuple[Rule, ...]) -> Plan:
    """Returns the plan with the rules whose rows go to the quarantine, but for those that a person has released."""
    released = tuple(ctx.lake.storage.files(f"releases/job={ctx.job.name}/ds={ds}")) if broken else ()
    return plan.model_copy(update={"broken": broken, "released": released})


def validate_output(ctx: Context, record: RunRecord) -> RunRecord:
    """The stage: judges the staged predictions, and the partition as it would be with them.

    Raises QualityStop if a critical check fails; what was staged moves to `.rejected/` then, which no run reads.
    """
    with timed("validate_output") as clock:
        found = outputs.examine(ctx, record)
        of_model = [check for check in record.checks if check.suite == "model"]
        history.write_run(ctx, record, "output", [*of_model, *found.checks], found.findings)
        if any(check.outcome == "stopped" for check in found.checks):
            where = outputs.reject(ctx, record)
            raise verdict.stop(
                found.checks,
                f"the predictions of {record.ds} fail",
                where,
                "look at the staged files there; nothing was committed. Correct model or input, then run again",
            )
        clock.rows = record.dispositions.get("scored", 0)
    checks = (*(check for check in record.checks if check.suite != "output"), *found.checks)
    return record.with_(checks=checks, stages=(*record.stages, clock.report))


def _stop_if_critical(ctx: Context, record: RunRecord, checks: Sequence[CheckResult], what: str) -> None:
    if any(check.outcome == "stopped" for check in checks):
        raise verdict.stop(
            checks,
            f"{what} for {record.ds}",
            ctx.job.folder,
            "nothing was scored. Repair the input, or the suite; a built-in check can be switched off: docs/quality.md",
        )


def _stop_if_too_many(ctx: Context, record: RunRecord, selected: Selection, found: Examined) -> None:
    """Counts the rows that break any rule. They would stop the run after the scoring anyway."""
    marked = rowrules.mark(selected.con.view(examine.VIEW), found.broken)
    with database.explained(record.ds):
        rows = int(marked.aggregate(f"count_if(len({rowrules.BROKEN}) > 0)").fetchall()[0][0])
    share = rows / record.plan.candidates.rows
    if share > ctx.job.policy.max_quarantined:
        guilty = [check for check in found.checks if check.outcome == "quarantined"]
        stopped = [check.model_copy(update={"outcome": "stopped"}) for check in guilty]
        raise verdict.stop(
            [*stopped, *(check for check in found.checks if check not in guilty)],
            f"{rows:,} of {record.plan.candidates.rows:,} rows of {record.ds} ({share:.1%}) break a rule, "
            f"more than max_quarantined = {ctx.job.policy.max_quarantined:.1%}",
            ctx.job.folder,
            "repair the input or the suite, or raise max_quarantined in job.toml",
        )


def _repeated(selected: Selection) -> int:
    if not selected.plan.repeated:
        return 0
    return int(selected.count("quality/repeated")[0]["rows"])
