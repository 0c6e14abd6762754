"""Does every row add up? Each term of the ledger has a query of its own, over what is stored.

    candidates = scored + unchanged + quarantined + duplicates + overtaken

in rows and in sums of `hash(key)`, so that a lost row and a doubled one do not make up for each other. What the stream
counted is compared with it too, but is no part of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import duckdb

from pipeline import database
from pipeline.errors import LedgerImbalance
from pipeline.records import Ledger, RunRecord, Statistics, Term

if TYPE_CHECKING:
    from pipeline.selection import Selection

OUTPUTS = ("prediction", "prediction_proba", "value", "top_items", "top_scores", "reason")
"""What the statistics are about; each task has some of them."""


def before_commit(selected: Selection, record: RunRecord, staged: Sequence[str], rejected: Sequence[str]) -> Ledger:
    """Returns the ledger over the staged rows. Raises LedgerImbalance if it does not add up."""
    selected.stored_view("staged", staged, ["fingerprint"] if staged else [])
    selected.stored_view("rejected", rejected)
    selected.stored_view("scored", staged)
    selected.stored_view("meanwhile", [], ["fingerprint", "revision"])
    candidates = record.plan.candidates
    if record.plan.duckdb != duckdb.__version__:  # hash() may differ between versions
        candidates = selected.term("ledger/candidates")
    ledger = Ledger(
        candidates=candidates,
        scored=selected.term("ledger/scored"),
        unchanged=selected.term("ledger/unchanged") if record.plan.base else Term(),
        quarantined=selected.term("ledger/quarantined"),
        duplicates=selected.term("ledger/duplicates") if record.plan.repeated else Term(),
    )
    check(ledger, record, "nothing was committed")
    _check_stream(ledger, record)
    return ledger


def after_commit(
    selected: Selection, record: RunRecord, ledger: Ledger, published: Sequence[str], others: Sequence[str]
) -> Ledger:
    """Returns the ledger over the committed rows; `others` are files that other runs published since the plan.

    Expects the views of `before_commit`. Raises LedgerImbalance if it does not add up.
    """
    columns = [name for name in OUTPUTS if name in _columns(selected, published)]
    selected.stored_view("scored", published, columns)
    scored = selected.term("ledger/scored")
    unchanged, terms = ledger.unchanged, {False: Term(), True: Term()}
    if others:
        selected.stored_view("meanwhile", others, ["fingerprint", "revision"])
        for row in selected.count("ledger/meanwhile"):
            terms[bool(row["overtaken"])] = Term(rows=row["rows"], hash_sum=row["hash_sum"])
        if record.plan.base:
            unchanged = selected.term("ledger/unchanged")
    after = ledger.model_copy(
        update={"scored": scored, "unchanged": unchanged + terms[False], "overtaken": terms[True]}
    )
    check(after, record, "rows are committed, but the partition is not marked complete")
    return after


def statistics(selected: Selection, published: Sequence[str]) -> Statistics:
    """Returns what the run predicted, from the view `scored` of `after_commit`."""
    if not published:
        return Statistics()
    columns = database.schema(selected.con.view("scored"))
    if "value" in columns:
        return _of_values(selected.count("ledger/statistics_values"))
    if "top_scores" in columns:
        return _of_ranks(selected)
    labels = columns["prediction"].endswith("[]")
    rows = selected.count("ledger/statistics_labels" if labels else "ledger/statistics")
    classes, reasons = _totals(rows, "prediction"), _totals(rows, "reason")
    if labels:
        return Statistics(classes=classes, reasons=_totals(selected.count("ledger/statistics_reasons"), "reason"))
    confidence = sum(row["sum_confidence"] for row in rows) / sum(row["rows"] for row in rows)
    return Statistics(classes=classes, reasons=reasons, mean_confidence=confidence)


def _of_values(rows: list[dict[str, Any]]) -> Statistics:
    mean = sum(row["total"] for row in rows) / sum(row["rows"] for row in rows)
    values = {"mean": mean, "low": min(row["low"] for row in rows), "high": max(row["high"] for row in rows)}
    finite = all(map(math.isfinite, values.values()))  # a job that does not validate may have stored NaN
    return Statistics(reasons=_totals(rows, "reason"), values=values if finite else None)


def _of_ranks(selected: Selection) -> Statistics:
    (items,) = selected.count("ledger/statistics_items")
    return _of_values(selected.count("ledger/statistics_ranks")).model_copy(update={"items": items["items"]})


def _totals(rows: list[dict[str, Any]], column: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for row in rows:
        found[str(row[column])] = found.get(str(row[column]), 0) + row["rows"]
    return found


def _columns(selected: Selection, published: Sequence[str]) -> list[str]:
    return list(database.schema(database.parquet(selected.con, published))) if published else []


def withdrawn(selected: Selection) -> int:
    """Returns how many keys have a prediction, but no row in the input any more."""
    return selected.term("ledger/withdrawn").rows if selected.plan.base else 0


def withdrawn_after(selected: Selection, ledger: Ledger, found: Statistics, others: Sequence[str]) -> int:
    """Returns `withdrawn` after a commit, without a join if the ledger tells what became of each key that was known.

    A known key whose row was not changed, scored again or rejected, by this run or the `others`, has no row any more.
    """
    if others or ledger.quarantined.rows or not selected.plan.base:
        return withdrawn(selected)
    return selected.term("ledger/latest").rows - ledger.unchanged.rows - found.reasons.get("changed", 0)


def check(ledger: Ledger, record: RunRecord, consequence: str) -> None:
    if ledger.balanced:
        return
    difference = ledger.accounted.rows - ledger.candidates.rows
    raise LedgerImbalance(
        f"run {record.run_id} of {record.ds} does not add up; {consequence}",
        expected=f"{ledger.candidates.rows:,} candidates",
        got=" + ".join(f"{rows:,} {name}" for name, rows in ledger.counts().items() if name != "candidates")
        + (f", which is {difference:+,}" if difference else ", as many, but with other keys"),
        next_step="run again; if it stays so, keep the staged files and report it: this is a fault of Lakescore",
    )


def _check_stream(ledger: Ledger, record: RunRecord) -> None:
    """Compares with what the stream counted, apart: a changed row that was lost would look unchanged to SQL."""
    counted = {name: record.dispositions.get(name, 0) for name in ("scored", "unchanged", "quarantined")}
    stored = {name: ledger.counts()[name] for name in counted}
    if counted != stored:
        raise LedgerImbalance(
            f"run {record.run_id} of {record.ds} does not add up; nothing was committed",
            expected=f"as the stream counted: {counted}",
            got=f"as is stored: {stored}",
            next_step="run again; if it stays so, keep the staged files and report it: this is a fault of Lakescore",
        )
