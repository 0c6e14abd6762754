"""Flags cases whose score is high, and decides which of them are worth an alert: a new case, within the budget, once.

A case opens at `enter` and closes once it stays below `leave`, so that a score near one threshold does not open and
close it day by day. What is flagged is a table, `flags/job=/ds=/model_version=/<run_id>.<target>.<digest>.parquet`,
which the view `flags` shows once it is delivered; the next period goes on from there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from duckdb import ColumnExpression, SQLExpression, StarExpression

from pipeline.columns import KEY_TEXT
from pipeline.context import Context
from pipeline.database import sql_files
from pipeline.database.connection import column_types, empty_relation, read_parquet
from pipeline.errors import DeliveryRefused, counted
from pipeline.job.targets import FlagsTarget
from pipeline.lake.layout import Lake
from pipeline.publish.announced import told_through
from pipeline.publish.delivery import Delivery, DeliveryState
from pipeline.publish.export_rows import check_scores, known_column, score_expression
from pipeline.publish.export_sender import lineage, scratch
from pipeline.publish.sending import Outgoing, Sent
from pipeline.records import RunRecord
from pipeline.storage.parquet import ROW_GROUP, write_parquet

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

CASES = {"__case": "VARCHAR", KEY_TEXT: "VARCHAR", "since": "VARCHAR", "quiet": "INTEGER", "alerted_on": "VARCHAR"}
"""What is read of the table of an earlier period."""


class FlagsSender:
    def stands(self, ctx: Context, target: FlagsTarget, delivery: Delivery) -> bool:  # noqa: ARG002 - any target
        return ctx.lake.storage.head(str(delivery.details["table"])) is not None

    def send(self, outgoing: Outgoing) -> Sent:
        target, record, lake = outgoing.target, outgoing.record, outgoing.ctx.lake
        _create_views(outgoing)
        base, told = _base(outgoing), _told(outgoing)
        _read(outgoing.con, lake, [base] if base else [], "status <> 'left'", "open_before")
        _read(outgoing.con, lake, told, "alert = 'sent'", "told")
        thresholds = {"enter": target.enter, "leave": target.exit, "close_after": target.close_after}
        flagged = outgoing.con.sql(sql_files.load("publish/flagged"), params={"ds": record.ds, **thresholds})
        flagged.create("flagged")
        limits = {"ds": record.ds, "enter": target.enter, "budget": target.budget}
        outgoing.con.sql(sql_files.load("publish/alerted"), params=limits).create("alerted")
        rows, counts = _counted(outgoing.con)
        digest, table = _stored(outgoing)
        since = {"ds": base.ds, "run_id": base.run_id} if base else None
        return Sent(rows, digest, lake.storage.where(table), {"table": table, "since": since, **counts})

    def withdraw(
        self,
        ctx: Context,
        target: FlagsTarget,  # noqa: ARG002 - any target
        delivery: Delivery,
        successor: RunRecord | None,  # noqa: ARG002 - is sent next
    ) -> str | None:
        """The rows have left the view with the state of the delivery; messages are not taken back."""
        if delivery.details.get("new_alerts") and told_through(ctx.lake, delivery):
            return f"{delivery.details['new_alerts']:,} cases were announced; they are not announced again"
        return None


def _create_views(outgoing: Outgoing) -> None:
    """Creates `scored`. Raises JobError for an unknown column, DeliveryRefused for rows without score or case."""
    target: FlagsTarget = outgoing.target
    rows = outgoing.con.view("outgoing")
    case = KEY_TEXT if target.case is None else known_column(rows.columns, target.case, "case", target)
    score = score_expression(column_types(rows), target.score, target)
    named = {"__text": ColumnExpression(KEY_TEXT), "__case": ColumnExpression(case).cast("VARCHAR"), "__score": score}
    rows.select(*(value.alias(name) for name, value in named.items())).create_view("scored")
    check_scores(outgoing.con.view("scored"), target.name, target.score)
    (without,) = outgoing.con.view("scored").aggregate("count(*) FILTER (__case IS NULL)").fetchall()[0]
    if without:
        raise DeliveryRefused(
            f"{counted(without, 'row', ('has', 'have'))} no {case}, and so no case to belong to",
            where=f"target {target.name}",
            next_step=f'leave them out: where = "{case} IS NOT NULL"',
        )


def _base(outgoing: Outgoing) -> Delivery | None:
    """Returns what was flagged in the period before: the last one that was delivered and stands."""
    before = [each for each in _handed_over(outgoing) if each.ds < outgoing.record.ds and _stands(each)]
    return max(before, key=lambda each: (each.ds, each.delivered_at), default=None)


def _told(outgoing: Outgoing) -> list[Delivery]:
    """Returns the deliveries whose alerts were announced, but are not known from the period before.

    Those are of this period, or of a run that was rolled back less than `close_after` periods ago.
    """
    ds, lake = outgoing.record.ds, outgoing.ctx.lake
    known = [each for each in _handed_over(outgoing) if each.ds <= ds]
    periods = sorted({each.ds for each in known if each.ds < ds})[-outgoing.target.close_after :]
    lost = [each for each in known if each.ds == ds or (each.ds in periods and not _stands(each))]
    return [each for each in lost if told_through(lake, each)]


def _stands(delivery: Delivery) -> bool:
    return delivery.state is not DeliveryState.withdrawn


def _handed_over(outgoing: Outgoing) -> list[Delivery]:
    return [each for each in outgoing.known if each.delivered_at is not None]


def _read(con: Connection, lake: Lake, deliveries: Iterable[Delivery], condition: str, name: str) -> None:
    """Creates a table of the cases in the tables of deliveries that fulfil a condition."""
    paths = sorted({lake.storage.where(str(each.details["table"])) for each in deliveries})
    if not paths:
        empty_relation(con, CASES).create(name)
        return
    read_parquet(con, paths).filter(SQLExpression(condition)).select(*map(ColumnExpression, CASES)).create(name)


def _counted(con: Connection) -> tuple[int, dict[str, Any]]:
    """Returns the number of rows of the table, and of each kind of them."""
    wanted = {
        "open": "status <> 'left'",
        "entered": "status = 'entered'",
        "left": "status = 'left'",
        "alerts": "alert = 'sent'",
        "new_alerts": "is_new",
        "cut": "alert = 'cut'",
    }
    found = con.table("alerted").aggregate(
        ", ".join(["count(*)", *(f"count(*) FILTER ({condition})" for condition in wanted.values())])
    )
    rows, *counts = found.fetchall()[0]
    return rows, dict(zip(wanted, counts, strict=True))


def _stored(outgoing: Outgoing) -> tuple[str, str]:
    """Stores the table. Returns its digest and its key in the lake."""
    record, target, lake = outgoing.record, outgoing.target, outgoing.ctx.lake
    order = SQLExpression("score").desc().nulls_last()
    rows = outgoing.con.table("alerted").sort(order, ColumnExpression("__case"))
    rows = rows.select(StarExpression(exclude=["is_new"]))  # without it, sending again makes the same table
    with scratch(lake.workspace, f"{record.job}.{target.name}") as folder:
        path = folder / "flags.parquet"
        with rows.to_arrow_reader(ROW_GROUP) as reader:
            write_parquet(path, reader.schema, reader, lineage(record, target.name))
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        place = f"flags/job={record.job}/ds={record.ds}/model_version={record.model.version}"
        table = f"{place}/{record.run_id}.{target.name}.{digest[:12]}.parquet"
        lake.storage.replace(table, path)
    return digest, table
