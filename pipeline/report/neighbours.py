"""The runs before and after a run, and what has changed since the one before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pipeline.lake.layout import Lake
from pipeline.records import CheckResult, RunRecord, State
from pipeline.report.facts import MOST_RUNS

MOST_CHANGES = 12
"""Largest number of changes of one kind that are listed."""
LOOKED_AT = 31
"""Number of earlier periods among which the run before is searched."""
OURS = ("built-in", "guard")


@dataclass(frozen=True)
class Change:
    what: str
    """`model`, `job`, `suite`, `input` or `DuckDB`."""
    name: str
    before: str
    now: str


def before(lake: Lake, record: RunRecord) -> tuple[str, str] | None:
    """Returns the period and the id of the run before, of the same period if there is one, or None."""
    earlier = [run_id for run_id in lake.records.ids(record.job, record.ds) if run_id < record.run_id]
    if earlier:
        return record.ds, earlier[-1]
    days = [ds for ds in lake.records.days(record.job) if ds < record.ds]
    return next(((ds, ids[-1]) for ds in reversed(days) if (ids := lake.records.ids(record.job, ds))), None)


def after(lake: Lake, record: RunRecord) -> tuple[str, str] | None:
    """Returns the period and the id of the run after, or None."""
    later = [run_id for run_id in lake.records.ids(record.job, record.ds) if run_id > record.run_id]
    if later:
        return record.ds, later[0]
    days = [ds for ds in lake.records.days(record.job) if ds > record.ds]
    return next(((ds, ids[0]) for ds in days if (ids := lake.records.ids(record.job, ds))), None)


def complete_before(lake: Lake, record: RunRecord) -> RunRecord | None:
    """Returns the complete run before: of the same period if there is one, else of the last period that has one."""
    days = [ds for ds in lake.records.days(record.job) if ds <= record.ds]
    for ds in reversed(days[-LOOKED_AT:]):
        for other in islice(lake.records.iter_day(record.job, ds), MOST_RUNS):
            if other.state is State.complete and (ds < record.ds or other.run_id < record.run_id):
                return other
    return None


def changes(earlier: RunRecord, record: RunRecord) -> list[Change]:
    """Returns what is not as it was in an earlier run: model, job, suite, the input's columns, and DuckDB."""
    found = []
    if earlier.model != record.model:
        names = [f"{each.name} {each.version}, digest {each.digest[:12]}" for each in (earlier.model, record.model)]
        found.append(Change("model", "", *names))
    found += _limited("job", _flat(earlier.job_config), _flat(record.job_config))
    if earlier.checks and record.checks:
        found += _limited("suite", _rules(earlier, record), _rules(record, earlier))
    for name in ("key", "features", "carry"):
        old, new = getattr(earlier.plan, name), getattr(record.plan, name)
        if old != new:
            added, gone = [each for each in new if each not in old], [each for each in old if each not in new]
            found.append(Change("input", name, f"removed: {_listed(gone)}", f"added: {_listed(added)}"))
    if earlier.plan.duckdb != record.plan.duckdb:
        found.append(Change("DuckDB", "version", earlier.plan.duckdb, record.plan.duckdb))
    return found


def _limited(what: str, old: Mapping[str, str], new: Mapping[str, str]) -> list[Change]:
    differ = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    found = [Change(what, name, old.get(name, "-"), new.get(name, "-")) for name in differ[:MOST_CHANGES]]
    left = len(differ) - len(found)
    return [*found, Change(what, f"and {left:,} more", "", "")] if left else found


def _flat(config: Mapping[str, Any], path: str = "") -> dict[str, str]:
    """Returns the values of nested tables by their dotted names."""
    return dict(_leaves(config, path))


def _leaves(config: Mapping[str, Any], path: str) -> Iterator[tuple[str, str]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", str(value)[:200]


def _rules(record: RunRecord, other: RunRecord) -> dict[str, str]:
    """Returns the rules of the suites that both runs have judged, in words, by their names."""
    suites = {check.suite for check in record.checks} & {check.suite for check in other.checks}
    rules = (check for check in record.checks if check.suite in suites and check.expectation not in OURS)
    return {f"{check.suite}: {check.name}": _limit(check) for check in rules}


def _limit(check: CheckResult) -> str:
    return f"{check.severity}: {check.expected or check.expectation}"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 6:,} more" if len(names) > 6 else ""
    return (", ".join(names[:6]) or "none") + more
