"""Wrote the frozen lake `published_1`: predictions that were handed on as exports and flags.

    python -m tests.frozen.write_published FOLDER        FOLDER must not exist

As `write.py`, it documents how the data was made, and is never run again for the same folder.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa
import torch

from tests.frozen.write import Writer, customers, edited, linear, register

OFFERS = """
description = "Exports with a control group, a suppression list and changes; flags with a budget."

[model]
name = "offers"

[input]
path = "input/offers/ds={ds}/*.parquet"
key = ["id"]
carry = ["country"]

[[publish]]
name = "spring"
kind = "export"
score = "prob_class_1"
top = 20
changes = true
holdout = { campaign = "spring-2026", share = 0.2 }

[[publish.suppress]]
name = "opted_out"
path = "lists/opted_out.csv"
max_age = "30d"

[[publish]]
name = "watched"
kind = "flags"
score = "prob_class_1"
enter = 0.9
leave = 0.6
budget = 3

[quality]
enabled = false

[report]
enabled = false

[engine]
device = "cpu"
threads = 1
"""


def write(to: Writer) -> None:
    """Writes two complete days, a second run of the second that is rolled back, and a day that was never run."""
    to.job("offers", OFFERS)
    lists = to.folder / "lake" / "lists"
    lists.mkdir(parents=True)
    (lists / "opted_out.csv").write_text("id\nu001\nu002\nu003\n")
    torch.save({"model_state_dict": linear((0.5, 1.0, -0.8)).state_dict()}, to.incoming / "offers.pt")
    signature = {"features": ["age", "visits", "spend"], "classes": ["0", "1"], "architecture": "mlp:relu"}
    golden = customers(100, 20).select(["age", "visits", "spend"])
    register(to, "offers", "offers.pt", signature, golden=golden)

    to.bring("offers", "2026-03-02", customers(11))
    to.run("run --job offers --date 2026-03-02 --json")

    rows = customers(12)
    to.bring("offers", "2026-03-03", rows)
    to.run("run --job offers --date 2026-03-03 --json")
    to.bring("offers", "2026-03-03", edited(rows, "visits", {5: 25.0, 6: 1.0}), options="--replace")
    (second,) = to.run("run --job offers --date 2026-03-03 --json")
    to.run(f"rollback {second['run_id']}")
    rows = pa.concat_tables([rows.slice(0, 55), customers(13, 5, first=200)])
    to.bring("offers", "2026-03-04", rows)


def main(folder: Path) -> None:
    if folder.exists():
        raise SystemExit(f"{folder} exists: a frozen lake is never written again; name a new folder")
    to = Writer(folder.resolve())
    to.incoming.mkdir(parents=True)
    write(to)
    to.clean_up()
    to.check_names()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m tests.frozen.write_published FOLDER")
    main(Path(sys.argv[1]))
