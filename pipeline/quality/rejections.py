"""Why rows are in quarantine: the reasons, with the number of rows and a few keys of each."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.columns import HIVE, OF_REJECTED
from pipeline.database import sql_files
from pipeline.database.aligning import with_key_text
from pipeline.database.connection import connect, read_parquet, translated_errors
from pipeline.errors import counted
from pipeline.records import State
from pipeline.staging.folders import complete_files, staging_folder

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.lake.layout import Lake
    from pipeline.records import RunRecord

KEYS = 3
"""Number of keys that are shown of each reason."""
NARROW_KEY = "conflicting_duplicate"


@dataclass(frozen=True)
class Reason:
    """The rows in quarantine for one reason; a row with two reasons counts for both."""

    reason: str
    rows: int
    keys: tuple[str, ...] = ()
    """The smallest keys, as text; rows without a key have none."""

    def __str__(self) -> str:
        return f"{self.rows:,} {self.reason}"


def of_files(lake: Lake, paths: Sequence[str], key: Sequence[str]) -> list[Reason]:
    """Returns the reasons in Parquet files of rejected rows, most frequent first."""
    if not paths:
        return []
    with connect(threads=1) as con, translated_errors(paths[0]):
        lake.storage.attach(con)
        rows = with_key_text(read_parquet(con, paths), key, {*OF_REJECTED, *HIVE})
        rows.create_view("rejected")
        found = con.sql(sql_files.load("quality/reasons")).fetchall()
    return [Reason(reason, rows, tuple(keys or ())) for reason, rows, keys in found]


def of_run(lake: Lake, record: RunRecord) -> list[Reason]:
    """Returns the reasons of the rows that a run has rejected: from its quarantine, or from what it had staged.

    A run that was stopped by a rule before it scored has staged nothing: its checks say how many rows broke the rule.
    """
    stored = f"quarantine/job={record.job}/ds={record.ds}/{record.run_id}.parquet"
    if record.state is not State.stopped:
        there = lake.storage.head(stored) is not None
        return of_files(lake, [lake.storage.where(stored)] if there else [], record.plan.key)
    folder = lake.workspace.path(staging_folder(record))
    rejected = Path(str(folder).replace("/.staging/", "/.rejected/", 1))
    files = [*complete_files(folder, "rejected"), *complete_files(rejected, "rejected")]
    if files:
        return of_files(lake, list(map(str, files)), record.plan.key)
    broken = [each for each in record.checks if each.outcome == "stopped" and each.unexpected]
    return [Reason(each.name, each.unexpected or 0) for each in broken]


class Tally:
    """Counts the reasons of rejected rows that are stored nowhere, batch by batch."""

    def __init__(self, key: Sequence[str]) -> None:
        self._key = list(key)
        self._rows: Counter[str] = Counter()
        self._samples: dict[str, list[pa.RecordBatch]] = defaultdict(list)

    def add(self, rows: pa.RecordBatch, reasons: pa.Array) -> None:
        """Adds rejected rows with their key columns; `reasons` are lists of text, one per row."""
        import pyarrow.compute as pc

        for each in pc.value_counts(pc.list_flatten(reasons)).to_pylist():
            reason, count = each["values"], each["counts"]
            self._rows[reason] += count
            if len(self._samples[reason]) < KEYS and reason != "null_key":
                place = pc.list_parent_indices(reasons).filter(pc.equal(pc.list_flatten(reasons), reason))
                self._samples[reason].append(rows.select(self._key).take(place[:KEYS]))

    def reasons(self) -> list[Reason]:
        """Returns the reasons, most frequent first."""
        import pyarrow as pa

        found = []
        with connect(threads=1) as con:
            for reason, count in sorted(self._rows.items(), key=lambda each: (-each[1], each[0])):
                samples = self._samples[reason]
                keys: list[str] = []
                if samples:
                    table = con.from_arrow(pa.Table.from_batches(samples))
                    texts = with_key_text(table, self._key, ()).select("key_text").limit(KEYS).fetchall()
                    keys = [text for (text,) in texts if text is not None]
                found.append(Reason(reason, count, tuple(keys)))
        return found


def listed(reasons: Iterable[Reason]) -> str:
    return ", ".join(map(str, reasons))


def advice(reasons: Sequence[Reason], key: Sequence[str]) -> str | None:
    """Returns what the most frequent reason suggests about the job; None if nothing."""
    if reasons and reasons[0].reason == NARROW_KEY:
        rows = counted(reasons[0].rows, "row")
        return f"{rows} share {', '.join(key)} with a row that differs: if they are right, `key` needs another column"
    return None
