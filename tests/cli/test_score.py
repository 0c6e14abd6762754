"""`lakescore score`: a file without a lake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from duckdb import DuckDBPyConnection as Connection

from pipeline.api import scorer
from pipeline.database import connection
from pipeline.database.resources import Resources
from tests.calling import Cli
from tests.conftest import ROOT, Lakescore
from tests.workspace import Workspace, table


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = Workspace(tmp_path_factory.mktemp("registered"))
    workspace.model()
    return Path(workspace.settings.models)


@pytest.fixture
def models(registered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry elsewhere, and a file of three rows."""
    monkeypatch.setenv("LAKESCORE_MODELS", str(registered))
    (tmp_path / "in.csv").write_text("id,a,b\nx,1,2\ny,,2\nz,3,2\n")


def test_score_command_scores_a_file_and_tells_how_many(models: None, cli: Cli, tmp_path: Path) -> None:
    found = json.loads(cli("score", "in.csv", "out.parquet", "--model", "toy", "--json").stdout)
    assert (found["rows"], found["without_prediction"], found["model"]["version"]) == (3, 1, "v1")
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 3
    done = cli("score", "in.csv", "out.csv", "--model", "toy")
    assert done.stdout == "3 rows scored by toy v1, written to out.csv\n"
    assert done.stderr == "no prediction for 1 row, because of a NULL or infinite feature\n"


def test_score_command_follows_the_limits_of_the_machine(
    models: None, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []
    fit, predict = connection.fit, scorer.Scorer.score_batch

    def fitted(con: Connection, resources: Resources) -> None:
        before = con.sql("SELECT current_setting('threads'), current_setting('memory_limit')").fetchall()
        fit(con, resources)
        seen.extend([*before, (resources.threads, resources.memory_limit)])

    def predicted(self: scorer.Scorer, batch: pa.RecordBatch) -> pa.RecordBatch:
        seen.append(torch.get_num_threads())
        return predict(self, batch)

    monkeypatch.setattr(scorer, "fit", fitted)
    monkeypatch.setattr(scorer.Scorer, "score_batch", predicted)
    monkeypatch.setenv("LAKESCORE_THREADS", "3")
    monkeypatch.setenv("LAKESCORE_MEMORY_LIMIT", "512MiB")
    before = torch.get_num_threads()
    cli("score", "in.csv", "out.csv", "--model", "toy")
    assert seen == [(3, "512.0 MiB"), (3, "512MiB"), 3]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("in.csv", "in.csv"), 2, "the output already exists"),
        (("absent.csv", "out.csv"), 1, "no such file"),
        (("in.csv", "out.xls"), 2, "unknown file extension"),
        (("in.csv", "out.csv", "--model-version", "v9"), 1, "no version or alias 'v9'"),
    ],
)
def test_score_command_refuses_before_torch_is_imported(
    lakescore: Lakescore,
    models: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")  # names each module that is imported, on stderr
    done = lakescore("score", *arguments, "--model", "toy", expect=code)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert "| pipeline.errors" in done.stderr.replace("  ", "")
    assert "| torch" not in done.stderr.replace("  ", "")
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


@pytest.mark.slow
def test_score_command_memory_does_not_grow_with_the_file(models: None, tmp_path: Path) -> None:
    """Ten times the rows (400 MB decoded) may need no more extra memory than the variation of buffers."""
    peaks = []
    rows = table(1_000_000)
    for millions in (1, 10):
        source = tmp_path / f"{millions}.parquet"
        with pq.ParquetWriter(source, rows.schema) as writer:
            for _ in range(millions):
                writer.write_table(rows)
        arguments = ["score", str(source), str(tmp_path / "out.parquet"), "--model", "toy", "--replace"]
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline", *arguments], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        peaks.append(usage.ru_maxrss * 1024)
    assert pq.read_metadata(tmp_path / "out.parquet").num_rows == 10_000_000
    assert peaks[1] - peaks[0] < 150e6, peaks
