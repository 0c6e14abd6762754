"""What a run would do, and how long it would take. Reads; writes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline import check, scoring, selection, unscored
from pipeline.context import Context
from pipeline.lake import Partition
from pipeline.quality import examine, stages
from pipeline.records import ModelRef

if TYPE_CHECKING:
    from pipeline.model.manifest import Manifest

LEDGER = ("scored", "unchanged", "quarantined", "duplicates")
REASONS = ("new", "changed", "model")


@dataclass(frozen=True)
class Preview:
    ds: str
    model: ModelRef
    up_to_date: bool
    candidates: int
    dispositions: dict[str, int]
    reasons: dict[str, int]
    withdrawn: int
    """Keys that have a prediction, but no row in the input any more."""
    input_files: int
    rows_per_s: float | None
    """Of the last run of this job that scored at least as many rows as a batch; None if there is none."""

    @property
    def estimated_s(self) -> float | None:
        """Seconds of scoring; start-up (about 3 s) comes on top."""
        return self.dispositions["scored"] / self.rows_per_s if self.rows_per_s else None

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "model": self.model.model_dump(), "estimated_s": self.estimated_s}


def preview(ctx: Context, ds: str) -> Preview:
    """Counts the rows of a day by what a run would do with them. Raises as a run would before it scores."""
    manifest = ctx.registry.resolve(ctx.job.model.name, ctx.job.model.version)
    done = check.up_to_date(ctx, manifest, ds)
    if done is not None and done.ledger is not None:
        counts = {**done.ledger.counts(), "scored": 0, "withdrawn": done.withdrawn}
        counts["unchanged"] = counts["candidates"] - counts["quarantined"] - counts["duplicates"]
        files = sum(map(len, done.plan.input.values()))
    else:
        counts, files = _count(ctx, manifest, ds)
    return Preview(
        ds=ds,
        model=manifest.ref,
        up_to_date=done is not None,
        candidates=counts["candidates"],
        dispositions={name: counts.get(name, 0) for name in LEDGER},
        reasons={name: counts.get(f"reason.{name}", 0) for name in REASONS},
        withdrawn=counts.get("withdrawn", 0),
        input_files=files,
        rows_per_s=_past_speed(ctx, ds),
    )


def _count(ctx: Context, manifest: Manifest, ds: str) -> tuple[dict[str, int], int]:
    plan = selection.make_plan(ctx, manifest, ds, unscored.check_input(ctx, manifest, ds))
    partition = Partition(ctx.job.name, ds, manifest.version)
    with selection.select(ctx, plan, partition) as selected:
        broken = examine.broken_rules(ctx, selected.con) if ctx.job.quality.enabled else ()
        plan = stages.with_broken_rules(ctx, plan, ds, broken)
    with selection.select(ctx, plan, partition) as selected:
        counts = scoring.preview(ctx, selected)
    return {**counts, "candidates": plan.candidates.rows}, sum(map(len, plan.input.values()))


def _past_speed(ctx: Context, ds: str) -> float | None:
    """Looks at this day, then at the newest days before it, a few at most."""
    days = [day for day in reversed(ctx.lake.run_days(ctx.job.name)) if day != ds]
    for day in [ds, *days[:5]]:
        for record in ctx.lake.iter_records(ctx.job.name, day):
            for stage in record.stages:
                if stage.stage == "score" and stage.rows >= 1000:
                    return stage.rows_per_s
    return None
