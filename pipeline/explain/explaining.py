"""Collects all that is stored about a key: predictions, quarantine, input rows, and on request a replay."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pipeline.context import Context
from pipeline.database.connection import connect, translated_errors
from pipeline.errors import ModelError, UsageError
from pipeline.explain import history, inputs
from pipeline.explain.found import FoundPrediction, FoundRejection

if TYPE_CHECKING:
    import pyarrow as pa
    from duckdb import DuckDBPyConnection as Connection


@dataclass(frozen=True)
class Answer:
    """What is stored about a key."""

    job: str
    key: str
    predictions: list[FoundPrediction]
    """Predictions of the key, newest day first and the current one first within a day."""
    rejected: list[FoundRejection]
    notes: list[str]
    """Messages about what could not be replayed, and why."""

    def as_dict(self) -> dict[str, Any]:
        return {
            "job": self.job,
            "key": self.key,
            "predictions": [each.as_dict() for each in self.predictions],
            "quarantine": [asdict(each) for each in self.rejected],
            "notes": self.notes,
        }

    def to_arrow(self) -> pa.Table:
        """Returns one row per prediction: when and by what it was made, its outputs and carried columns, its input.

        With a replay, `difference` is that of `Replay`, and `attribution` of one prediction lists what each feature
        adds to the score.
        """
        import pyarrow as pa

        rows = [_row(each) for each in self.predictions]
        names = list(dict.fromkeys(name for row in rows for name in row))
        return pa.table({name: [row.get(name) for row in rows] for name in names})


def _row(each: FoundPrediction) -> dict[str, Any]:
    own = ("ds", "model", "model_version", "revision", "current", "reason", "scored_at", "run_id", "part")
    row = {name: getattr(each, name) for name in own} | each.outputs | each.carried
    row["input_same"] = each.input.same if each.input else None
    row["difference"] = each.replay.difference if each.replay else None
    row["attribution"] = None
    if (found := each.attribution) is not None:
        row["attribution"] = [
            {"feature": name, "baseline": found.baseline_features[name], "adds": share}
            for name, share in found.shares.items()
        ]
    return row


def explain(ctx: Context, text: str, ds: str | None = None, *, replay: bool = False) -> Answer:
    """Looks up a key in everything stored for a job, or in one day; `text` is written as `key_text`.

    `replay` loads the models, scores the input rows again, and attributes one score, if possible that of the first
    prediction. Raises UsageError if nothing is stored for the key, or if it cannot be a key of the job;
    OutOfMemory if DuckDB's memory is too small.
    """
    limits = ctx.resources()
    with connect(limits.memory_limit, limits.threads) as con, translated_errors(ctx.lake.storage):
        ctx.lake.storage.attach(con)
        con.execute("SET parquet_metadata_cache = true")
        found = history.predictions(ctx, con, text, history.days_of(ctx, ds))
        rejected = history.rejected(ctx, con, text, history.quarantine_days(ctx, ds))
        if not found and not rejected:
            others = _days(ctx, con, text) if ds is not None else []
            raise UsageError(
                f"nothing is stored for the key {text!r}",
                where=f"job {ctx.job.name}" + (f", {ds}" if ds else ""),
                expected=f"a value of {', '.join(ctx.job.input.key)}",
                got=f"it is stored for {', '.join(others)}" if others else None,
                next_step=f"lakescore explain {shlex.quote(text)} --job {ctx.job.name} --date {others[0]}"
                if others
                else 'lakescore query "SELECT key_text FROM predictions LIMIT 5" shows some',
            )
        for each in found:
            if each.record is not None and not each.withdrawn:
                each.input = inputs.find(ctx, con, text, each.record, each.fingerprint)
        notes = _replay(ctx, con, found) if replay else []
    return Answer(ctx.job.name, text, found, rejected, notes)


def _days(ctx: Context, con: Connection, text: str) -> list[str]:
    """Returns all days for which something is stored for a key, newest first."""
    found = history.predictions(ctx, con, text, history.days_of(ctx, None))
    rejected = history.rejected(ctx, con, text, history.quarantine_days(ctx, None))
    return sorted({each.ds for each in found} | {each.ds for each in rejected}, reverse=True)


def _replay(ctx: Context, con: Connection, found: list[FoundPrediction]) -> list[str]:
    """Adds replays, and an attribution of the first prediction that can have one; returns messages about failures."""
    from pipeline.explain import replay

    models, notes = replay.Models(ctx, con), []
    for each in found:
        try:
            each.replay = replay.replay(models, each)
            if each.replay and not any(other.attribution for other in found):
                each.attribution = replay.attribution(models, each)
        except ModelError as error:
            notes.append(f"{each.ds} {each.model_version} cannot be replayed: {error.what}")
        except replay.NoAttribution as why:
            notes.append(f"no attribution of {each.model_version}: {why}")
    return list(dict.fromkeys(notes))
