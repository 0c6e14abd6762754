"""The page of a run: what is wrong first, then what has changed since the run before, and all that is known of the run.

reports/job=<job>/ds=<ds>/<run_id>.html
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.drift.stage import ALARM
from pipeline.lake.layout import Lake
from pipeline.periods import Grain
from pipeline.profiles import store
from pipeline.publish.delivery import Delivery, DeliveryStore
from pipeline.quality import rejections
from pipeline.quality.verdict import described
from pipeline.records import CheckResult, Ledger, RunRecord, State
from pipeline.report import attention, distributions, facts, neighbours, quality_pages
from pipeline.report.facts import against, anchor, page_key
from pipeline.report.rendering import duration, percent, render, shares, size
from pipeline.storage.parquet import from_bytes

if TYPE_CHECKING:
    from pipeline.model.registry import Registry

TERMS = tuple(Ledger.model_fields)
NEXT_RUN = b"<!-- the next run -->"
"""Place of a link in a page: the next run, which comes later, puts itself there."""
LEVELS = ("critical", "warning", "ok", "none")


@dataclass(frozen=True)
class Wrong:
    """One thing that is wrong with a run."""

    word: str
    """What it is, in one word of the index, or `warning`."""
    text: str
    command: str | None = None
    place: str | None = None
    """Id of the part of the page that tells more."""

    @property
    def advice(self) -> str:
        """What to do before the command is typed, or what the command is for."""
        word = "drifted" if self.word in ("critical", "warning") else self.word
        return attention.ADVICE.get(word, "to run it again:")


def write(lake: Lake, record: RunRecord, registry: Registry | None = None) -> str:
    """Writes the page of a run, and the link to it into the page of the run before; returns the key."""
    key = facts.page_of(record)
    lake.storage.write(key, run_page(lake, record, registry).encode())
    if (earlier := neighbours.before(lake, record)) is not None:
        page = page_key(record.job, *earlier)
        content = lake.storage.read(page)
        if content is not None and NEXT_RUN in content:
            link = render("next_run.html", path=_relative(key), ds=record.ds)
            lake.storage.write(page, content.replace(NEXT_RUN, link.encode()))
    return key


def run_page(lake: Lake, record: RunRecord, registry: Registry | None = None) -> str:
    """Returns the page of a run. With a registry, distributions of the training data stand beside those of the day."""
    profile = _rows(lake, store.key("profiles", record))
    whole = [row for row in profile if not row["slice_column"]]
    classes = next((row for row in whole if row["kind"] == "class"), None)
    drift = sorted(_rows(lake, store.key("drift", record)), key=lambda row: (_level(row), -(row["psi"] or 0)))
    compared = [row for row in drift if not row["slice_column"] or row["outcome"] in ("warning", "critical")]
    outcomes: dict[str, str] = {}
    for row in compared:  # the worst first
        if not row["slice_column"]:
            outcomes.setdefault(row["column_name"], row["outcome"])
    checks = quality_pages.worst_first(record.checks)
    samples = bool((record.job_config.get("quality") or {}).get("samples", False))
    reasons = rejections.of_run(lake, record)
    deliveries = DeliveryStore(lake).of_run(record)
    grain, _ = facts.schedule_of(record)
    drawn = distributions.of_run(lake, record, outcomes, registry)
    earlier = neighbours.complete_before(lake, record)
    return render(
        "run.html",
        run=record,
        grain=grain.value,
        owner=(record.job_config.get("schedule") or {}).get("owner"),
        wrong=list(_wrong(lake, record, checks, drift, deliveries)),
        before=_linked(lake, record, neighbours.before(lake, record)),
        after=_linked(lake, record, neighbours.after(lake, record)),
        earlier=earlier,
        changes=neighbours.changes(earlier, record) if earlier else [],
        counts=record.ledger.counts() if record.ledger else {},
        terms=TERMS,
        whole=classes is not None,
        classes=dict(zip(classes["labels"], classes["counts"], strict=True)) if classes else record.statistics.classes,
        checks=checks,
        examples=_examples(lake, record, reasons) if samples else {},
        reasons=[(each.reason, each.rows, ", ".join(each.keys) if samples else None) for each in reasons],
        rejected=sum(rows for name, rows in record.dispositions.items() if name == "quarantined"),
        drift=[_compared(row, grain) for row in compared],
        distributions=drawn.columns,
        weekly=drawn.weekly,
        drawn={each.column for each in drawn.columns},
        profile=[_profiled(row) for row in whole if row["kind"] != "class"],
        took=(record.finished_at - record.started_at).total_seconds() if record.finished_at else None,
        stages=[
            (
                *(each.stage, duration(each.wall_s), duration(each.cpu_s), each.rows or None),
                *(each.rows_per_s if each.rows else None, size(each.bytes_read), size(each.bytes_written)),
                shares(each.busy),
            )
            for each in record.stages
        ],
        engine=next((each.engine for each in record.stages if each.engine), None),
        deliveries=[
            (
                *(each.target, each.kind, each.state.value, each.rows, each.delivered_at),
                *(each.place or None, each.reason),
            )
            for each in deliveries
        ],
        files=[("read", file.path, size(file.size)) for given in record.plan.input.values() for file in given]
        + [("published", file.path, size(file.size)) for file in record.committed],
        docs=[(suite, path) for suite in quality_pages.SUITES if lake.storage.head(path := _docs(record, suite))],
    )


Typed = Callable[..., str]
"""Returns a command about the run's period, given its name."""


