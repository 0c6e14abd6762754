"""The two validation stages: the input before anything is scored, the predictions before any becomes visible."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline import startup
from pipeline.context import Context, timed
from pipeline.database.connection import translated_errors
from pipeline.errors import counted
from pipeline.lake.layout import Partition
from pipeline.quality import evaluating, examine, history, outputs, verdict
from pipeline.records import Addition, CheckResult, Plan, Rule, RunRecord, StageReport
from pipeline.selecting.views import select
from pipeline.suite import row_rules

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.quality.examine import Examined
    from pipeline.selecting.views import DayInput


def validate_input(ctx: Context, record: RunRecord) -> Addition:
    """Stage: validates the day's input, and adds to the plan the rules by which rows are quarantined.

    Raises QualityStop if a critical check fails, or if more rows break a rule than the job allows.
    """
    partition = Partition.of(record)
    with timed("validate_input") as clock, select(ctx, record.plan, partition) as selected:
        day = selected.day_input(ctx)
        with translated_errors(partition.folder, selected.reads):
            inputs = ctx.manifest_of(record).signature.inputs
            found = examine.examine(ctx, day, record.ds, record.plan.key, record.plan.features, inputs)
        history.write_run(ctx, record, "input", found.checks, found.findings)
        _stop_if_critical(ctx, record, found.checks, "the input fails")
        plan = with_broken_rules(ctx, record.plan, record.ds, found.broken)
        if found.broken and not plan.released:
            _stop_if_too_many(ctx, record, day, found)
        clock.rows = day.rows
    return Addition({"plan": plan}, stages=_reports(clock.report), checks={"input": found.checks})


def _reports(report: StageReport) -> tuple[StageReport, ...]:
    """Returns the report of a stage; if Great Expectations was imported within it, after the report of that."""
    imported = evaluating.taken()
    if imported is None:
        return (report,)
    here = imported if not startup.is_owned() else imported.model_copy(update={"cpu_s": 0.0})
    return imported, report.without(here)


def with_broken_rules(ctx: Context, plan: Plan, ds: str, broken: tuple[Rule, ...]) -> Plan:
    """Returns the plan with the rules by which rows are quarantined, and the files that release some of these rows."""
    released = tuple(ctx.lake.storage.files(f"releases/job={ctx.job.name}/ds={ds}")) if broken else ()
    return plan.model_copy(update={"broken": broken, "released": released})


def validate_output(ctx: Context, record: RunRecord) -> Addition:
    """Stage: validates the staged predictions, and the partition including them.

    Raises QualityStop if a critical check fails; what was staged is then moved to `.rejected/`, which no run reads.
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
                f"nothing was committed. {_next_step(found.checks, record)}",
            )
        clock.rows = record.dispositions.get("scored", 0)
    return Addition(stages=_reports(clock.report), checks={"output": found.checks})


def _next_step(checks: Sequence[CheckResult], record: RunRecord) -> str:
    if record.plan.base and any(check.name == "keys_once" and check.outcome == "stopped" for check in checks):
        return (
            "If another program has written among the predictions, a key is stored twice, and was scored twice: "
            "`lakescore verify` names the files; a copy must go. Then run again"
        )
    return "Look at the staged files there, correct the model or the input, and run again"


def _stop_if_critical(ctx: Context, record: RunRecord, checks: Sequence[CheckResult], what: str) -> None:
    if any(check.outcome == "stopped" for check in checks):
        raise verdict.stop(
            checks,
            f"{what} for {record.ds}",
            ctx.job.folder,
            "nothing was scored. Correct the input or the suite, or switch off a built-in check: docs/quality.md",
        )


def _stop_if_too_many(ctx: Context, record: RunRecord, day: DayInput, found: Examined) -> None:
    """Raises QualityStop if too many rows break a rule: after scoring they would stop the run anyway."""
    marked = row_rules.mark(day.relation, found.broken)
    with translated_errors(record.ds):
        rows = int(marked.aggregate(f"count_if(len({row_rules.BROKEN}) > 0)").fetchall()[0][0])
    share = rows / record.plan.candidates.rows
    if share > ctx.job.policy.max_quarantined:
        guilty = [check for check in found.checks if check.outcome == "quarantined"]
        stopped = [check.model_copy(update={"outcome": "stopped"}) for check in guilty]
        raise verdict.stop(
            [*stopped, *(check for check in found.checks if check not in guilty)],
            f"{rows:,} of {counted(record.plan.candidates.rows, 'row')} of {record.ds} ({share:.1%}) "
            f"{'breaks' if rows == 1 else 'break'} a rule, "
            f"more than max_quarantined = {ctx.job.policy.max_quarantined:.1%}",
            ctx.job.folder,
            "correct the input or the suite, or raise max_quarantined in job.toml",
        )
