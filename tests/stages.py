"""Runs single stages in this process, each as `run_day` does, for tests that check the state between stages."""

from __future__ import annotations

from pipeline.context import Context
from pipeline.flow import stage_list
from pipeline.flow.day import run_stage
from pipeline.records import RunRecord
from pipeline.selecting.plan import plan
from tests.workspace import DAY

STAGES = ("plan", "validate_input", "score", "validate_output", "profile", "commit", "drift", "report")
"""Names of the stages that a run passes through."""


def stage(ctx: Context, record: RunRecord, *names: str) -> RunRecord:
    """Runs the named stages of a run, even those already done; returns its record."""
    for name in names:
        record = run_stage(ctx, stage_list.find(name), record)
    return record


def commit(ctx: Context, record: RunRecord) -> RunRecord:
    return stage(ctx, record, "commit")


def scored(ctx: Context, ds: str = DAY, run_id: str | None = None) -> RunRecord:
    """Plans a run and scores its rows; nothing is committed."""
    return stage(ctx, plan(ctx, ds, run_id), "score")
