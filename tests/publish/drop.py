"""A job with targets over a lake that was written without a run: no model, and no second to wait for one."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

from pipeline.context import Context
from pipeline.job.loading import read_job
from pipeline.publish.delivery import Delivery
from pipeline.publish.stage import deliver_all
from pipeline.query.running import run_query
from pipeline.records import RunRecord
from pipeline.settings import Settings
from tests import lakes

DAYS = ("2026-01-01", "2026-01-02", "2026-01-03")


class Drop:
    """`root/drop` is where the export `spring` of the job `churn` writes to."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lake = lakes.open_lake(root / "lake")
        self.folder = root / "jobs" / "churn"
        self.folder.mkdir(parents=True, exist_ok=True)

    def job(
        self, options: str = "", *, kind: str = "export", to: str | None = None, carry: str = "[]", more: str = ""
    ) -> None:
        """Writes job.toml with one target; `options` are lines of its table, `more` other tables. `to` may be empty."""
        to = f"{self.root}/drop" if to is None else to
        place = f'to = "{to}"\n' if kind == "export" and to else ""
        place += 'score = "prediction_proba"\n' if kind == "flags" else ""
        (self.folder / "job.toml").write_text(
            f'[model]\nname = "churn_model"\n[input]\npath = "{lakes.PATTERN}"\nkey = ["id"]\ncarry = {carry}\n{more}\n'
            f'[[publish]]\nname = "spring"\nkind = "{kind}"\n{place}{options}\n'
        )

    def day(self, scores: dict[Any, float], ds: str = DAYS[0], *, number: int = 0, **columns: Any) -> RunRecord:
        ids, values = list(scores), list(scores.values())
        return lakes.add_day(self.lake, ds, ids, number=number, probabilities=values, **columns)

    @property
    def context(self) -> Context:
        settings = Settings(lake=str(self.root / "lake"), jobs=self.folder.parent)
        registry: Any = None  # no model is needed to hand predictions on
        return Context(self.lake, read_job(self.folder, settings), registry)

    def publish(self, record: RunRecord, *, replace_newer: bool = False) -> Delivery:
        done = deliver_all(self.context, record, replace_newer=replace_newer)
        if done.error is not None:
            raise done.error
        (delivery,) = done.deliveries
        return delivery

    def send(self, scores: dict[Any, float], ds: str = DAYS[0], **options: Any) -> Delivery:
        return self.publish(self.day(scores, ds, **options))

    @property
    def current(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.root / "drop/churn/spring/current.json").read_text())
        return content

    def path(self, what: str = "rows") -> Path:
        (file,) = [each for each in self.current["files"] if each["what"] == what]
        path: Path = self.root / "drop/churn/spring" / self.current["folder"] / file["name"]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == file["sha256"]
        return path

    def read(self, what: str = "rows") -> pa.Table:
        path = self.path(what)
        return pq.read_table(path) if path.suffix == ".parquet" else pc.read_csv(path)

    def keys(self, what: str = "rows") -> list[Any]:
        found: list[Any] = self.read(what).column("id").to_pylist()
        return found

    def files(self) -> dict[str, bytes]:
        found = sorted(path for path in (self.root / "drop").rglob("*") if path.is_file())
        return {str(path.relative_to(self.root)): path.read_bytes() for path in found}

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        with run_query(self.lake, query) as result, result.stream() as (_, batches):
            return [tuple(row.values()) for batch in batches for row in batch.to_pylist()]
