"""Finds everything that would stop a run of a job: not only the first problem. Writes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from pipeline.context import Context
from pipeline.errors import LakescoreError, QualityStop, counted
from pipeline.flow.preview import Preview, preview
from pipeline.model.identity import check_pinned, check_trusted
from pipeline.model.schema_check import check_features
from pipeline.quality import on_demand


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    subject: str
    found: str
    """What is there, if nothing is wrong."""
    error: LakescoreError | None = None


def newest_day(ctx: Context) -> str:
    """Returns the newest period with input, or else the one that is due."""
    days = ctx.lake.input_days(ctx.job.patterns.values())
    return days[-1] if days else ctx.job.last_due(datetime.now(UTC)).ds


def check(ctx: Context, ds: str) -> list[Finding]:
    """Checks the job, its model, its suites and the input of a period; what needs a part that is wrong is left out."""
    job = ctx.job
    key = ", ".join(job.input.key)
    done = [
        Finding("job.toml", f"{job.folder / 'job.toml'}, key {key}"),
        _tried("model", lambda: _model(ctx)),
        _tried("suites", lambda: _suites(ctx)),
    ]
    if all(each.error is None for each in done):
        done.append(_tried(f"run of {ds}", lambda: _run(preview(ctx, ds, whole=True), ctx)))
    else:
        done.append(_tried(f"input of {ds}", lambda: _input(ctx, ds)))
    return done


def _tried(subject: str, work: Callable[[], str]) -> Finding:
    try:
        return Finding(subject, work())
    except LakescoreError as error:
        return Finding(subject, "", error)


def _model(ctx: Context) -> str:
    manifest = ctx.manifest()
    check_pinned(manifest, ctx.job.model.digest)
    check_trusted(manifest, ctx.job.model.trusted)
    check_features(manifest, ctx.job.input.features, ctx.job.folder / "job.toml")
    return f"{manifest.name} {manifest.version}, {counted(len(manifest.signature.features), 'feature')}"


def _suites(ctx: Context) -> str:
    sizes = on_demand.check_suites(ctx)
    return ", ".join(f"{side}.json {counted(size, 'expectation')}" for side, size in sizes.items())


def _input(ctx: Context, ds: str) -> str:
    from pipeline.selecting.input import input_files

    return counted(sum(map(len, input_files(ctx, ds).values())), "file")


def _run(found: Preview, ctx: Context) -> str:
    if found.stops:
        raise QualityStop(
            f"a run of {found.ds} would be stopped",
            got="; ".join(found.stops),
            next_step=f"lakescore plan --job {ctx.job.name} --date {found.ds} shows the rows by reason",
        )
    scored, quarantined = found.dispositions["scored"], found.dispositions["quarantined"]
    return f"{counted(found.candidates, 'row')}, {scored:,} to score, {quarantined:,} for quarantine"