def _wrong(
    lake: Lake,
    record: RunRecord,
    checks: Sequence[CheckResult],
    drift: Sequence[Mapping[str, Any]],
    deliveries: Sequence[Delivery],
) -> Iterator[Wrong]:
    """Yields what is wrong with a run, worst first."""

    def typed(command: str) -> str:
        return attention.command_line(lake, command, record.job, "--date", record.ds)

    if record.state in (State.failed, State.stopped):
        yield Wrong(record.state.value, attention.reason(record), typed("run"), "quality" if checks else None)
    elif record.state is not State.complete:
        yield Wrong(record.state.value.replace("_", " "), STATES[record.state], typed("run"))
    stopping = [check for check in checks if check.outcome == "stopped"]
    yield from (Wrong("stopped", described(check), None, "quality") for check in stopping[1:])
    yield from _undelivered(deliveries, typed)
    yield from _drifted(drift, facts.schedule_of(record)[0], typed)
    for outcome, command in (("quarantined", typed("quarantine show")), ("noted", None)):
        found = [check for check in checks if check.outcome == outcome]
        yield from (Wrong(outcome, described(check), command, "quality") for check in found)
    for warning in record.warnings:
        if not ALARM.search(warning) and not (warning.startswith("not published: ") and deliveries):
            yield Wrong("warning", warning)


def _undelivered(deliveries: Sequence[Delivery], typed: Typed) -> Iterator[Wrong]:
    for delivery in deliveries:
        if delivery.state in attention.UNSENT:
            why = f": {attention.in_one_line(delivery.reason)}" if delivery.reason else ""
            text = f"target {delivery.target} ({delivery.kind}) is {delivery.state}{why}"
            yield Wrong("undelivered", text, typed("publish"), "deliveries")


def _drifted(drift: Sequence[Mapping[str, Any]], grain: Grain, typed: Typed) -> Iterator[Wrong]:
    """Yields the alarms; only the first has the command, which is the same for all."""
    for number, row in enumerate(row for row in drift if row["outcome"] in ("critical", "warning")):
        of_slice = f" of {row['slice_column']} {row['slice']}" if row["slice_column"] else ""
        text = f"{row['column_name']}{of_slice} differs from {against(row['reference'], grain)}: PSI {row['psi']:.3g}"
        place = None if row["slice_column"] else anchor(row["column_name"])
        yield Wrong(row["outcome"], text, None if number else typed("drift"), place)


STATES = {
    State.planned: "the run has not ended: it is at work, or its process is gone",
    State.scored: "the run has not ended: it is at work, or its process is gone",
    State.overtaken: "another run published other rows of the same keys first; a new run has begun",
    State.superseded: "the input changed, or another run was faster; a new run has begun",
    State.rolled_back: "a person has taken back the predictions of this run",
}


def _relative(key: str) -> str:
    """Returns the path of a run's page from that of another run of the job."""
    return "../" + "/".join(key.split("/")[2:])


def _linked(lake: Lake, record: RunRecord, run: tuple[str, str] | None) -> tuple[str, str] | None:
    """Returns the period of a run and the path of its page, if it has one."""
    if run is None or lake.storage.head(key := page_key(record.job, *run)) is None:
        return None
    return run[0], _relative(key)


def _docs(record: RunRecord, suite: str) -> str:
    return quality_pages.page_of(record.job, record.ds, record.run_id, suite)


def _examples(lake: Lake, record: RunRecord, reasons: Sequence[rejections.Reason]) -> dict[str, list[str]]:
    """Returns what breaks a check, for example: keys if they are known, else values. Only for jobs that allow it."""
    found: dict[str, list[str]] = {}
    for suite in quality_pages.SUITES:
        found |= quality_pages.examples(lake, record.job, record.ds, record.run_id, suite)
    return found | {each.reason: [f"key {key}" for key in each.keys] for each in reasons if each.keys}


def _rows(lake: Lake, key: str) -> list[dict[str, Any]]:
    """Returns the rows of a profile or drift file; empty if it is missing."""
    content = lake.storage.read(key)
    return [] if content is None else from_bytes(content).to_pylist()


def _level(row: Mapping[str, Any]) -> int:
    return LEVELS.index(row["outcome"])


def _compared(row: Mapping[str, Any], grain: Grain) -> dict[str, Any]:
    name = row["column_name"]
    return {
        **row,
        "named": f"{name} ({row['slice_column']} {row['slice']})" if row["slice_column"] else name,
        "anchor": anchor(name),
        "than": against(row["reference"], grain),
    }


def _profiled(row: Mapping[str, Any]) -> tuple[Any, ...]:
    missing = (row["nulls"] + row["nans"]) / row["rows"] if row["rows"] else 0.0
    quantiles = row["quantiles"] or [None] * 7
    return (
        row["column_name"], row["kind"], row["rows"], percent(missing), row["mean"], row["deviation"],
        quantiles[1], quantiles[3], quantiles[5],
    )  # fmt: skip
