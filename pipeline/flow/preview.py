"""Tells what a run would do, and how long it would take. Writes nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.buckets.choosing import Choice, expected
from pipeline.context import Context
from pipeline.database.connection import translated_errors
from pipeline.lake.layout import Partition
from pipeline.quality import examine
from pipeline.quality.stage import with_broken_rules
from pipeline.records import ModelRef
from pipeline.scoring.batch import prepare
from pipeline.selecting.imported import reading_only
from pipeline.selecting.input import check_input
from pipeline.selecting.plan import make_plan
from pipeline.selecting.triage import REASONS
from pipeline.selecting.up_to_date import find_valid_run
from pipeline.selecting.views import Selection, select
from pipeline.selecting.withdrawn import unmarked, withdrawn

if TYPE_CHECKING:
    from pipeline.model.manifest import Manifest

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
    input_files: int
    choice: Choice
    """What would score the day."""
    rows_per_s: float | None
    """Speed of a recent run of this job that scored at least 1,000 rows; None if there is none."""

    @property
    def estimated_s(self) -> float | None:
        """Estimated seconds of scoring, without start-up (about 3 s)."""
        return self.dispositions["scored"] / self.rows_per_s if self.rows_per_s else None

    def as_dict(self) -> dict[str, Any]:
        others = {"model": self.model.model_dump(), "estimated_s": self.estimated_s, **vars(self.choice)}
        return {name: value for name, value in vars(self).items() if name != "choice"} | others


def preview(ctx: Context, ds: str) -> Preview:
    """Counts the rows of a day by what a run would do with them. Raises what a run would raise before it scores."""
    with reading_only(ctx) as reading:
        return _preview(reading, ds)


def _preview(ctx: Context, ds: str) -> Preview:
    manifest = ctx.manifest()
    found = find_valid_run(ctx, manifest, ds)
    if found is not None and (done := found.record).ledger is not None:
        counts = {**done.ledger.counts(), "scored": 0, "withdrawn": done.withdrawn, "carried_left": done.carried_left}
        counts["unchanged"] = counts["candidates"] - counts["quarantined"] - counts["duplicates"]
        files = sum(map(len, done.plan.input.values()))
    else:
        counts, files = _count(ctx, manifest, ds)
    job = ctx.job.input
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
        input_files=files,
        choice=expected(ctx, counts["candidates"], len({*job.key, *job.carry, *manifest.signature.features})),
        rows_per_s=_past_speed(ctx, ds),
    )


def _count(ctx: Context, manifest: Manifest, ds: str) -> tuple[dict[str, int], int]:
    plan = make_plan(ctx, manifest, ds, check_input(ctx, manifest, ds))
    partition = Partition(ctx.job.name, ds, manifest.version)
    with select(ctx, plan, partition) as selected:
        broken = examine.broken_rules(ctx, selected.day_input(ctx)) if ctx.job.quality.enabled else ()
        plan = with_broken_rules(ctx, plan, ds, broken)
    with select(ctx, plan, partition) as selected:
        counts = _count_rows(ctx, selected)
    return {**counts, "candidates": plan.candidates.rows}, sum(map(len, plan.input.values()))


def _count_rows(ctx: Context, selected: Selection) -> Counter[str]:
    """Counts what a run would do with each row, by disposition and reason. Runs no model and writes nothing."""
    with translated_errors(selected.partition.folder, selected.reads):
        unselected = 0 if selected.unselected is None else selected.unselected.aggregate("count(*)").fetchall()[0][0]
        counts = Counter(quarantined=int(unselected), duplicates=selected.term("committing/duplicates").rows)
        counts["withdrawn"] = withdrawn(selected)
        if ctx.job.policy.withdrawn == "mark":
            counts["to_mark"] = unmarked(selected).rows
        signature = ctx.registry.resolve(ctx.job.model.name, selected.partition.version).signature
        with selected.to_score([]).to_arrow_reader(ctx.batch_rows(signature.width)) as reader:
            for batch in reader:
                counts += prepare(batch, signature, ctx.job.policy, kept=()).counts
                ctx.progress("plan", counts["scored"] + counts["unchanged"], selected.plan.candidates.rows)
    return counts


def _past_speed(ctx: Context, ds: str) -> float | None:
    """Returns the speed of the newest run that scored enough rows: of this day, else of the five newest other days."""
    days = [day for day in reversed(ctx.lake.records.days(ctx.job.name)) if day != ds]
    for day in [ds, *days[:5]]:
        for record in ctx.lake.records.iter_day(ctx.job.name, day):
            for stage in record.stages:
                if stage.stage == "score" and stage.rows >= 1000:
                    return stage.rows_per_s
    return None
