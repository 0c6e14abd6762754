"""`python -m tests.benchmarks [NAME ...]`: runs benchmarks and writes their tables into docs/performance.md.

Without names it runs those of a run as a whole, in USUAL; `all` runs every one.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks import (
    against,
    backfill,
    cluster,
    daily,
    drift,
    explain,
    ledger,
    lock,
    models,
    online,
    pairing,
    publish,
    quality,
    selection,
    shapes,
    slope,
    spent,
    workers,
)

BENCHMARKS: dict[str, Callable[[Path, list[int], int], None]] = {
    "against": against.run,
    "backfill": backfill.run,
    "cluster": cluster.run,
    "daily": daily.run,
    "drift": drift.run,
    "explain": explain.run,
    "ledger": ledger.run,
    "lock": lock.run,
    "models": models.run,
    "online": online.run,
    "pairing": pairing.run,
    "publish": publish.run,
    "quality": quality.run,
    "selection": selection.run,
    "shapes": shapes.run,
    "slope": slope.run,
    "spent": spent.run,
    "workers": workers.run,
}


USUAL = ("daily", "against", "shapes", "slope", "spent", "lock", "workers")
"""Those of scoring as a whole: about half an hour on two quiet cores."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], "all", *BENCHMARKS], help=f"by default {', '.join(USUAL)}")
    parser.add_argument("--rows", type=int, nargs="+", default=[5_000_000, 30_000_000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--scratch", type=Path, help="a folder for the data (10 GB at 30M rows); by default a temporary one"
    )
    arguments = parser.parse_args()
    names = BENCHMARKS if "all" in arguments.names else arguments.names or USUAL
    with tempfile.TemporaryDirectory(prefix="lakescore-bench-") as temporary:
        for name in names:
            BENCHMARKS[name](arguments.scratch or Path(temporary), arguments.rows, arguments.repeats)


main()
