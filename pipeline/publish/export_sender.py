"""Hands rows over as files. What was in them stays in the lake: as the view `exports`, and for the next comparison."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from duckdb import ColumnExpression, ConstantExpression

from pipeline.context import Context
from pipeline.database import sql_files
from pipeline.database.connection import column_types, read_parquet
from pipeline.database.keys import key_expression
from pipeline.job.targets import ExportTarget
from pipeline.publish.delivery import Delivery, DeliveryStore
from pipeline.publish.export_files import SUFFIXES, Written, digest_of, write_file
from pipeline.publish.export_rows import BY_RANK, GROUP, HOLDOUT, RANK, SENT, Chosen, choose
from pipeline.publish.manifest import FORMAT, Place
from pipeline.publish.sending import Outgoing, Overtaken, Sent
from pipeline.records import RunRecord
from pipeline.storage.local import WRITING, LocalStorage, make_folder
from pipeline.storage.parquet import ROW_GROUP, write_parquet

if TYPE_CHECKING:
    from duckdb import DuckDBPyRelation as Relation

DAY_S = 86_400
MOST_SEGMENTS = 1_000
"""Number of segments that a manifest describes one by one."""


class ExportSender:
    def stands(self, ctx: Context, target: ExportTarget, delivery: Delivery) -> bool:
        """Tells whether nothing was handed over since. Files are not looked for: the receiver may have moved them."""
        known = [each for each in DeliveryStore(ctx.lake).of(delivery.job, target.name) if each.delivered_at]
        return bool(known) and max(known, key=_time).run_id == delivery.run_id

    def send(self, outgoing: Outgoing) -> Sent:
        target, record = outgoing.target, outgoing.record
        place = Place.of(outgoing.ctx.lake, target, record.job)
        newest = place.newest()
        if newest is not None and newest > record.ds and not outgoing.replaces_newer:
            raise Overtaken(f"{newest}, a newer period, was exported before")
        with scratch(place.storage.workspace, f"{record.job}.{target.name}") as folder:
            return _Export(outgoing, place, folder).send()

    def withdraw(
        self,
        ctx: Context,
        target: ExportTarget,
        delivery: Delivery,
        successor: RunRecord | None,  # noqa: ARG002 - is sent next, and becomes current then
    ) -> str | None:
        withdrawn = Place.of(ctx.lake, target, delivery.job).withdraw_run(delivery.ds, delivery.run_id)
        if not withdrawn and not delivery.details:
            return None
        return "files that were handed over cannot be taken back; their manifest says that they are withdrawn"


class _Export:
    """One export, in its steps."""

    def __init__(self, outgoing: Outgoing, place: Place, folder: Path) -> None:
        self.target: ExportTarget = outgoing.target
        self.outgoing, self.place, self.scratch = outgoing, place, folder
        self.record, self.con, self.lake = outgoing.record, outgoing.con, outgoing.ctx.lake
        self.key = outgoing.record.plan.key

    def send(self) -> Sent:
        outgoing, target = self.outgoing, self.target
        chosen = choose(self.con, target, self.key, self.lake.storage, outgoing.as_of, self.scratch)
        rows = self.con.table("chosen").order(BY_RANK)
        sent, held = (rows.filter(ColumnExpression(GROUP) == ConstantExpression(name)) for name in (SENT, HOLDOUT))
        files = [self._write("rows", self._exported(sent, chosen))]
        if target.holdout is not None:
            files.append(self._write("holdout", self._exported(held, chosen)))
        content = digest_of(files)
        base = self._base(content) if target.changes else None
        if target.changes:
            files += self._write_changes(sent, chosen, base)
        digest = digest_of(files)
        table = self._keep_table(rows, digest)
        folder = self.place.folder(self.record, digest)
        for file in files:
            self.place.storage.replace(f"{folder}/{file.path.name}", file.path)
        manifest = self._manifest(chosen, files, digest, base)
        self.place.show(folder, manifest)
        details: dict[str, Any] = {"content": content, "folder": folder, "table": table, "base": base}
        details |= {"compared": target.changes, "follows": self._follows()}
        details |= {name: manifest[name] for name in ("files", "suppressed", "held_out")}
        where = self.place.storage.where(folder)
        return Sent(chosen.sent, digest, where, details, tuple(f"{where}/{file.path.name}" for file in files))

    def _exported(self, rows: Relation, chosen: Chosen) -> Relation:
        names = [*chosen.columns]
        names += [RANK] if self.target.score is not None else []
        names += [GROUP] if self.target.holdout is not None else []
        return rows.select(*map(ColumnExpression, names))

    def _write(self, what: str, rows: Relation) -> Written:
        name = self.target.name if what == "rows" else f"{self.target.name}.{what}"
        path = self.scratch / f"{name}{SUFFIXES[self.target.format]}"
        safe = self.target.spreadsheet_safe
        return write_file(rows, path, what, metadata=lineage(self.record, self.target.name), keys=self.key, safe=safe)

    def _follows(self) -> str | None:
        """Returns the run whose export was the last to be handed over before this one's."""
        others = [each for each in self.outgoing.known if each.delivered_at and each.run_id != self.record.run_id]
        return max(others, key=_time).run_id if others else None

    # What has changed

    def _base(self, content: str) -> dict[str, Any] | None:
        """Returns the export that the receiver has: the last one that was handed over, whatever has become of it.

        If that is this run's own, with the same rows, it is being repeated, and is compared with what it was before.
        None if there is none, or if it was made without `changes`.
        """
        handed_over = [each for each in self.outgoing.known if each.delivered_at is not None]
        last = max(handed_over, key=_time, default=None)
        if last is None or not last.details["compared"]:
            return None
        if last.run_id == self.record.run_id and last.details["content"] == content:
            base: dict[str, Any] | None = last.details["base"]
            return base
        return {"run_id": last.run_id, "ds": last.ds, "digest": last.digest, "table": last.details["table"]}

    def _write_changes(self, sent: Relation, chosen: Chosen, base: dict[str, Any] | None) -> list[Written]:
        sent.create_view("sent")
        key = [ColumnExpression(name) for name in self.key]
        if base is None:
            before = sent.filter(ConstantExpression(value=False))
        else:
            before = read_parquet(self.con, [self.lake.storage.where(base["table"])])
            before = before.filter(ColumnExpression("__group") == ConstantExpression(SENT))
        value = key_expression(self.key, column_types(before)).alias("__key")
        before.select(*key, "__content", value).create_view("before")
        self.con.sql(sql_files.load("publish/changes")).create("changes")
        files = []
        for change in ("added", "changed"):
            rows = self.con.sql(sql_files.load("publish/sent_with"), params={"change": change}).order(BY_RANK)
            files.append(self._write(change, self._exported(rows, chosen)))
        removed = self.con.sql(sql_files.load("publish/removed")).order("__key").select(*key)
        return [*files, self._write("removed", removed)]

    # What the lake keeps

    def _keep_table(self, rows: Relation, digest: str) -> str:
        """Stores who was sent and who was held out. Returns the key of the file."""
        record, target = self.record, self.target
        named = {
            "__target": target.name,
            "__digest": digest,
            "__campaign": target.holdout.campaign if target.holdout else None,
        }
        columns = [ColumnExpression(name) for name in self.key]
        columns += [ConstantExpression(value).cast("VARCHAR").alias(name) for name, value in named.items()]
        columns += [ColumnExpression(GROUP).alias("__group"), ColumnExpression(RANK).alias("__rank")]
        columns += [ColumnExpression(name) for name in ("__score", "__segment", "__content")]
        path = self.scratch / "table.parquet"
        with rows.select(*columns).to_arrow_reader(ROW_GROUP) as reader:
            write_parquet(path, reader.schema, reader, lineage(self.record, self.target.name))
        place = f"exports/job={record.job}/ds={record.ds}/model_version={record.model.version}"
        table = f"{place}/{record.run_id}.{target.name}.{digest[:12]}.parquet"
        if self.lake.is_local and self.place.storage is not self.lake.storage:
            with scratch(self.lake.workspace, f"{record.job}.{target.name}") as folder:
                self.lake.storage.replace(table, Path(shutil.copy(path, folder)))
        else:
            self.lake.storage.replace(table, path)
        return table

    def _manifest(
        self, chosen: Chosen, files: list[Written], digest: str, base: dict[str, Any] | None
    ) -> dict[str, Any]:
        target = self.target
        since = {name: value for name, value in base.items() if name != "table"} if base else None
        limits = target.model_dump(mode="json", include={"where", "score", "top", "share", "per"}, exclude_none=True)
        return {
            "format": FORMAT,
            "state": "complete",
            **lineage(self.record, self.target.name),
            "made_at": self.outgoing.as_of.isoformat(timespec="seconds"),
            "digest": digest,
            "files": [file.as_dict() for file in files],
            "candidates": self.outgoing.rows,
            "suppressed": [each.model_dump(mode="json") for each in chosen.lists],
            "limits": limits,
            "segments": [asdict(each) for each in chosen.segments[:MOST_SEGMENTS]],
            "sent": chosen.sent,
            "held_out": chosen.held_out,
            "holdout": target.holdout.model_dump() if target.holdout else None,
            "changes_since": since,
        }


def _time(delivery: Delivery) -> datetime:
    return delivery.delivered_at or delivery.at


def lineage(record: RunRecord, target: str) -> dict[str, str]:
    """Returns what every file says about its origin."""
    return {
        "job": record.job,
        "ds": record.ds,
        "run_id": record.run_id,
        "target": target,
        "model_name": record.model.name,
        "model_version": record.model.version,
        "model_digest": record.model.digest,
    }


@contextmanager
def scratch(disk: LocalStorage, name: str) -> Iterator[Path]:
    """Yields a folder on a disk from which files can be published there; removes those that a crash left a day ago."""
    parent = disk.path(WRITING)
    make_folder(parent)
    for old in parent.glob(f"{name}-*"):
        if time.time() - old.stat().st_mtime > DAY_S:
            shutil.rmtree(old)
    folder = parent / f"{name}-{token_hex(8)}"
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
