"""The guard of the loaded model, before it scores anything. The others are in builtin.py and outputs.py."""

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
    """Runs the model over its golden batch; a model registered without one has no result.

    Raises QualityStop if it is not reproduced, ModelMismatch if `golden.parquet` is not the registered one.
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
        observed=f"off by {found.largest:.2g}, {found.tolerance:g} allowed on {predictor.device}",
        guard=True,
        engine="model",
    )
    if check.outcome == "stopped":
        history.write_run(ctx, record, "model", [check])
        raise stop(
            [*record.checks, check],
            f"the model {manifest.name} {manifest.version} is not the one registered",
            ctx.registry.root / manifest.name / manifest.version,
            "compare the versions of torch and the driver with those at registration; nothing was scored",
        )
    return (check,)
