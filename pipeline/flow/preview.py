"""Tells what a run would do, and how long it would take. Writes nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pipeline.buckets.choosing import Choice, expected
from pipeline.context import Context
from pipeline.database.connection import translated_errors
from pipeline.errors import counted
from pipeline.lake.layout import Partition
from pipeline.quality import examine, rejections, verdict
from pipeline.quality.rejections import Reason
from pipeline.quality.stage import with_broken_rules
from pipeline.records import ModelRef, StageReport
from pipeline.scoring.batch import prepare, reasons_of_unselected
from pipeline.selecting.imported import reading_only
from pipeline.selecting.input import check_input
from pipeline.selecting.plan import make_plan
from pipeline.selecting.triage import REASONS
from pipeline.selecting.up_to_date import find_valid_run
from pipeline.selecting.views import Selection, select
from pipeline.selecting.withdrawn import unmarked, withdrawn

if TYPE_CHECKING:
    from pipeline.model.manifest import Manifest, Signature

LEDGER = ("scored", "unchanged", "quarantined", "duplicates")


@dataclass(frozen=True)
class Preview:
    ds: str
    model: ModelRef
    up_to_date: bool
    renews: str | None
    """Run whose results a run would make current again, without reading any data."""
    candidates: int
    dispositions: dict[str, int]
    reasons: dict[str, int]
    carried_left: int
    """Number of unchanged rows whose carried values differ from those that are stored, and would stay."""
    withdrawn: int
    """Number of keys that have a prediction but no longer a row in the input, whether they are marked or not."""
    to_mark: int
    """Number of these that a run would mark."""
    quarantine: tuple[Reason, ...]
    """Why rows would be quarantined, with a few of their keys."""
    stops: tuple[str, ...]
    """What would stop the run, in words; empty if nothing would, as far as the preview can tell."""
    input_files: int
    choice: Choice
    """What would score the day."""
    rows_per_s: float | None
    """Speed of a recent run of this job that scored at least 1,000 rows; None if there is none."""
    cpu_s_per_row: float | None
    """CPU seconds that this run has taken to score a row, in all its processes and on all machines."""
    scored_alike: bool
    """Whether this run was scored like the day would be: in buckets, or as a whole."""

    @property
    def estimated_s(self) -> float | None:
        """Estimated seconds of scoring, without start-up (about 3 s)."""
        return self.dispositions["scored"] / self.rows_per_s if self.rows_per_s else None

    @property
    def estimated_cpu_s(self) -> float | None:
        """Estimated CPU seconds of scoring, on all machines."""
        return None if self.cpu_s_per_row is None else self.dispositions["scored"] * self.cpu_s_per_row

    def as_dict(self) -> dict[str, Any]:
        quarantine = [asdict(each) for each in self.quarantine]
        others = {
            "quarantine": quarantine,
            "model": self.model.model_dump(),
            "estimated_s": self.estimated_s,
            "estimated_cpu_s": self.estimated_cpu_s,
            **vars(self.choice),
        }
        return {name: value for name, value in vars(self).items() if name != "choice"} | others


def preview(ctx: Context, ds: str, *, whole: bool = False) -> Preview:
    """Counts the rows of a day by what a run would do with them. Raises what a run would raise before it scores.

    `whole`: evaluates the input suite as a run does; by default only its row rules, which need no Great Expectations.
    """
    with reading_only(ctx) as reading:
        return _preview(reading, ds, whole=whole)


def _preview(ctx: Context, ds: str, *, whole: bool) -> Preview:
    manifest = ctx.manifest()
    stops: list[str] = []
    found = find_valid_run(ctx, manifest, ds)
    if found is not None and (done := found.record).ledger is not None:
        counts = {**done.ledger.counts(), "scored": 0, "withdrawn": done.withdrawn, "carried_left": done.carried_left}
        counts["unchanged"] = counts["candidates"] - counts["quarantined"] - counts["duplicates"]
        files = sum(map(len, done.plan.input.values()))
        reasons = rejections.of_run(ctx.lake, done)
    else:
        counts, files, reasons, stops = _count(ctx, manifest, ds, whole=whole)
    job = ctx.job.input
    choice = expected(ctx, counts["candidates"], len({*job.key, *job.carry, *manifest.signature.features}))
    past = _past_scoring(ctx, ds, in_buckets=choice.buckets is not None)
    return Preview(
        ds=ds,
        model=manifest.ref,
        up_to_date=found is not None and found.up_to_date,
        renews=found.record.run_id if found is not None and not found.up_to_date else None,
        candidates=counts["candidates"],
        dispositions={name: counts.get(name, 0) for name in LEDGER},
        reasons={name: counts.get(f"reason.{name}", 0) for name in REASONS},
        carried_left=counts.get("carried_left", 0),
        withdrawn=counts.get("withdrawn", 0),
        to_mark=counts.get("to_mark", 0),
        quarantine=tuple(reasons),
        stops=tuple(stops),
        input_files=files,
        choice=choice,
        rows_per_s=past.rows_per_s if past else None,
        cpu_s_per_row=past.cpu_s / past.rows if past else None,
        scored_alike=past is not None and (past.buckets is None) == (choice.buckets is None),
    )


def _count(
    ctx: Context, manifest: Manifest, ds: str, *, whole: bool
) -> tuple[dict[str, int], int, list[Reason], list[str]]:
    """Returns the counts of rows, the number of input files, why rows would be rejected, and what would stop a run."""
    plan = make_plan(ctx, manifest, ds, check_input(ctx, manifest, ds))
    partition = Partition(ctx.job.name, ds, manifest.version)
    stops: list[str] = []
    if ctx.job.quality.enabled:
        with select(ctx, plan, partition) as selected, translated_errors(partition.folder, selected.reads):
            inputs = manifest.signature.inputs
            found = examine.examine(
                ctx, selected.day_input(ctx), ds, plan.key, plan.features, inputs, only_rows=not whole
            )
        stops += [verdict.described(check) for check in found.checks if check.outcome == "stopped"]
        plan = with_broken_rules(ctx, plan, ds, found.broken)
    with select(ctx, plan, partition) as selected:
        counts, reasons = _count_rows(ctx, selected, manifest.signature)
    share, most = counts["quarantined"] / (plan.candidates.rows or 1), ctx.job.policy.max_quarantined
    if share > most:
        of = f"{counts['quarantined']:,} of {counted(plan.candidates.rows, 'row')}"
        stops.append(f"{of} would be quarantined, {share:.1%}, more than max_quarantined = {most:.1%}")
    return {**counts, "candidates": plan.candidates.rows}, sum(map(len, plan.input.values())), reasons, stops


def _count_rows(ctx: Context, selected: Selection, signature: Signature) -> tuple[Counter[str], list[Reason]]:
    """Counts what a run would do with each row, by disposition and reason. Runs no model and writes nothing."""
    policy, rows_at_once = ctx.job.policy, ctx.batch_rows(signature.width)
    tally = rejections.Tally(selected.plan.key)
    with translated_errors(selected.partition.folder, selected.reads):
        counts = Counter(duplicates=selected.term("committing/duplicates").rows)
        if selected.unselected is not None:
            with selected.unselected.to_arrow_reader(rows_at_once) as reader:
                for batch in reader:
                    tally.add(batch, reasons_of_unselected(batch, signature, policy))
                    counts["quarantined"] += batch.num_rows
        counts["withdrawn"] = withdrawn(selected)
        if policy.withdrawn == "mark":
            counts["to_mark"] = unmarked(selected).rows
        with selected.to_score([]).to_arrow_reader(rows_at_once) as reader:
            for batch in reader:
                prepared = prepare(batch, signature, policy, kept=())
                counts += prepared.counts
                if prepared.rejected is not None:
                    tally.add(prepared.rejected, prepared.rejection_reasons)
                ctx.progress("plan", counts["scored"] + counts["unchanged"], selected.plan.candidates.rows)
    return counts, tally.reasons()


def _past_scoring(ctx: Context, ds: str, *, in_buckets: bool) -> StageReport | None:
    """Returns the report of the newest run that scored enough rows: of this day, else of the five newest other days.

    One that scored in buckets, or as a whole, as the day would be scored, comes first.
    """
    days = [day for day in reversed(ctx.lake.records.days(ctx.job.name)) if day != ds]
    other = None
    for day in [ds, *days[:5]]:
        for record in ctx.lake.records.iter_day(ctx.job.name, day):
            for stage in record.stages:
                if stage.stage == "score" and stage.rows >= 1000:
                    if (stage.buckets is not None) == in_buckets:
                        return stage
                    other = other or stage
    return other
