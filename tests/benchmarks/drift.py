"""The cost of profiles and drift: of one day after few days and after many, and of a large day against its scoring.

python -m tests.benchmarks drift
python -m tests.benchmarks.drift FOLDER         one comparison, of the newest day
"""

from __future__ import annotations

import json
import shutil
import sys
from datetime import date, timedelta
from pathlib import Path

import numpy as np

from pipeline.drift import stage
from pipeline.histograms.counting import LEVELS, Counting, Spec
from pipeline.histograms.table import to_table
from pipeline.profiles import store
from pipeline.records import RunRecord, now
from pipeline.storage.parquet import to_bytes
from tests import lakes
from tests.benchmarks import workspaces
from tests.benchmarks.measuring import in_process, machine, markdown, measure, median, python, report, write_section
from tests.benchmarks.parts import DAY
from tests.workspace import Workspace

HISTORY = (60, 250, 1000)
"""Days with a profile before the one that is judged."""
COLUMNS = 20
FIRST = date(2020, 1, 1)


def run(scratch: Path, rows: list[int], repeats: int) -> None:
    lines = [_of_history(scratch / "drift", days, repeats) for days in HISTORY]
    text = [machine(), "", f"One day of {COLUMNS} features, each in its own process; medians of {repeats}.", ""]
    text.append(markdown(["days before", "wall s", "CPU s", "files of profiles in the lake"], lines))
    found = [_of_rows(workspaces.make(scratch, count), repeats) for count in rows]
    stages = ("plan", "validate_input", "score", "validate_output", "profile", "commit", "drift")
    lines = [[name, *(f"{each[name]:.2f}" for each in found)] for name in stages]
    lines.append(["score, with `enabled = false`", *(f"{each['without']:.2f}" for each in found)])
    lines.append(["**all stages**", *(f"**{each['all']:.2f}**" for each in found)])
    lines.append(["**all, with `enabled = false`**", *(f"**{each['all without']:.2f}**" for each in found)])
    text += ["", markdown(["CPU seconds of a run", *(f"{count / 1e6:g}M rows" for count in rows)], lines)]
    write_section("drift", "\n".join(text))


def _of_history(folder: Path, days: int, repeats: int) -> list[object]:
    build(folder, days)
    runs = [in_process("tests.benchmarks.drift", folder) for _ in range(repeats)]
    files = sum(1 for _ in (folder / "lake" / "profiles").rglob("*.parquet"))
    shutil.rmtree(folder)
    return [days, f"{median([r.wall_s for r in runs]):.3f}", f"{median([r.cpu_s for r in runs]):.3f}", f"{files:,}"]


def build(folder: Path, days: int) -> None:
    """Runs one small day, and copies its record with made-up profiles to the days after it."""
    workspace = Workspace(folder)
    workspace.job()
    workspace.model()
    workspace.day(100, ds=str(FIRST))
    record = workspace.complete(str(FIRST))
    rng = np.random.default_rng(0)
    specs = [Spec("feature", f"x{number}", tuple(LEVELS)) for number in range(COLUMNS)]
    lake = workspace.context().lake
    for number in range(days + 1):
        copy = record.with_(ds=str(FIRST + timedelta(days=number)))
        counting = Counting(specs)
        for counts in counting.counts["", ""].values():
            counts.add_numbers(rng.random(2_000).astype(np.float32))
        lakes.put_record(lake, copy)
        lake.storage.write(store.key("profiles", copy), to_bytes(to_table(counting, record.run_id, now(), 0)))


def newest(workspace: Workspace) -> RunRecord:
    lake = workspace.context().lake
    found = lake.records.last_complete("toy", lake.records.days("toy")[-1])
    assert found is not None
    return found


def _of_rows(folder: Path, repeats: int) -> dict[str, float]:
    """Runs the large day with edges known, as every day but the first has them, in turn with runs without profiles."""
    job = folder / "dags" / "jobs" / "batch_inference" / "job.toml"
    plain = job.read_text("utf-8")
    _once(folder)
    runs, without = [], []
    for _ in range(repeats):
        runs.append(_once(folder))
        job.write_text(f"{plain}\n[drift]\nenabled = false\n", "utf-8")
        without.append(_once(folder))
        job.write_text(plain, "utf-8")
    found = {name: median([each[name] for each in runs]) for name in runs[0]}
    found["all"] = median([sum(each.values()) for each in runs])
    found["all without"] = median([sum(each.values()) for each in without])
    return {**found, "without": median([each["score"] for each in without])}


def _once(folder: Path) -> dict[str, float]:
    """Returns the CPU seconds of each stage of one run: wall seconds would be more about the machine."""
    for left in ("predictions", "runs", "quality", "drift", ".staging"):
        shutil.rmtree(folder / "lake" / left, ignore_errors=True)
    (done,) = json.loads(python("-m", "pipeline", "run", "--date", DAY, "--json", cwd=folder))
    return {stage["stage"]: stage["cpu_s"] for stage in done["stages"]}


def main() -> None:
    workspace = Workspace(Path(sys.argv[1]))
    ctx, record = workspace.context(), newest(workspace)
    found: list[int] = []
    measured = measure(lambda: found.append(len(stage.compare(ctx, record))))
    assert found == [COLUMNS], found
    report(measured)


if __name__ == "__main__":
    main()
