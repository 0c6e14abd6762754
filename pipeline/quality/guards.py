"""The guard that checks the loaded model before it scores anything. The others are in builtin.py and outputs.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.quality import history
from pipeline.quality.verdict import built_in, stop
from pipeline.records import CheckResult, RunRecord

if TYPE_CHECKING:
    from pipeline.context import Context
    from pipeline.model.manifest import Manifest
    from pipeline.model.predictor import Predictor


def golden_batch(ctx: Context, record: RunRecord, manifest: Manifest, predictor: Predictor) -> tuple[CheckResult, ...]:
    """Runs the model over its golden batch. Returns no check if the model was registered without one.

    Raises QualityStop if the batch is not reproduced, ModelMismatch if `golden.parquet` is not the registered one.
    """
    from pipeline.model import golden

    content = ctx.registry.golden(manifest)
    if content is None:
        return ()
    found = golden.compare(predictor, content)
    check = built_in(
        ctx.job,
        "model",
        "golden_batch",
        success=found.reproduced,
        observed=f"off by {found.largest:.2g}, {found.tolerance:g} allowed on {predictor.device}{_in(found.precision)}",
        guard=True,
        engine="model",
    )
    if check.outcome == "stopped":
        history.write_run(ctx, record, "model", [check])
        what, next_step = _stopped(found.precision)
        raise stop(
            [*record.checks, check],
            f"the model {manifest.name} {manifest.version} {what}",
            ctx.registry.root / manifest.name / manifest.version,
            f"{next_step}; nothing was scored",
        )
    return (check,)


def _in(precision: str) -> str:
    return "" if precision == "float32" else f" in {precision}"


def _stopped(precision: str) -> tuple[str, str]:
    """Returns what is wrong with the model, and what to do about it."""
    if precision == "float32":
        return (
            "does not reproduce its golden batch",
            "compare the versions of torch and other libraries with those in lakescore models show",
        )
    return f"is too far off in {precision}", 'set precision = "float32" under [engine] in job.toml'
