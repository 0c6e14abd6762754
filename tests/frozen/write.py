"""Wrote the frozen lake of this folder, once, with the command line alone.

    python -m tests.frozen.write FOLDER        FOLDER must not exist

This script documents how the data of `format_1` was made. It is never run again for `format_1`: see README.md.
A later format gets its own folder, `format_2`, written by the version of this script that fits it.

Random values come from fixed seeds; the weights of the models are literal numbers or come from a fixed seed.
Two runs of this script differ in run ids, times, tokens in file names, and what depends on them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import warnings
from collections.abc import Sequence
from datetime import date, timedelta
from getpass import getuser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn
from torch.export import Dim

ROOT = Path(__file__).parent.parent.parent
HOST, USER = "frozen-host", "frozen-user"
"""Placeholders for the names of the machine and of the person that wrote the lake."""
KEPT_PAGES = {"2026-03-03": 1, "2026-03-04": 1}
"""Number of newest run pages that are kept, by day."""

MEANS, DEVIATIONS = (45.0, 10.0, 100.0), (15.0, 3.0, 40.0)
"""Means and deviations of age, visits and spend in the training data of the `churn` models."""
COUNTRIES = ("DE", "FR", "US")
TOPICS = ("sport", "news", "arts")
ITEMS = tuple(f"sku-{number:02d}" for number in range(20))

CHURN = """
description = "A classification: checkpoint and safetensors, suites, slices, every kind of row and run."

[model]
name = "churn"

[input]
path = "unscored/ds={ds}/*.parquet"
key = ["id"]
carry = ["country"]

[policy]
max_quarantined = 0.2

[notify]
on = ["success", "warning", "failure", "stopped"]
apprise = ["FROZEN_WEBHOOK"]

[drift]
slices = ["country"]

[engine]
device = "cpu"
threads = 1
"""
SPEND = """
description = "A regression with quantiles: a program of torch.export, declared inputs, a key of two columns."

[model]
name = "spend"

[input]
path = "input/spend/ds={ds}/*.parquet"
key = ["customer", "shop"]

[policy]
max_quarantined = 0.2

[report]
enabled = false

[engine]
device = "cpu"
threads = 1
"""
TOPIC = """
description = "Multi-label: safetensors, a SELECT over two sources."

[model]
name = "topics"
version = "v1"

[input]
select = "features.sql"
key = ["doc"]
carry = ["language"]

[input.sources]
texts = "input/texts/ds={ds}/*.parquet"
authors = "input/authors/*.parquet"

[report]
enabled = false

[engine]
device = "cpu"
threads = 1
"""
FEATURES_SQL = """-- The texts of a day with what is known of their authors.
SELECT
    texts.doc,
    texts.language,
    texts.length,
    texts.links,
    authors.age
FROM texts INNER JOIN authors ON texts.author = authors.author
"""
SHELF = """
description = "A ranking: a checkpoint, a list as input."

[model]
name = "shelf"

[input]
path = "input/shelf/ds={ds}/*.parquet"
key = ["visitor"]

[report]
enabled = false

[engine]
device = "cpu"
threads = 1
"""
SENSOR = """
description = "A regression, over days enough for drift against the days before. No suites, no reports."

[model]
name = "sensor"

[input]
path = "input/sensor/ds={ds}/*.parquet"
key = ["sensor"]
features = ["heat"]

[quality]
enabled = false

[drift]
window_days = 10

[report]
enabled = false

