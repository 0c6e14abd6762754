"""The ledger accounts for every candidate of a run. Each term is the result of its own query over what is stored.

    candidates = scored + unchanged + quarantined + duplicates + overtaken
    withdrawn keys without a mark = rows by which the run marks them, its own or another run's

in rows and in sums of `hash(key)`, so that a lost row and a duplicate do not cancel out. The counts of the stream are
compared with the ledger, but are not part of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import duckdb
from duckdb import ColumnExpression, ConstantExpression, FunctionExpression

from pipeline.database.connection import column_types, create_view
from pipeline.database.holding import Named
from pipeline.errors import LedgerImbalance, StorageError
from pipeline.records import Ledger, RunRecord, Statistics, Term
from pipeline.selecting.triage import WITHDRAWN
from pipeline.selecting.withdrawn import unmarked, withdrawn

if TYPE_CHECKING:
    from pipeline.selecting.views import Selection

COUNTED = ("prediction", "prediction_proba", "value", "top_items", "top_scores", "run_id", "reason", "revision")
"""Columns that the statistics and counts need; which of them exist depends on the model's task."""
MOST_TOUCHED = 0.25
"""Share of the rows that have changed or were rejected above which a join of all rows is cheaper than finding them."""
REPORT_IT = "run again; if it happens again, keep the staged files and report this bug of Lakescore"


class Accounts:
    """Computes the ledger of one run from views of what the run has staged, and later published.

    Call `before_commit`, then `after_commit`; the other methods describe the committed rows.
    """

    def __init__(
        self,
        selected: Selection,
        record: RunRecord,
        staged: Sequence[str],
        rejected: Sequence[str],
        withdrawing: Sequence[str] = (),
    ) -> None:
        """Creates the views. `staged`, `rejected` and `withdrawing` are paths of Parquet files."""
        self._selected, self._record, self._withdrawing = selected, record, withdrawing
        self._republishes = record.job_config.get("policy", {}).get("carried_change") == "publish"
        self._published: Sequence[str] = ()
        self._others: Sequence[str] = ()
        selected.stored_view("staged", staged, ["fingerprint", "revision"])
        selected.stored_view("rejected", rejected)
        selected.stored_view("withdrawing", withdrawing)
        create_view(selected.con, "scored", "FROM staged")
        selected.stored_view("meanwhile", [], ("fingerprint", "revision"))

    def before_commit(self) -> Ledger:
        """Returns the ledger over the staged rows. Raises LedgerImbalance if it does not add up."""
        term, plan = self._selected.term, self._record.plan
        candidates = plan.candidates
        if plan.duckdb != duckdb.__version__:  # hash() may differ between versions
            candidates = term("committing/candidates")
        ledger = Ledger(
            candidates=candidates,
            scored=term("committing/scored"),
            unchanged=self._unchanged() if plan.base else Term(),
            quarantined=term("committing/quarantined"),
            duplicates=term("committing/duplicates") if plan.repeated else Term(),
        )
        check(ledger, self._record, "nothing was committed")
        _check_stream(ledger, self._record)
        withdrawing = term("committing/withdrawing") if self._withdrawing else Term()
        self._check_marked(withdrawing, "nothing was committed")
        return ledger

    def after_commit(
        self, ledger: Ledger, published: Sequence[str], others: Sequence[str], foreign: Sequence[str] = ()
    ) -> Ledger:
        """Returns the ledger over the committed rows. Raises LedgerImbalance if it does not add up.

        `published` are the paths of the run's own part files, `others` those that other runs published since the plan,
        `foreign` those of them with predictions of another model of the same version.
        """
        selected = self._selected
        self._published, self._others = published, others
        selected.stored_view("scored", published, optional=COUNTED)
        self._check_owner(published)
        scored = selected.term("committing/scored")
        unchanged, terms = ledger.unchanged, dict[bool, Term]()
        if others:
            own = [path for path in others if path not in foreign]
            carry = self._record.plan.carry if self._republishes else ()
            selected.predictions_view("meanwhile", own, foreign, carry)
            terms = self._terms("committing/meanwhile")
            if self._record.plan.base:
                unchanged = self._unchanged()
        update = {"unchanged": unchanged + terms.get(False, Term()), "overtaken": terms.get(True, Term())}
        after = ledger.model_copy(update={"scored": scored, **update})
        check(after, self._record, "rows are committed, but the partition is not marked complete")
        return after

    def _unchanged(self) -> Term:
        """Returns the term of `committing/unchanged`, without its join of all rows where it follows from sums.

        If the selected keys are those stored before and the new ones that were staged or rejected, in number and in two
        sums of hashes, then every stored key is selected; it is unchanged unless it was scored again, by any run, or
        rejected. The sums differ if keys are withdrawn, or if rows are lost or doubled: then the join tells what is.
        """
        selected, candidates = self._selected, self._record.plan.candidates.rows
        new = _sums(selected, "committing/sums_of_new")
        counts = self._record.dispositions
        if counts.get("scored", 0) + counts.get("quarantined", 0) - new["rows"] > MOST_TOUCHED * candidates:
            return selected.term("committing/unchanged")
        stored = _sums(selected, "committing/sums_of_latest")
        known = {name: stored[name] + new[name] for name in stored}
        if known["rows"] > candidates or known != _sums(selected, "committing/sums_of_selected"):
            return selected.term("committing/unchanged")
        touched = selected.term("committing/known_touched")
        return Term(rows=stored["rows"] - touched.rows, hash_sum=stored["hash_sum"] - touched.hash_sum)

    def _check_owner(self, published: Sequence[str]) -> None:
        """Raises StorageError if another run has overwritten a part file of this one: its rows may well add up."""
        if not published:
            return
        others = ColumnExpression("run_id") != ConstantExpression(self._record.run_id)
        (rows,) = Named(self._selected.con, "scored").aggregate([FunctionExpression("count_if", others)])
        if rows:
            raise StorageError(
                "the storage has let another run overwrite a part file of this run",
                where=self._selected.partition.folder,
                expected=f"rows of run {self._record.run_id} alone",
                got=f"{rows:,} rows of other runs",
                next_step="use a storage that creates a file only if its name is free; `lakescore verify` finds "
                "what is lost",
            )

    def marked(self, published: Sequence[str]) -> tuple[Term, Term]:
        """Returns the rows by which the run has marked withdrawn keys, in these files, and those that were overtaken.

        The latter keys have a prediction that another run has published since the plan. Call it after `after_commit`.
        Raises LedgerImbalance if a key that had to be marked is missing.
        """
        self._selected.stored_view("marking", published)
        found = self._selected.term("committing/marking") if published else Term()
        others = self._terms("committing/withdrawing_meanwhile") if self._others else {}
        total = sum(others.values(), found)
        self._check_marked(total, "rows are committed, but the partition is not marked complete")
        return found, others.get(True, Term())

    def _terms(self, query: str) -> dict[bool, Term]:
        """Returns what other runs have published, by whether it has overtaken this run."""
        return {
            bool(row["overtaken"]): Term(rows=row["rows"], hash_sum=row["hash_sum"])
            for row in self._selected.count(query)
        }

    def _check_marked(self, found: Term, consequence: str) -> None:
        staged = self._record.dispositions.get(WITHDRAWN, 0)
        expected = unmarked(self._selected) if staged or found.rows else Term()
        if found != expected or expected.rows != staged:
            raise LedgerImbalance(
                f"run {self._record.run_id} of {self._record.ds} does not add up; {consequence}",
                expected=f"{expected.rows:,} keys are not in the input any more, and {staged:,} rows were staged",
                got=f"{found.rows:,} rows mark such keys" + (", but other keys" if found.rows == expected.rows else ""),
                next_step=REPORT_IT,
            )

    def statistics(self) -> Statistics:
        """Returns statistics over the committed rows."""
        if not self._published:
            return Statistics()
        selected = self._selected
        columns = column_types(selected.con.view("scored"))
        if "value" in columns:
            return _of_values(selected.count("committing/statistics_values"))
        if "top_scores" in columns:
            return _of_ranks(selected)
        labels = columns["prediction"].endswith("[]")
        rows = selected.count("committing/statistics_labels" if labels else "committing/statistics")
        classes, reasons = _totals(rows, "prediction"), _totals(rows, "reason")
        if labels:
            rows = selected.count("committing/statistics_reasons")
            return Statistics(classes=classes, reasons=_totals(rows, "reason"))
        confidence = sum(row["sum_confidence"] for row in rows) / sum(row["rows"] for row in rows)
        return Statistics(classes=classes, reasons=reasons, mean_confidence=confidence)

    def withdrawn(self, ledger: Ledger) -> int:
        """Returns the number of keys that have a prediction but no longer a row in the input.

        Needs no join if no row was rejected and no other run has published: then each known key that is neither
        unchanged nor scored again has no row in the input.
        """
        if self._others or ledger.quarantined.rows or not self._record.plan.base:
            return withdrawn(self._selected)
        known = self._selected.term("committing/latest").rows
        revised = self._selected.term("committing/revised").rows if self._published else 0
        return known - ledger.unchanged.rows - revised


