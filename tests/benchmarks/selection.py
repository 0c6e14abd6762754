"""The selection at scale: candidates against what is stored, at a memory limit of 1 GB; each in a process of its own.

python -m tests.benchmarks selection
python -m tests.benchmarks.selection FOLDER CANDIDATES STORED PARTITIONS        one measurement
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path

import duckdb

from pipeline.context import Context
from pipeline.lake.layout import Partition
from pipeline.records import Plan, Term
from pipeline.selecting.views import select as select_rows
from tests.benchmarks.measuring import in_process, machine, markdown, measure, report, write_section
from tests.workspace import Workspace

FILE_ROWS = 5_000_000
FIRST = date(2026, 1, 1)
SHAPES = ((5_000_000, 50_000_000, 60), (50_000_000, 50_000_000, 1), (100_000_000, 100_000_000, 1))
NEW = 0.1
"""The share of the candidates that have no prediction yet."""
INPUT = "SELECT 'user_' || i AS id, random() AS a, random() AS b FROM range({first}, {last}) AS r(i)"
STORED = """
SELECT 'user_' || i AS id, (i % 2)::TINYINT AS prediction, random()::FLOAT AS prediction_proba,
    (random() * 1e18)::BIGINT AS fingerprint, 0::INTEGER AS revision
FROM range({first}, {last}) AS r(i)
"""


def run(folder: Path, rows: Sequence[int], _repeats: int) -> None:
    """Measures the shapes up to the largest of `rows`, and writes the table."""
    lines = []
    for shape in [shape for shape in SHAPES if shape[0] <= max(*rows, SHAPES[0][0])]:
        place = folder / "selection"
        build(place, *shape)
        measured = in_process("tests.benchmarks.selection", place, *shape)
        shutil.rmtree(place)
        candidates, stored, partitions = shape
        speed = f"{candidates / measured.wall_s / 1e6:.1f}M"
        figures = (f"{measured.wall_s:.1f}", f"{measured.cpu_s:.1f}", speed, f"{measured.peak_bytes / 1e6:,.0f}")
        lines.append((f"{candidates / 1e6:.0f}M", f"{stored / 1e6:.0f}M in {partitions}", *figures))
    columns = ("candidates", "stored, in partitions", "wall s", "CPU s", "candidates/s", "peak MB")
    write_section("selection", f"{machine()}\n\n{markdown(columns, lines)}")


def build(folder: Path, candidates: int, stored: int, partitions: int) -> None:
    workspace = Workspace(folder)
    workspace.job()
    with duckdb.connect(config={"memory_limit": "2GB", "preserve_insertion_order": "false"}) as con:
        write(con, INPUT, workspace.lake / f"unscored/ds={FIRST}", 0, candidates)
        first, share = int(candidates * NEW), stored // partitions
        for number in range(partitions):
            partition = Partition("toy", str(FIRST + timedelta(days=number)), "v1")
            write(con, STORED, workspace.lake / partition.folder, first, first + share)


def write(con: duckdb.DuckDBPyConnection, query: str, folder: Path, first: int, last: int) -> None:
    folder.mkdir(parents=True)
    for number, start in enumerate(range(first, last, FILE_ROWS)):
        text = query.format(first=start, last=min(start + FILE_ROWS, last))
        con.execute(f"COPY ({text}) TO '{folder}/part-{number:08d}.parquet' (COMPRESSION zstd)")


def select(ctx: Context) -> int:
    """Plans as a run does, and streams the rows to score; returns how many have no prediction yet."""
    partition = Partition("toy", str(FIRST), "v1")
    plan = Plan(
        input=ctx.lake.input_files(ctx.job.patterns, partition.ds),
        base=ctx.lake.parts(partition),
        other_versions=(),
        key=("id",),
        carry=(),
        features=("a", "b"),
        candidates=Term(),
        null_keys=0,
        repeated=False,
        duckdb=duckdb.__version__,
    )
    with (
        select_rows(ctx, plan, partition) as selected,
        selected.to_score([]).to_arrow_reader(ctx.batch_rows(2)) as reader,
    ):
        return sum(batch.column("__fingerprint").null_count for batch in reader)


def main() -> None:
    folder, candidates, stored, partitions = Path(sys.argv[1]), *map(int, sys.argv[2:])
    ctx = Workspace(folder).context(memory_limit="1GB")
    new: list[int] = []
    measured = measure(lambda: new.append(select(ctx)))
    known = min(stored // partitions, candidates - int(candidates * NEW))
    assert new == [candidates - known], new
    report(measured)


if __name__ == "__main__":
    main()
