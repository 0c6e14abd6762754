"""explain: every prediction of a key, and its origin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.options import JOB, JobOption, JsonOption, LakeOption, open_context, period_or_none
from pipeline.cli.output import console, emit_json, table
from pipeline.errors import counted

if TYPE_CHECKING:
    from pipeline.explain.explaining import Answer
    from pipeline.explain.found import Attribution, FoundPrediction


def add_to(app: typer.Typer) -> None:
    app.command()(explain)


def explain(
    key: Annotated[
        str,
        typer.Argument(
            metavar="KEY", help="The key; join the values of several columns by commas.", show_default=False
        ),
    ],
    ds: Annotated[
        str | None, typer.Option("--date", help="Only this day, YYYY-MM-DD.", show_default="all days")
    ] = None,
    replay: Annotated[
        bool, typer.Option("--replay", help="Score the stored input again and attribute the score to features.")
    ] = False,
    job: JobOption = JOB,
    lake: LakeOption = None,
    *,
    json: JsonOption = False,
) -> None:
    """Show every prediction that a key ever had, and what it was computed from."""
    from pipeline.explain import explaining

    ctx = open_context(job, lake)
    found = explaining.explain(ctx, key, period_or_none(ctx.job, ds), replay=replay)
    if json:
        emit_json(found.as_dict())
        return
    _show(found)


def _show(found: Answer) -> None:
    out = console()
    out.print(f"[bold]{found.job}[/]", end=", ")
    count = sum(not each.withdrawn for each in found.predictions)
    out.print(f"key {found.key}: {counted(count, 'prediction')}", markup=False)
    if found.predictions:
        outputs = next((each.outputs for each in found.predictions if not each.withdrawn), {})
        names = [name for name in outputs if not name.startswith("prob_class_")]
        columns = ("day", "model", "rev", "", *names, "reason", "scored at", "input row", "checks", "drift", "replay")
        beside = ("scored at", "input row", "checks", "drift", "replay")
        table(columns, (_row(each, names) for each in found.predictions), below=beside)
        _show_details(found.predictions[0])
    if found.rejected:
        out.print("in quarantine now:")
        table(("day", "reasons", "run"), ((each.ds, ", ".join(each.reasons), each.run_id) for each in found.rejected))
    for note in found.notes:
        out.print(note, markup=False)


def _row(each: FoundPrediction, names: list[str]) -> list[Any]:
    return [
        each.ds,
        each.model_version,
        each.revision,
        "current" if each.current else "",
        *(each.outputs.get(name) for name in names),
        each.reason,
        f"{each.scored_at:%Y-%m-%d %H:%M:%S}",
        _input(each),
        ", ".join(f"{count} {outcome}" for outcome, count in each.checks.items()) or None,
        each.drift["outcome"] if each.drift else None,
        _replay(each),
    ]


def _input(each: FoundPrediction) -> str:
    if each.withdrawn:
        return "no row"
    if each.input is None:
        return "no run record"
    if each.input.features is None:
        return each.input.note or "gone"
    return "as scored" if each.input.same else "changed since"


def _replay(each: FoundPrediction) -> str | None:
    if each.replay is None:
        return None
    if each.replay.reproduced:
        return "the same"
    why = "" if each.replay.same_input else ", from different input"
    return f"differs by {each.replay.difference:.3g}{why}"


def _show_details(each: FoundPrediction) -> None:
    facts: dict[str, Any] = {
        "day": each.ds,
        "stored in": each.part,
        "fingerprint": each.fingerprint,
        "run": each.run_id + (f", {each.state.value}" if each.state else ", without a run record"),
        "model": f"{each.model} {each.model_version}, digest {each.model_digest}" if each.model else None,
    }
    if (source := each.input) is not None:
        place = f"{source.file}, row group {source.row_group}, row {source.row:,}" if source.row is not None else None
        facts["input"] = place or source.note
        if source.changed:
            facts["changed since"] = ", ".join(source.changed)
        if source.features is not None:
            facts["features"] = ", ".join(f"{name} {_number(value)}" for name, value in source.features.items())
    facts |= {name: _number(value) if isinstance(value, float) else value for name, value in each.carried.items()}
    facts["not passed"] = "; ".join(each.findings) or None
    if each.drift:
        facts["drift"] = f"{each.drift['outcome']}: {', '.join(each.drift['columns'])}"
    table(("", ""), ((name, str(value)) for name, value in facts.items() if value is not None))
    if each.attribution is not None:
        _show_attribution(each.attribution, (each.input.features if each.input else None) or {})


def _show_attribution(found: Attribution, values: Mapping[str, Any]) -> None:
    console().print(f"{found.target} by feature, {found.method}; baseline: {found.baseline}", markup=False)
    order = sorted(found.shares, key=lambda name: -abs(found.shares[name]))
    rows: list[tuple[Any, ...]] = [("baseline", None, None, found.baseline_score)]
    rows += [(name, values.get(name), found.baseline_features[name], found.shares[name]) for name in order]
    table(("", "this row", "baseline", "adds"), [*rows, (found.target, None, None, found.score)])


def _number(value: Any) -> str:
    return "NULL" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)[:80]
