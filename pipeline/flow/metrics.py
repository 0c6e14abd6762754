"""The state of each job as metrics, in the text format of OpenMetrics, which Prometheus and its node_exporter read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from pipeline.drift.stage import alarm_levels
from pipeline.flow.overview import PERIODS, JobOverview
from pipeline.lake.layout import Lake
from pipeline.lake.states import PeriodState

Sample = tuple[Mapping[str, str], float]


@dataclass(frozen=True)
class Metric:
    """A gauge. Its name ends with its unit, if it has one."""

    name: str
    text: str
    samples: Sequence[Sample]
    unit: str = ""

    def lines(self) -> Iterator[str]:
        yield f"# TYPE {self.name} gauge"
        if self.unit:
            yield f"# UNIT {self.name} {self.unit}"
        yield f"# HELP {self.name} {self.text}"
        for labels, value in self.samples:
            named = ",".join(f'{name}="{_escaped(text)}"' for name, text in labels.items())
            yield f"{self.name}{{{named}}} {value:.17g}" if named else f"{self.name} {value:.17g}"


def as_text(lake: Lake, jobs: Sequence[JobOverview], now: datetime) -> str:
    """Returns the metrics of some jobs, with the moment of their collection, as the content of a file."""
    lines = [line for metric in _metrics(lake, jobs, now) for line in metric.lines()]
    return "\n".join([*lines, "# EOF", ""])


def _metrics(lake: Lake, jobs: Sequence[JobOverview], now: datetime) -> Iterator[Metric]:
    yield Metric(
        "lakescore_collected_timestamp_seconds", "When these metrics were made.", [({}, now.timestamp())], "seconds"
    )
    yield Metric(
        "lakescore_job_valid",
        "Whether the job's file can be read and its model is registered.",
        [({"job_name": each.job}, each.error is None) for each in jobs],
    )
    known = [each for each in jobs if each.states is not None]
    yield Metric(
        "lakescore_due_period_complete",
        "Whether the last period that is due is complete, or was skipped as the job says.",
        [({"job_name": each.job}, each.due_is_done) for each in known],
    )
    yield Metric(
        "lakescore_periods",
        f"Number of the last {PERIODS} due periods by state.",
        [
            ({"job_name": each.job, "state": state.value}, (each.states or {}).get(state.value, 0))
            for each in known
            for state in PeriodState
        ],
    )
    done = [(each.job, each.last_complete) for each in known if each.last_complete is not None]
    ended = [(job, run, run.finished_at) for job, run in done if run.finished_at]
    yield Metric(
        "lakescore_last_complete_timestamp_seconds",
        "When the run of the newest complete period ended.",
        [({"job_name": job}, end.timestamp()) for job, _, end in ended],
        "seconds",
    )
    yield Metric(
        "lakescore_last_complete_duration_seconds",
        "How long that run took.",
        [({"job_name": job}, (end - run.started_at).total_seconds()) for job, run, end in ended],
        "seconds",
    )
    yield Metric(
        "lakescore_last_complete_rows",
        "Rows of that run's ledger, by term.",
        [
            ({"job_name": job, "term": term}, rows)
            for job, run in done
            if run.ledger
            for term, rows in run.ledger.counts().items()
        ],
    )
    yield Metric(
        "lakescore_last_complete_drifted_columns",
        "Columns of that run with an alarm, by level.",
        [
            ({"job_name": job, "level": level}, count)
            for job, run in done
            for level, count in alarm_levels(lake, run).items()
        ],
    )


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
