"""What the model before a change gave, and what the new one gives, counted alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.drift.comparing import BeforeChange
from pipeline.drift.days_before import FEWEST_DAYS
from pipeline.histograms.counting import WHOLE, Spec
from pipeline.profiles import store
from pipeline.profiles.stage import count_outputs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.context import Context
    from pipeline.histograms.table import Profile
    from pipeline.records import ModelRef, RunRecord

COMPARED = ("score", "class")


def before_change(ctx: Context, record: RunRecord, day: Profile, own: Mapping[str, Profile]) -> BeforeChange | None:
    """Returns the outputs of the model that scored the days before, or None if it is the same or has none to compare.

    The first days of a model have a comparison, until its own days in the window, `own`, are enough to compare with.
    Scores are counted again if the other model's bins have other edges: this reads the day's predictions.
    """
    periods = ctx.job.period(record.ds).before(ctx.job.drift.window_days)
    if sum(period.ds in own for period in periods) >= FEWEST_DAYS:
        return None
    if (model := _model_before(ctx, record, [period.ds for period in periods])) is None:
        return None
    history = store.recent_profiles(ctx, record.ds, model, 2 * ctx.job.drift.window_days)
    if WHOLE not in day or not any(WHOLE in profile for profile in history.values()):
        return None
    newest = max(ds for ds, profile in history.items() if WHOLE in profile)
    specs = _comparable({name: counts.spec for name, counts in day[WHOLE].items()}, history[newest])
    if not specs:
        return None
    if all(day[WHOLE][spec.name].spec == spec for spec in specs):
        names = {spec.name for spec in specs}
        counted = {
            place: {name: each for name, each in columns.items() if name in names} for place, columns in day.items()
        }
    else:
        counted = count_outputs(ctx, record, specs)
    return BeforeChange(model.version, counted, history)


def _model_before(ctx: Context, record: RunRecord, days: list[str]) -> ModelRef | None:
    """Returns the model of the newest of the days before whose predictions are another model's."""
    for ds in sorted(days, reverse=True):
        found = ctx.lake.records.last_complete(record.job, ds)
        if found is not None and found.model != record.model:
            return found.model
    return None


def _comparable(ours: Mapping[str, Spec], theirs: Profile) -> tuple[Spec, ...]:
    """Returns the other model's columns that mean the same: of the same classes, in any order for their shares."""
    found = [
        counts.spec
        for name, counts in theirs[WHOLE].items()
        if counts.spec.kind in COMPARED and name in ours and ours[name].kind == counts.spec.kind
    ]
    classes = [(spec.labels, ours[spec.name].labels) for spec in found if spec.kind == "class"]
    if any(set(before) != set(now) for before, now in classes):
        return ()
    if any(before != now for before, now in classes):  # the scores of class 1 are those of another class
        return tuple(spec for spec in found if spec.kind == "class")
    return tuple(found)