def _sums(selected: Selection, query: str) -> dict[str, int]:
    """Returns the number of keys and their two sums of hashes."""
    (sums,) = selected.count(query)
    return sums


def _of_values(rows: list[dict[str, Any]]) -> Statistics:
    mean = sum(row["total"] for row in rows) / sum(row["rows"] for row in rows)
    values = {"mean": mean, "low": min(row["low"] for row in rows), "high": max(row["high"] for row in rows)}
    finite = all(map(math.isfinite, values.values()))  # a job without validation may have stored NaN
    return Statistics(reasons=_totals(rows, "reason"), values=values if finite else None)


def _of_ranks(selected: Selection) -> Statistics:
    (items,) = selected.count("committing/statistics_items")
    return _of_values(selected.count("committing/statistics_ranks")).model_copy(update={"items": items["items"]})


def _totals(rows: list[dict[str, Any]], column: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for row in rows:
        found[str(row[column])] = found.get(str(row[column]), 0) + row["rows"]
    return found


def check(ledger: Ledger, record: RunRecord, consequence: str) -> None:
    """Raises LedgerImbalance if the ledger does not add up."""
    if ledger.balanced:
        return
    difference = ledger.accounted.rows - ledger.candidates.rows
    raise LedgerImbalance(
        f"run {record.run_id} of {record.ds} does not add up; {consequence}",
        expected=f"{ledger.candidates.rows:,} candidates",
        got=" + ".join(f"{rows:,} {name}" for name, rows in ledger.counts().items() if name != "candidates")
        + (f", a difference of {difference:+,}" if difference else ", the same number, but other keys"),
        next_step=REPORT_IT,
    )


def _check_stream(ledger: Ledger, record: RunRecord) -> None:
    """Compares the ledger with the stream's counts: to SQL alone, a changed row that was lost would look unchanged."""
    counted = {name: record.dispositions.get(name, 0) for name in ("scored", "unchanged", "quarantined")}
    stored = {name: ledger.counts()[name] for name in counted}
    if counted != stored:
        raise LedgerImbalance(
            f"run {record.run_id} of {record.ds} does not add up; nothing was committed",
            expected=f"the counts of the stream: {counted}",
            got=f"the counts of the stored rows: {stored}",
            next_step=REPORT_IT,
        )
