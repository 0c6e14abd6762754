"""A lake with one of each trouble, each in a job of that name, for the pages and the eyes of those who change them.

`python -m tests.report.troubles FOLDER` makes one to look at.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import LakescoreError
from pipeline.flow import day as flow
from pipeline.records import RunRecord, State, now
from pipeline.report import pages
from tests import lakes
from tests.workspace import Workspace, changed

RULE = """{"expectations": [
  {"type": "expect_column_values_to_be_between", "kwargs": {"column": "a", "max_value": 50},
   "meta": {"name": "a_within_50", "severity": "critical", "quarantine": false}}
]}"""
SWITCHES = "[quality]\nsamples = true\n[report]\nenabled = false\n"
"""Values may be shown; the pages are made at the end, once."""
QUIET = "[drift]\nenabled = false\n"


def rows(ds: str, count: int = 400, shift: float = 0.0) -> pa.Table:
    """Returns the rows of a day; column `a` is moved by `shift`."""
    rng = np.random.default_rng(date.fromisoformat(ds).toordinal())
    made: dict[str, Any] = {"id": [f"u{number}" for number in range(count)]}
    return pa.table(made | {"a": rng.normal(shift, 1, count), "b": rng.normal(0, 1, count)})


def make(root: Path, today: date) -> Workspace:
    """Makes the lake as it is on the morning of `today`. The jobs of the same name have the trouble."""
    made = Workspace(root)
    days = [str(today - timedelta(days=back)) for back in range(40, 0, -1)]
    training = root / "training.parquet"
    lakes.write_parquet(training, rows(days[0], 4_000))
    for model in ("toy", "other", "aged"):
        _register(made, model, "v1", training)
    for name in ("fine", "stopped", "failed", "unfinished", "late", "partial", "undelivered", "quarantined"):
        _job(made, name)
    _job(made, "stale", model="aged")
    _job(made, "weekly", schedule='every = "week"')
    _job(made, "drifted", model="other", extra="[drift]\nwindow_days = 7\n")
    _score(made, "fine", days[-2:])
    _stopped(made, days[-3:])
    _failed(made, days[-3:])
    _score(made, "unfinished", days[-1:])
    _unfinished(made, days[-1])
    _late(made, days[-5:-4])
    _score(made, "partial", days[-1:])
    _add(made, "partial", days[-1])
    _score(made, "stale", days[-1:])
    _register(made, "aged", "v2", training, seed=3)
    _undelivered(made, days[-1])
    _quarantined(made, days[-2:])
    monday = today - timedelta(days=today.weekday())
    _score(made, "weekly", [str(monday - timedelta(weeks=back)) for back in (2, 1)])
    _drifted(made, training, days[-8:])
    ctx = made.context("fine")
    for job in ctx.lake.records.jobs():
        pages.write_runs(ctx.lake, job, None, len(days), ctx.registry)
    pages.write_index(ctx.lake, registry=ctx.registry)
    return made


def _job(made: Workspace, name: str, *, model: str = "toy", schedule: str = "", extra: str = "") -> None:
    folder = made.job(name, model=model, schedule=f'{schedule}\nowner = "{name}-team"')
    text = (folder / "job.toml").read_text().replace("unscored/", f"unscored/{name}/")
    (folder / "job.toml").write_text(text + SWITCHES + (extra or QUIET))


def _register(made: Workspace, name: str, version: str, training: Path, seed: int = 0) -> None:
    import torch

    from pipeline.model.registry import Registry
    from pipeline.tabular import sources

    torch.manual_seed(seed)
    layers = [torch.nn.Linear(*shape) for shape in ((2, 16), (16, 16), (16, 2))]
    state = {f"fc{i}.{n}": p for i, layer in enumerate(layers) for n, p in layer.state_dict().items()}
    path = made.root / f"{name}-{version}.pt"
    torch.save({"model_state_dict": state, "input_dim": 2, "hidden_dim": 16, "output_dim": 2}, path)
    Registry(Path(made.settings.models)).register(
        path,
        name=name,
        version=version,
        features=("a", "b"),
        alias="production",
        training=sources.find([training], (), "."),
    )


def _add(made: Workspace, job: str, ds: str, table: pa.Table | None = None, file: str = "more.parquet") -> Path:
    path = made.lake / f"unscored/{job}/ds={ds}/{file}"
    lakes.write_parquet(path, rows(ds, 10) if table is None else table)
    return path


def _score(made: Workspace, job: str, days: list[str]) -> None:
    for ds in days:
        _add(made, job, ds, rows(ds), "rows.parquet")
        flow.run_day(made.context(job), ds)


def _ends_badly(made: Workspace, job: str, ds: str) -> RunRecord:
    with suppress(LakescoreError):
        flow.run_day(made.context(job), ds)
    (record,) = made.context(job).lake.records.of_day(job, ds)
    return record


def _stopped(made: Workspace, days: list[str]) -> None:
    """Two days at the end with values that a critical rule forbids."""
    (made.settings.jobs / "stopped" / "input.json").write_text(RULE)
    _score(made, "stopped", days[:1])
    for ds in days[1:]:
        _add(made, "stopped", ds, changed(rows(ds), "a", {3: 99.0, 7: 120.5, 11: 75.0}), "rows.parquet")
        assert _ends_badly(made, "stopped", ds).state is State.stopped


def _failed(made: Workspace, days: list[str]) -> None:
    """A damaged file; and before it a day with input that nobody has run."""
    _score(made, "failed", days[:1])
    _add(made, "failed", days[1], rows(days[1]), "rows.parquet")
    path = _add(made, "failed", days[2], rows(days[2]), "rows.parquet")
    chunk = pq.ParquetFile(path).metadata.row_group(0).column(2)
    content, at = bytearray(path.read_bytes()), chunk.dictionary_page_offset or chunk.data_page_offset
    content[at : at + chunk.total_compressed_size] = b"\0" * chunk.total_compressed_size
    path.write_bytes(content)
    assert _ends_badly(made, "failed", days[2]).state is State.failed


def _unfinished(made: Workspace, ds: str) -> None:
    """The record of a process that was killed while it scored."""
    lake = made.context("unfinished").lake
    (record,) = lake.records.of_day("unfinished", ds)
    left = record.with_(state=State.planned, pid=2**22 + 1, finished_at=None, ledger=None, committed=(), parts=())
    left = left.with_(stages=record.stages[:2])
    lakes.put_record(lake, left)


def _late(made: Workspace, days: list[str]) -> None:
    """Ran on time until a few days ago."""
    _score(made, "late", days)
    lake = made.context("late").lake
    for ds in days:
        (record,) = lake.records.of_day("late", ds)
        at = lakes.clock(ds)
        lakes.put_record(lake, record.with_(started_at=at, finished_at=at + timedelta(seconds=9)))


def _undelivered(made: Workspace, ds: str) -> None:
    """An export into a folder whose place is taken by a file."""
    blocked = made.root / "drop"
    blocked.write_text("no folder")
    folder = made.settings.jobs / "undelivered"
    target = f'\n[[publish]]\nname = "drop"\nkind = "export"\nto = "{blocked}/here"\n'
    (folder / "job.toml").write_text((folder / "job.toml").read_text() + target)
    _add(made, "undelivered", ds, rows(ds), "rows.parquet")
    with suppress(LakescoreError):
        flow.run_day(made.context("undelivered"), ds)


def _quarantined(made: Workspace, days: list[str]) -> None:
    """Two days with rows that the model cannot score."""
    for ds in days:
        _add(made, "quarantined", ds, changed(rows(ds), "a", {4: None, 9: None, 30: None}), "rows.parquet")
        flow.run_day(made.context("quarantined"), ds)


def _drifted(made: Workspace, training: Path, days: list[str]) -> None:
    """Another model from the fourth day on, and another population on the last two days."""
    for number, ds in enumerate(days):
        if number == 3:
            _register(made, "other", "v2", training, seed=3)
        shift = 2.0 if number >= len(days) - 2 else 0.0
        _add(made, "drifted", ds, rows(ds, 2_000, shift), "rows.parquet")
        flow.run_day(made.context("drifted"), ds)


if __name__ == "__main__":
    os.umask(0o022)
    made = make(Path(sys.argv[1]).resolve(), now().date())
    sys.stdout.write(f"{made.lake}/reports/index.html\n")
