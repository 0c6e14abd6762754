"""A folder with a lake, models and jobs, as a user has it, for tests."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.context import Context
from pipeline.flow import day as flow
from pipeline.job.loading import find_job
from pipeline.lake.layout import Lake
from pipeline.query.running import run_query
from pipeline.records import RunRecord
from pipeline.settings import Settings

DAY = "2026-01-01"
JOB = """
[model]
name = "{model}"

[input]
path = "unscored/ds={{ds}}/*.parquet"
key = ["id"]
{features}
{input}

[policy]
max_quarantined = 1.0
{policy}

[schedule]
{schedule}
"""
NO_PAGES = """
[report]
enabled = false
"""
NO_PROFILES = """
[drift]
enabled = false
"""


@dataclasses.dataclass
class Workspace:
    root: Path
    settings: Settings = dataclasses.field(init=False)
    tables: str = ""
    """Tables with which each job file ends."""

    def __post_init__(self) -> None:
        self.settings = Settings(
            lake=str(self.root / "lake"), jobs=self.root / "dags" / "jobs", models=str(self.root / "models"), threads=2
        )

    @property
    def lake(self) -> Path:
        return Path(self.settings.lake)

    def job(
        self,
        name: str = "toy",
        *,
        model: str = "toy",
        features: str = 'features = ["a", "b"]',
        reads: str = "",
        policy: str = "",
        schedule: str = "",
    ) -> Path:
        """Writes a job with key `id`; returns its folder. Without the line `features`, the model says them."""
        folder = self.settings.jobs / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "job.toml").unlink(missing_ok=True)  # it may be a link
        (folder / "job.toml").write_text(
            JOB.format(model=model, features=features, input=reads, policy=policy, schedule=schedule) + self.tables
        )
        return folder

    def bare(self) -> Workspace:
        """Lets runs make no profiles, comparisons and pages, which take a third of their time; returns itself."""
        self.tables = NO_PROFILES + NO_PAGES
        self.job()
        return self

    def without_pages(self) -> Workspace:
        """Lets runs make no pages, which take a fifth of their time; returns itself."""
        self.tables = NO_PAGES
        self.job()
        return self

    def with_pages(self) -> Workspace:
        """Lets runs make profiles, comparisons and pages again; returns itself."""
        self.tables = ""
        self.job()
        return self

    def model(
        self,
        version: str = "v1",
        *,
        name: str = "toy",
        features: tuple[str, ...] = ("a", "b"),
        classes: int = 2,
        seed: int = 0,
    ) -> Path:
        """Registers a small network with random weights as `production`; returns its checkpoint."""
        import torch

        from pipeline.model.registry import Registry

        torch.manual_seed(seed)
        shapes = [(len(features), 16), (16, 16), (16, classes)]
        layers = [torch.nn.Linear(*shape) for shape in shapes]
        state = {f"fc{i}.{n}": p for i, layer in enumerate(layers) for n, p in layer.state_dict().items()}
        path = self.root / f"{name}-{version}.pt"
        dimensions = {"input_dim": len(features), "hidden_dim": 16, "output_dim": classes}
        torch.save({"model_state_dict": state, **dimensions}, path)
        registry = Registry(Path(self.settings.models))
        registry.register(path, name=name, version=version, features=features, alias="production")
        return path

    def day(self, rows: dict[str, Any] | pa.Table | int = 100, ds: str = DAY, *, file: str = "data.parquet") -> Path:
        """Writes (or replaces) an input file of a day; a number creates rows `u0`, `u1`, ... with random features."""
        path = self.lake / "unscored" / f"ds={ds}" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        write_table(rows, path)
        return path

    def context(self, job: str = "toy", **settings: Any) -> Context:
        machine = dataclasses.replace(self.settings, **settings)
        return Context.open(find_job(job, machine), machine)

    def run(self, ds: str = DAY, job: str = "toy", **settings: Any) -> flow.Outcome:
        return flow.run_day(self.context(job, **settings), ds)

    def complete(self, ds: str = DAY, job: str = "toy") -> RunRecord:
        """Runs a day, and returns the run's record, which must have a ledger."""
        record = self.run(ds, job).record
        assert record is not None
        assert record.ledger is not None
        return record

    def stored(self, query: str = "FROM predictions ORDER BY ALL", job: str = "toy") -> list[dict[str, Any]]:
        """Runs SQL over all stored predictions of a job, without Lakescore's views."""
        pattern = f"{self.lake}/predictions/job={job}/*/*/part-*.parquet"
        with duckdb.connect() as con:
            con.sql("SELECT * FROM read_parquet($p, union_by_name = true)", params={"p": pattern}).create_view(
                "predictions"
            )
            return con.sql(query).to_arrow_table().to_pylist()

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        """Runs SQL over Lakescore's views, as `lakescore query` does."""
        with run_query(Lake.open(str(self.lake)), query) as result, result.stream() as (_, batches):
            return [tuple(row.values()) for batch in batches for row in batch.to_pylist()]

    def copy_to(self, root: Path) -> Workspace:
        """Returns a copy whose files are hard links: size, time and inode stay, and with them what run records say.

        Whoever changes a file of the copy in place, instead of replacing it, changes the original, too.
        """
        shutil.copytree(self.root, root, copy_function=os.link, dirs_exist_ok=True)
        for path in (root / "lake" / "runs").rglob("*.json"):  # without change times, which each new link changes
            content = re.sub(rb'"changed_ns": \d+', b'"changed_ns": null', path.read_bytes())
            path.unlink()
            path.write_bytes(content)
        return Workspace(root)

    def files(self) -> dict[str, bytes]:
        """Returns all files of the lake with their content, but the notes of runs that could not be planned."""
        return {
            path.relative_to(self.lake).as_posix(): path.read_bytes()
            for path in sorted(self.lake.rglob("*"))
            if path.is_file() and path.relative_to(self.lake).parts[0] != "unplanned"
        }


def table(rows: dict[str, Any] | pa.Table | int) -> pa.Table:
    if isinstance(rows, pa.Table):
        return rows
    if isinstance(rows, dict):
        return pa.table(rows)
    rng = np.random.default_rng(rows)
    return pa.table({"id": [f"u{i}" for i in range(rows)], "a": rng.normal(size=rows), "b": rng.normal(size=rows)})


def write_table(rows: Any, path: Path) -> None:
    path.unlink(missing_ok=True)  # it may be a link
    pq.write_table(table(rows), path)


def changed(rows: pa.Table, column: str, values: dict[int, Any]) -> pa.Table:
    """Returns a table with some values of a column replaced, by row number."""
    found = rows.column(column).to_pylist()
    for row, value in values.items():
        found[row] = value
    return rows.set_column(rows.schema.get_field_index(column), column, pa.array(found, rows.schema.field(column).type))


@contextmanager
def kept_as_it_is(made: Workspace) -> Iterator[Workspace]:
    """Yields a workspace for tests to copy, and asserts at the end that none of them has changed it."""
    before = _digest(made.root)
    yield made
    assert _digest(made.root) == before, "a test wrote into a file of its copy, which is a link: replace the file"


def _digest(root: Path) -> str:
    sha = hashlib.sha256()
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        sha.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return sha.hexdigest()
