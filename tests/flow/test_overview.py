"""All jobs at a glance, and as metrics that a parser of Prometheus reads."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.flow.metrics import as_text
from pipeline.flow.overview import JobOverview, overview
from pipeline.lake.layout import Lake, Partition
from pipeline.lake.states import PeriodState
from pipeline.profiles import store
from pipeline.records import State
from pipeline.settings import Settings
from pipeline.storage.parquet import to_bytes
from tests import lakes

NOW = datetime(2026, 1, 4, 12, tzinfo=UTC)
"""The last period that is due is 2026-01-03."""
DRIFTED = {"age": "critical", "income": "ok", "score": "warning"}
"""The outcome of each column of the day that is complete."""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    jobs = tmp_path / "dags" / "jobs"
    for name, text in {
        "broken": "model = ",
        "churn": f'[model]\nname = "churn_model"\n[input]\npath = "{lakes.PATTERN}"\nkey = ["id"]\n',
    }.items():
        (jobs / name).mkdir(parents=True)
        (jobs / name / "job.toml").write_text(text)
    return Settings(lake=str(tmp_path / "lake"), jobs=jobs, models=str(tmp_path / "models"))


@pytest.fixture
def lake(settings: Settings) -> Lake:
    """A day whose input is gone, a complete day, one that was stopped; the due day has input alone."""
    lake = lakes.open_lake(Path(settings.lake))
    lakes.add_day(lake, "2025-12-01", ["a"])
    record = lakes.add_day(lake, "2026-01-01", ["a", "b"])
    columns = {"column_name": list(DRIFTED), "outcome": list(DRIFTED.values())}
    lake.storage.write(store.key("drift", record), to_bytes(pa.table(columns)))
    for ds in ("2026-01-02", "2026-01-03"):
        lakes.add_input(lake, ds, lakes.input_rows(["a"]))
    lakes.add_run(lake, Partition("churn", "2026-01-02", "v1"), state=State.stopped)
    return lake


def test_overview_says_what_is_due_what_is_amiss_and_which_job_is_broken(settings: Settings, lake: Lake) -> None:
    broken, churn = overview(settings, lake, NOW)
    assert (broken.job, broken.is_well, broken.states) == ("broken", False, None)
    assert "job.toml" in str(broken.reason)
    assert (churn.due, churn.due_state, churn.is_well) == ("2026-01-03", PeriodState.missing, False)
    assert churn.states == {"complete": 1, "stopped": 1, "missing": 1}, "2025-12-01 is before the last 31 days"
    assert [day.ds for day in churn.attention] == ["2026-01-03", "2026-01-02"]
    assert churn.last_complete is not None
    assert churn.last_complete.ds == "2026-01-01"
    assert "churn_model" in str(churn.error)


def test_overview_of_a_job_whose_due_day_has_no_input_says_so() -> None:
    quiet = JobOverview("churn", due="2026-01-03", states={})
    assert (quiet.is_well, quiet.reason) == (False, "2026-01-03 has no input")
    assert JobOverview("churn", due="2026-01-03", due_state=PeriodState.skipped, states={}).is_well


def test_metrics_are_openmetrics_and_read_by_node_exporters_format_too(settings: Settings, lake: Lake) -> None:
    openmetrics = pytest.importorskip("prometheus_client.openmetrics.parser")
    older = pytest.importorskip("prometheus_client.parser")
    text = as_text(lake, overview(settings, lake, NOW), NOW)
    for parser in (openmetrics, older):
        samples = {
            (sample.name, *sample.labels.values()): sample.value
            for family in parser.text_string_to_metric_families(text)
            for sample in family.samples
        }
        expected: dict[tuple[Any, ...], float] = {
            ("lakescore_collected_timestamp_seconds",): NOW.timestamp(),
            ("lakescore_job_valid", "broken"): 0,
            ("lakescore_due_period_complete", "churn"): 0,
            ("lakescore_periods", "churn", "stopped"): 1,
            ("lakescore_periods", "churn", "failed"): 0,
            ("lakescore_last_complete_rows", "churn", "scored"): 2,
            ("lakescore_last_complete_drifted_columns", "churn", "critical"): 1,
            ("lakescore_last_complete_drifted_columns", "churn", "warning"): 1,
        }
        assert {key: samples[key] for key in expected} == expected


def test_metrics_escape_what_a_label_may_not_have(lake: Lake) -> None:
    text = as_text(lake, [JobOverview('a"b\\c\nd', error="x")], NOW)
    assert r'lakescore_job_valid{job_name="a\"b\\c\nd"} 0' in text.splitlines()
    assert text.endswith("\n# EOF\n")


@pytest.mark.skipif(not shutil.which("promtool"), reason="needs promtool of Prometheus")
def test_alert_rules_of_the_documents_fire_on_the_metrics(settings: Settings, lake: Lake, tmp_path: Path) -> None:
    """Prometheus adds its own labels, as it does when it scrapes node_exporter."""
    document = (Path(__file__).parents[2] / "docs" / "on-call.md").read_text("utf-8")
    (rules,) = re.findall(r"```yaml\n(groups:.*?)```", document, re.DOTALL)
    (tmp_path / "rules.yml").write_text(rules)
    sample = re.compile(r"(?P<name>\w+)(?:\{(?P<labels>.*)\})? (?P<value>\S+)")
    scraped = 'job="node",instance="a"'
    series = [
        {"series": f"{found['name']}{{{','.join(filter(None, (found['labels'], scraped)))}}}", "values": f"{value}x300"}
        for line in as_text(lake, overview(settings, lake, NOW), NOW).splitlines()
        if (found := sample.fullmatch(line)) and (value := found["value"])
    ]
    churn, own = {"job_name": "churn"}, {"job": "node", "instance": "a"}
    expected = {
        "LakescoreLate": (churn | own, "churn has not scored the period that is due", "status"),
        "LakescoreNotScored": (churn, "churn: 1 of its last 31 periods stopped or failed", "backfill --failed"),
        "LakescoreDrift": (churn | own | {"level": "critical"}, "churn: critical drift in 1 of its columns", "drift"),
    }
    alerts = [
        {
            "alertname": name,
            "eval_time": "4h",
            "exp_alerts": [
                {
                    "exp_labels": labels,
                    "exp_annotations": {"summary": summary, "command": f"lakescore {command} --job churn"},
                }
            ],
        }
        for name, (labels, summary, command) in expected.items()
    ]
    test = {"interval": "1m", "input_series": series, "alert_rule_test": alerts}
    (tmp_path / "test.json").write_text(json.dumps({"rule_files": ["rules.yml"], "tests": [test]}))  # YAML, too
    command = ["promtool", "test", "rules", "test.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