[engine]
device = "cpu"
threads = 1
"""
INPUT_SUITE = {
    "expectations": [
        {
            "type": "expect_column_values_to_be_between",
            "kwargs": {"column": "age", "min_value": 0, "max_value": 120},
            "severity": "critical",
            "meta": {"name": "age_range"},
        },
        {
            "type": "expect_column_mean_to_be_between",
            "kwargs": {"column": "spend", "min_value": 10, "max_value": 500},
            "severity": "critical",
            "meta": {"name": "spend_mean"},
        },
    ]
}
OUTPUT_SUITE = {
    "expectations": [
        {
            "type": "expect_column_mean_to_be_between",
            "kwargs": {"column": "prob_class_1", "max_value": 0.9},
            "severity": "critical",
            "meta": {"name": "score_mean"},
        }
    ]
}


class Writer:
    """The folder that is written; commands run with it as working directory, so all paths stay relative."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.incoming = folder / "incoming"
        ours = {name: text for name, text in os.environ.items() if not name.startswith("LAKESCORE_")}
        self.environment = ours | {
            "PYTHONPATH": str(ROOT),
            "LAKESCORE_JOBS": "jobs",
            "LAKESCORE_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        }

    def run(self, command: str, expect: int = 0) -> Any:
        """Runs `lakescore COMMAND`; returns its output, parsed if it is JSON."""
        arguments = [sys.executable, "-m", "pipeline", *command.split()]
        done = subprocess.run(
            arguments, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        if done.returncode != expect:
            raise RuntimeError(f"lakescore {command}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
        try:
            return json.loads(done.stdout)
        except ValueError:
            return done.stdout

    def job(self, name: str, text: str, **files: str) -> None:
        folder = self.folder / "jobs" / name
        folder.mkdir(parents=True)
        (folder / "job.toml").write_text(text.lstrip("\n"))
        for file, content in files.items():
            (folder / file.replace("_", ".")).write_text(content)

    def table(self, name: str, rows: pa.Table) -> str:
        """Writes a file to be imported; returns its path for a command."""
        path = self.incoming / name
        if path.suffix == ".parquet":
            pq.write_table(rows, path, compression="zstd")
        else:
            path.write_text("".join(json.dumps(row, default=str) + "\n" for row in rows.to_pylist()))
        return f"incoming/{name}"

    def bring(self, job: str, ds: str, rows: pa.Table, *, suffix: str = "parquet", options: str = "") -> None:
        path = self.table(f"{job}.{suffix}", rows)
        self.run(f"import {path} --job {job} --date {ds} {options}")

    def clean_up(self) -> None:
        """Makes the lake small, and removes names; the only steps that do not use the command line.

        Removes the imported files, the index of the reports and all but a few pages, and the Data Docs (a style sheet
        of 150 kB and pages of Great Expectations): no command reads them, and each run makes new ones.

        Then replaces names: `host` in run records and on the pages that repeat it, `provenance.by` in `model.json`, and
        the folder in the link to the report in a notification; all other paths are already relative.
        """
        lake = self.folder / "lake"
        shutil.rmtree(self.incoming)
        shutil.rmtree(lake / "quality" / "docs", ignore_errors=True)
        (lake / "reports" / "index.html").unlink(missing_ok=True)
        for day in (lake / "reports").glob("job=*/ds=*"):
            for page in sorted(day.glob("*.html"), reverse=True)[KEPT_PAGES.get(day.name.removeprefix("ds="), 0) :]:
                page.unlink()
        for folder in sorted((path for path in self.folder.rglob("*") if path.is_dir()), reverse=True):
            if not any(folder.iterdir()):
                folder.rmdir()
        host = re.escape(socket.gethostname())
        replaced = {
            re.escape(str(self.folder)): "/frozen",
            rf'("host": )"{host}"': rf'\1"{HOST}"',
            rf", on {host}\.": f", on {HOST}.",
            rf'("by": )"{re.escape(getuser())}"': rf'\1"{USER}"',
        }
        for path in self.folder.rglob("*"):
            if path.suffix in (".json", ".html"):
                text = path.read_text("utf-8")
                for pattern, new in replaced.items():
                    text = re.sub(pattern, new, text)
                path.write_text(text, "utf-8")

    def check_names(self) -> None:
        """Raises RuntimeError if a file contains the name of the machine, the person or one of their folders."""
        paths = (self.folder, ROOT, Path.home(), Path(sys.prefix))
        host, user = re.escape(socket.gethostname()), re.escape(getuser())
        pattern = re.compile("|".join([*(re.escape(f"{path}/") for path in paths), rf'"{host}"', f'"{user}"']).encode())
        for path in self.folder.rglob("*"):
            if path.is_file() and (found := pattern.search(path.read_bytes())):
                raise RuntimeError(f"{path} holds {found.group().decode()}")


def linear(weights: Sequence[float], activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Returns two layers; class 1 has the logit sum(weight * (x - mean) / deviation), exactly so with ReLU."""
    scale = torch.diag(1 / torch.tensor(DEVIATIONS))
    first, second = nn.Linear(3, 6), nn.Linear(6, 2)
    with torch.no_grad():
        first.weight.copy_(torch.cat([scale, -scale]))
        first.bias.copy_(first.weight @ -torch.tensor(MEANS))
        half = torch.tensor([*weights, *(-weight for weight in weights)]) / 2
        second.weight.copy_(torch.stack([-half, half]))
        second.bias.zero_()
    return nn.Sequential(first, activation(), second).eval()


def drawn(inputs: int, outputs: int, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(inputs, 8), nn.Tanh(), nn.Linear(8, outputs)).eval()


class Quantiles(nn.Module):
    """Returns three quantiles that never cross, from channel, age, visits, and time of day as sine and cosine."""

    def __init__(self) -> None:
        super().__init__()
        self.channel = nn.Embedding(3, 2)
        self.body = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        numbers = torch.cat([x[:, 1:2] / 50, x[:, 2:3] / 10, x[:, 3:]], dim=1)
        raw = self.body(torch.cat([self.channel(x[:, 0].long()), numbers], dim=1))
        return 50 + 10 * torch.cumsum(torch.cat([raw[:, :1], nn.functional.softplus(raw[:, 1:])], dim=1), dim=1)


def customers(seed: int, count: int = 60, *, shift: float = 0.0, first: int = 0) -> pa.Table:
    """Returns rows of `churn`: ids `u000`, `u001`, ..., and features around the means; `shift` moves the visits."""
    rng = np.random.default_rng(seed)
    values = rng.normal(MEANS, DEVIATIONS, (count, 3)).clip(0.5, None)
    return pa.table(
        {
            "id": [f"u{first + number:03d}" for number in range(count)],
            "age": pa.array(np.clip(values[:, 0], 18, 95).astype(np.int64)),
            "visits": pa.array(np.round(values[:, 1] + shift, 1)),
            "spend": pa.array(np.round(values[:, 2], 2)),
            "country": [COUNTRIES[number % 3] for number in range(count)],
        }
    )


def edited(rows: pa.Table, column: str, values: dict[int, Any]) -> pa.Table:
    """Returns a table with some values of a column replaced, by row number."""
    found = rows.column(column).to_pylist()
    for row, value in values.items():
        found[row] = value
    return rows.set_column(rows.schema.get_field_index(column), column, pa.array(found, rows.schema.field(column).type))


def register_churn(to: Writer) -> None:
    """Registers v1, a checkpoint with its own golden batch and a baseline, and v2, safetensors with neither."""
    training = customers(100, 300).drop_columns(["id", "country"])
    to.table("training.parquet", training)
    examples = training.slice(0, 20)
    matrix = np.column_stack([column.to_numpy() for column in examples.columns]).astype(np.float32)
    first = linear((0.5, 1.0, -0.8))
    scores = torch.softmax(first(torch.from_numpy(matrix)), 1).detach().numpy()
    for index in range(2):
        examples = examples.append_column(f"prob_class_{index}", pa.array(scores[:, index]))
    to.table("golden.parquet", examples)
    torch.save({"model_state_dict": first.state_dict(), "input_dim": 3, "version": "7f3a"}, to.incoming / "churn-v1.pt")
    second = linear((0.6, 1.4, -1.0), nn.Tanh)
    save_file(second.state_dict(), to.incoming / "churn-v2.safetensors", metadata={"architecture": "mlp:tanh"})
    options = "--name churn --features age,visits,spend --classes 0,1"
    to.run(
        f"models register incoming/churn-v1.pt --version v1 {options} --golden incoming/golden.parquet "
        "--baseline incoming/training.parquet --metric auc=0.81 --alias production"
    )
    to.run(f"models register incoming/churn-v2.safetensors --version v2 {options}")


def register(to: Writer, name: str, file: str, signature: dict[str, Any], golden: pa.Table | None = None) -> None:
    """Registers a model with the golden batch `golden`; without, the registry draws 256 rows, which take 10 kB."""
    (to.incoming / "signature.json").write_text(json.dumps(signature))
    option = "" if golden is None else f"--golden {to.table('golden.parquet', golden)}"
    to.run(
        f"models register incoming/{file} --name {name} --version v1 --signature incoming/signature.json {option} "
        "--alias production"
    )


def write_churn(to: Writer) -> None:
    """Writes every kind of row, run and day; README.md says what each day shows."""
    write_churn_v2(to, write_churn_v1(to))


def write_churn_v1(to: Writer) -> pa.Table:
    input_suite, output_suite = (json.dumps(suite, indent=2) + "\n" for suite in (INPUT_SUITE, OUTPUT_SUITE))
    to.job("churn", CHURN, input_json=input_suite, output_json=output_suite)
    register_churn(to)

    # Rows of every disposition: u005 comes twice, u006 with two values, the last row has no key.
    # Then one of them is released, and a notification is sent.
    rows = edited(customers(1), "age", {7: None, 8: 150, 9: 130})
    more = edited(pa.concat_tables([rows.slice(5, 2), rows.slice(10, 1)]), "spend", {1: 1.25})
    to.bring("churn", "2026-03-02", pa.concat_tables([rows, edited(more, "id", {2: None})]))
    to.run("run --job churn --date 2026-03-02 --json")
    to.run("quarantine release u009 --date 2026-03-02 --job churn")
    to.run("run --job churn --date 2026-03-02 --json")
    to.run("notify --job churn --date 2026-03-02")

    # Revisions: the day is imported again: three rows changed, one new, and two gone, one of which is erased later.
    rows = customers(2, 59)
    gone = pa.concat_tables([rows, customers(21, 1, first=900)])
    to.bring("churn", "2026-03-03", gone, suffix="jsonl")
    to.run("run --job churn --date 2026-03-03 --json")
    rows = edited(rows.slice(0, 58), "visits", {0: 1.5, 1: 2.5, 2: 21.0})
    rows = pa.concat_tables([rows, customers(22, 1, first=200)])
    to.bring("churn", "2026-03-03", rows, suffix="jsonl", options="--replace")
    to.run("run --job churn --date 2026-03-03 --json")

    # Stopped by the input (another currency), then by the predictions (nearly all of one class).
    rows = customers(4)
    spend = pa.array(np.round(rows.column("spend").to_numpy() * 9, 2))
    to.bring("churn", "2026-03-04", rows.set_column(3, "spend", spend))
    to.run("run --job churn --date 2026-03-04 --json", expect=3)
    to.bring("churn", "2026-03-04", customers(4, shift=12), options="--replace")
    to.run("run --job churn --date 2026-03-04 --json", expect=3)

    # Failed, as the model file was missing; then complete. Its visits have drifted.
    to.bring("churn", "2026-03-05", customers(5, shift=4))
    model = to.folder / "models" / "churn" / "v1" / "model.pt"
    model.rename(model.with_suffix(".away"))
    to.run("run --job churn --date 2026-03-05 --json", expect=1)
    model.with_suffix(".away").rename(model)
    to.run("run --job churn --date 2026-03-05 --json")

    return gone


def write_churn_v2(to: Writer, second_day: pa.Table) -> None:
    """Writes the days of v2, and an unfinished run. `second_day` has the rows of 2026-03-03 as first imported."""
    # Version v2 is promoted. An earlier day gets predictions of the new version, too, and labels.
    to.run("models promote churn v2")
    to.run("run --job churn --date 2026-03-03 --json")
    bought = pa.array([int(row["visits"] > 10) for row in second_day.to_pylist()])
    path = to.table("labels.parquet", second_day.select(["id"]).append_column("bought", bought))
    to.run(f"labels import {path} --label bought --date 2026-03-03 --job churn")
    to.run("erase u900 --job churn")

    # A second run, of two changed rows and a new one, is rolled back.
    rows = customers(6)
    to.bring("churn", "2026-03-06", rows)
    to.run("run --job churn --date 2026-03-06 --json")
    rows = pa.concat_tables([edited(rows, "visits", {3: 1.0, 4: 2.0}), customers(66, 1, first=300)])
    to.bring("churn", "2026-03-06", rows, options="--replace")
    (second,) = to.run("run --job churn --date 2026-03-06 --json")
    to.run(f"rollback {second['run_id']}")

    # Unfinished: scored by single stages, nothing committed.
    to.bring("churn", "2026-03-07", customers(7))
    run_id = to.run("stage check --job churn --date 2026-03-07")["run_id"]
    for stage in ("plan", "validate_input", "score"):
        to.run(f"stage {stage} --job churn --date 2026-03-07 --run-id {run_id}")

    # Never run.
    to.bring("churn", "2026-03-08", customers(8))


def write_spend(to: Writer) -> None:
    to.job("spend", SPEND)
    torch.manual_seed(5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about its own code
        program = torch.export.export(Quantiles().eval(), (torch.zeros(2, 5),), dynamic_shapes=({0: Dim("rows")},))
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # contains the folder of this script
        torch.export.save(program, to.incoming / "spend.pt2")
    inputs = {
        "channel": {"kind": "category", "vocabulary": ["web", "app", "shop"], "unknown": "quarantine", "null": "web"},
        "visits": {"kind": "number", "null": 0},
        "last_seen": {"kind": "timestamp", "convert": "cyclic", "period": "day"},
    }
    features = ["channel", "age", "visits", "last_seen"]
    signature = {"features": features, "inputs": inputs, "task": "regression", "quantiles": [0.1, 0.5, 0.9]}
    rng = np.random.default_rng(31)
    rows = pa.table(
        {
            "customer": pa.array(range(1000, 1040)),
            "shop": [("Mitte", "Wedding, Nord")[number % 2] for number in range(40)],
            "channel": [("web", "app", "shop")[number % 3] for number in range(40)],
            "age": pa.array(rng.integers(18, 90, 40)),
            "visits": pa.array(rng.integers(0, 20, 40)),
            "last_seen": pa.array(np.datetime64("2026-03-31T00", "us") + np.arange(40) % 24 * np.timedelta64(1, "h")),
        }
    )
    register(to, "spend", "spend.pt2", signature, golden=rows.select(features).slice(0, 10))
    rows = edited(edited(rows, "visits", {0: None}), "channel", {1: None, 2: "fax"})
    to.bring("spend", "2026-03-31", rows)
    to.run("run --job spend --date 2026-03-31 --json")


def write_topics(to: Writer) -> None:
    to.job("topics", TOPIC, features_sql=FEATURES_SQL)
    path = to.incoming / "topics.safetensors"
    save_file(drawn(3, 3, 6).state_dict(), path, metadata={"architecture": "mlp:tanh"})
    signature = {"features": ["length", "links", "age"], "task": "multilabel", "classes": TOPICS, "threshold": 0.4}
    register(to, "topics", "topics.safetensors", signature)
    rng = np.random.default_rng(32)
    texts = pa.table(
        {
            "doc": [f"doc-{number:03d}" for number in range(60)],
            "author": [f"author-{number % 6}" for number in range(60)],
            "language": [("en", "de")[number % 2] for number in range(60)],
            "length": pa.array(np.round(rng.normal(0, 1, 60), 3)),
            "links": pa.array(np.round(rng.normal(0, 1, 60), 3)),
        }
    )
    authors = pa.table({"author": [f"author-{number}" for number in range(6)], "age": np.linspace(-1, 1, 6)})
    authors_folder = to.folder / "lake" / "input" / "authors"
    authors_folder.mkdir(parents=True)
    pq.write_table(authors, authors_folder / "authors.parquet", compression="zstd")
    to.bring("topics", "2026-03-31", texts, options="--source texts")
    to.run("run --job topics --date 2026-03-31 --json")


def write_shelf(to: Writer) -> None:
    to.job("shelf", SHELF)
    torch.save({"model_state_dict": drawn(4, 20, 7).state_dict()}, to.incoming / "shelf.pt")
    signature = {
        "features": ["taste"],
        "inputs": {"taste": {"kind": "list", "length": 4}},
        "task": "ranking",
        "classes": ITEMS,
        "top": 3,
        "architecture": "mlp:tanh",
    }
    tastes: NDArray[np.float64] = np.round(np.random.default_rng(33).normal(0, 1, (40, 4)), 3)
    rows = pa.table({"visitor": pa.array(range(40), pa.int32()), "taste": tastes.tolist()})
    register(to, "shelf", "shelf.pt", signature, golden=rows.select(["taste"]).slice(0, 10))
    to.bring("shelf", "2026-03-31", rows)
    to.run("run --job shelf --date 2026-03-31 --json")


def write_sensor(to: Writer) -> None:
    """Writes ten days without drift, and one on which `heat` has doubled."""
    to.job("sensor", SENSOR)
    path = to.incoming / "sensor.pt"
    torch.save(drawn(1, 1, 8).state_dict(), path)
    signature = {"features": ["heat"], "task": "regression", "architecture": "mlp:tanh"}
    register(to, "sensor", "sensor.pt", signature)
    rng = np.random.default_rng(34)
    for number in range(11):
        ds = (date(2026, 3, 21) + timedelta(days=number)).isoformat()
        heat = np.round(rng.normal(1.0, 0.3, 60) * (2 if number == 10 else 1), 3)
        to.bring("sensor", ds, pa.table({"sensor": pa.array(range(60)), "heat": heat}))
    to.run("backfill --job sensor --from 2026-03-21 --to 2026-03-31 --json")


def main(folder: Path) -> None:
    if folder.exists():
        raise SystemExit(f"{folder} exists: a frozen lake is never written again; name a new folder")
    to = Writer(folder.resolve())
    to.incoming.mkdir(parents=True)
    for write in (write_churn, write_spend, write_topics, write_shelf, write_sensor):
        write(to)
    to.clean_up()
    to.check_names()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m tests.frozen.write FOLDER")
    main(Path(sys.argv[1]))
