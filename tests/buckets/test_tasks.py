"""Models of each task, and hours that a column of the input decides, have the same results in buckets as as a whole."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.buckets import stage
from pipeline.care.verify import verify
from pipeline.engines.threads import Threads
from tests.buckets.days import check_equal
from tests.selecting.test_periods_in_files import INSTANTS, events, hour, job_of, run_all
from tests.whole.test_every_task import TASKS, ask
from tests.workspace import Workspace

pytestmark = pytest.mark.slow
ENGINE = '\n[engine]\nname = "processes"\nmin_rows = 1\nbuckets = 3\n'
ROWS = 400


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "open_engine", lambda _ctx: Threads(1))


def both(workspace: Workspace, folder: Path) -> tuple[Workspace, Workspace]:
    """Returns two copies of a workspace, of which the second one's job is scored in buckets."""
    whole, parts = (workspace.copy_to(folder / name) for name in ("whole", "parts"))
    path = parts.settings.jobs / "toy" / "job.toml"
    text = path.read_text()
    path.unlink()
    path.write_text(text + ENGINE)
    return whole, parts


@pytest.mark.parametrize("name", list(TASKS))
def test_predictions_of_a_task_are_those_of_one_machine(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    case = TASKS[name]
    torch.manual_seed(7)
    case.save(workspace.root / "model.pt2", case.module().eval())
    (workspace.root / "signature.json").write_text(json.dumps(case.signature))
    monkeypatch.chdir(workspace.root)
    options = "--name task --version v1 --features a,b --signature signature.json --alias production"
    ask("models", "register", "model.pt2", *options.split())
    workspace.job(model="task", features="")
    whole, parts = both(workspace, tmp_path)
    rng = np.random.default_rng(0)
    columns = {"id": pa.array(range(ROWS)), "a": pa.array(rng.normal(size=ROWS)), "b": pa.array(rng.normal(size=ROWS))}
    later = {**columns, "a": pa.array([*columns["a"].to_pylist()[20:], *range(20)])}
    for rows in (columns, later):
        records = []
        for each in (whole, parts):
            each.day(pa.table(rows))
            records.append(each.complete())
        one, other = records
        assert next(report.buckets for report in other.stages if report.stage == "score") == 3
        assert one.ledger == other.ledger
        assert one.statistics.reasons == other.statistics.reasons
        assert one.statistics.items == other.statistics.items
        assert not other.warnings, "profile, drift and report"
    assert check_equal(parts.lake, whole.lake) > ROWS
    assert not list(verify(parts.context().lake))
    assert (parts.lake / "reports").exists()


def test_hours_that_a_column_decides_are_those_of_one_machine(workspace: Workspace, tmp_path: Path) -> None:
    job_of(workspace, 'path = "events/*.parquet"', schedule='every = "hour"')
    events(workspace, INSTANTS)
    whole, parts = both(workspace, tmp_path)
    hours = sorted({hour(time) for time in INSTANTS.to_pylist()})[3:8]
    for each in (whole, parts):
        run_all(each, hours[0], hours[-1])
    assert check_equal(parts.lake, whole.lake) == 3 * len(hours)
    for ds in hours:
        (one,), (other,) = (each.context().lake.records.of_day("toy", ds) for each in (whole, parts))
        assert one.ledger == other.ledger
        assert next(report.buckets for report in other.stages if report.stage == "score") == 3
    assert not list(verify(parts.context().lake))
