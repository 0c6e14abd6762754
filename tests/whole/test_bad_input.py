"""What a person meets who gives something wrong on the command line: what is wrong and where, and nothing is written.

No traceback, the exit code of the command line's table, and no wait for torch where no model is needed to tell.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.records import State
from tests.conftest import Lakescore
from tests.workspace import DAY, Workspace, changed, table

RUN = ("run", "--job", "toy", "--date", DAY)
TOY = table(100)
IMPORT_TIMES = re.compile(r"^import time:.*\n", re.MULTILINE)


@pytest.fixture
def fails(lakescore: Lakescore, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs a command that must fail with a message and write nothing; returns what it says on stderr."""

    def call(*arguments: object, code: int, message: str, may_load_torch: bool = False) -> str:
        monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")  # names each module that is imported, on stderr
        before = workspace.files()
        done = lakescore(*arguments, expect=code)
        text = IMPORT_TIMES.sub("", done.stderr)
        assert re.search(message, text), text
        assert "Traceback" not in text
        assert done.stdout == ""
        assert workspace.files() == before
        assert re.search(r"\| +pipeline\.errors\n", done.stderr)
        assert may_load_torch or not re.search(r"\| +torch\b", done.stderr)
        return text

    return call


Fails = Callable[..., str]


# Words on the command line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("run", "--job", "tyo"), 2, r"error: no job is called 'tyo', did you mean 'toy'\?\n.*dags/jobs"),
        (("run", "--job", "../toy"), 2, r"error: the job's folder has no job\.toml\n.*\.\./toy/job\.toml"),
        (("run", "--job", "toy", "--date", "yesterday"), 2, r"error: 'yesterday' is not a day: not written as"),
        (("run", "--job", "toy", "--date", "../../etc"), 2, r"error: '\.\./\.\./etc' is not a day"),
        (("run", "--job", "toy", "--date", b"\xff"), 2, r"is not a day"),
        (("run", "--job", "toy", "--date", "2026-01-09"), 1, rf"no input for 2026-01-09\n.*\n.*{DAY}"),
        (("backfill", "--job", "toy", "--from", "2026-01-02", "--to", DAY), 2, r"the range ends before it begins"),
        ((*RUN, "--lake", "hdfs://bucket"), 2, r"error: hdfs:// is not supported"),
        ((*RUN, "--lake", "dags/jobs/toy/job.toml"), 1, r"error: the file system refused\n.*job\.toml"),
        ((*RUN, "--lake", "elsewhere"), 2, r"error: there is no lake here\n.*elsewhere\n.*--create"),
    ],
    ids=str,
)
def test_command_with_a_wrong_word_says_so(
    fails: Fails, workspace: Workspace, tmp_path: Path, arguments: tuple[object, ...], code: int, message: str
) -> None:
    workspace.day(TOY)
    fails(*arguments, code=code, message=message)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.slow
def test_command_with_a_misspelt_option_shows_the_usage(lakescore: Lakescore) -> None:
    done = lakescore("run", "--dat", DAY, expect=2)
    assert "No such option: --dat" in done.stderr
    assert "--date" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("LAKESCORE_THREADS", "many", r"LAKESCORE_THREADS is not a number of threads\n.*\n +got +'many'"),
        ("LAKESCORE_MEMORY_LIMIT", "lots", r"`memory_limit` is not valid\n.*LAKESCORE_MEMORY_LIMIT"),
    ],
)
def test_environment_that_is_wrong_names_the_variable(
    fails: Fails, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
) -> None:
    workspace.day(TOY)
    monkeypatch.setenv(variable, value)
    fails(*RUN, code=2, message=message)


@pytest.mark.slow
def test_environment_overrides_what_differs_between_machines(
    lakescore: Lakescore, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.day(TOY)
    for name in ("lake", "models", "dags/jobs"):
        (tmp_path / "machine").mkdir(exist_ok=True)
        (tmp_path / name).rename(tmp_path / "machine" / Path(name).name)
        monkeypatch.setenv(f"LAKESCORE_{Path(name).name.upper()}", f"machine/{Path(name).name}")
    for name, value in {"DEVICE": "cpu", "MEMORY_LIMIT": "150MB", "THREADS": "1"}.items():
        monkeypatch.setenv(f"LAKESCORE_{name}", value)
    (found,) = json.loads(lakescore(*RUN, "--json").stdout)
    assert found["ledger"]["scored"] == 100
    records = list((tmp_path / "machine" / "lake" / "runs").rglob("*.json"))
    engine = json.loads(records[0].read_text())["job_config"]["engine"]
    assert {name: engine[name] for name in ("device", "memory_limit", "threads")} == {
        "device": "cpu",
        "memory_limit": "150MB",
        "threads": 1,
    }
    assert not (tmp_path / "lake").exists()


@pytest.mark.slow
def test_job_with_a_misspelt_key_names_the_nearest(fails: Fails, workspace: Workspace) -> None:
    workspace.day(TOY)
    workspace.job(policy='nul_keys = "fail"')
    message = r"error: unknown key `policy\.nul_keys`, did you mean 'null_keys'\?\n +where +dags/jobs/toy/job\.toml"
    fails(*RUN, code=2, message=message)


@pytest.mark.slow
def test_error_as_json_has_its_fields(lakescore: Lakescore, workspace: Workspace) -> None:
    done = lakescore(*RUN, "--json", expect=1)
    found = json.loads(done.stdout)
    assert set(found) == {"error", "transient", "what", "where", "expected", "got", "next_step"}
    assert found["error"] == "InputMissing"
    assert found["transient"] is False
    assert found["what"] == f"there is no input for {DAY}"
    assert found["where"].endswith("*.parquet")
    assert found["next_step"]
    assert found["what"] in done.stderr


# The input


def capitals(workspace: Workspace) -> None:
    workspace.day(TOY.rename_columns(["id", "A", "b"]))


def text(workspace: Workspace) -> None:
    workspace.day(TOY.set_column(1, "a", TOY["a"].cast(pa.string())))


def extra(workspace: Workspace) -> None:
    workspace.job(policy='extra_columns = "fail"')
    workspace.day(TOY.append_column("surprise", TOY["a"]))


def no_rows(workspace: Workspace) -> None:
    workspace.day(TOY.slice(0, 0))


def no_file(workspace: Workspace) -> None:
    workspace.day(TOY, "2025-12-31")
    (workspace.lake / "unscored" / f"ds={DAY}").mkdir()


def truncated(workspace: Workspace) -> None:
    """Among good ones, as a copy that was cut off leaves it."""
    for file in ("1.parquet", "2.parquet", "3.parquet"):
        path = workspace.day(TOY, file=file)
        if file == "2.parquet":
            path.write_bytes(path.read_bytes()[:-100])


def empty_file(workspace: Workspace) -> None:
    workspace.day(TOY, file="1.parquet")
    workspace.day(TOY, file="2.parquet").write_bytes(b"")


def damage(path: Path, column: int) -> None:
    """Overwrites the first page header of a column; the footer, and so the schema and the counts, stay whole."""
    chunk = pq.read_metadata(path).row_group(0).column(column)
    content = bytearray(path.read_bytes())
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    content[start : start + 8] = b"\xff" * 8
    path.write_bytes(content)


INPUTS = {
    capitals: r"error: the input has no column a \(did you mean 'A'\?\)\n +where .*ds=2026-01-01/data\.parquet",
    text: r"error: a feature must be a number or a boolean\n +where .*data\.parquet\n.*\n +got +a VARCHAR",
    extra: r"error: the input has columns that the job does not know: surprise\n +where .*data\.parquet",
    no_rows: r"error: the input of 2026-01-01 has no rows",
    no_file: r"error: there is no input for 2026-01-01\n.*\n +got +2025-12-31",
    truncated: r"error \(a retry may help\): a file ends too early.*\n +where .*ds=2026-01-01/2\.parquet\n",
    empty_file: r"error \(a retry may help\): a file ends too early.*\n +where .*ds=2026-01-01/2\.parquet\n",
}


@pytest.mark.slow
@pytest.mark.parametrize(("make", "message"), INPUTS.items(), ids=[make.__name__ for make in INPUTS])
def test_input_that_cannot_be_scored_is_refused_unrecorded(
    fails: Fails, workspace: Workspace, make: Callable[[Workspace], None], message: str
) -> None:
    make(workspace)
    code = 75 if make in (truncated, empty_file) else 1  # such a file may still be being written
    fails(*RUN, code=code, message=message, may_load_torch=make is no_rows)  # which is found by reading


def failed(lakescore: Lakescore, workspace: Workspace, *, code: int, message: str, state: State) -> None:
    """Runs a day that fails after its plan: a record of it stays, and no prediction."""
    done = lakescore(*RUN, expect=code)
    assert re.search(message, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert not [name for name in workspace.files() if name.startswith("predictions/") or name.endswith(".tmp")]
    (record,) = workspace.context().lake.records.of_day("toy", DAY)
    assert record.state is state
    assert record.error is not None
    assert re.search(record.error.splitlines()[0], done.stderr)


@pytest.mark.slow
def test_input_with_a_damaged_page_of_a_feature_names_the_file(lakescore: Lakescore, workspace: Workspace) -> None:
    """The plan reads keys alone, so this shows when the rows are scored."""
    workspace.day(TOY, file="1.parquet")
    damage(workspace.day({"id": ["x"], "a": [1.0], "b": [1.0]}, file="2.parquet"), column=2)
    message = r"error: a file cannot be read\n +where .*ds=2026-01-01/2\.parquet\n"
    failed(lakescore, workspace, code=1, message=message, state=State.failed)


INFINITE = changed(TOY, "a", {0: float("inf"), 1: float("-inf"), 2: float("nan"), 3: None})


@pytest.mark.slow
def test_input_with_bad_rows_is_stopped_or_scored_without_them(lakescore: Lakescore, workspace: Workspace) -> None:
    workspace.day(INFINITE)
    job = workspace.job() / "job.toml"
    job.write_text(job.read_text().replace("max_quarantined = 1.0", "max_quarantined = 0.03"))
    message = r"error: 4 of 100 rows of 2026-01-01 would be quarantined\n(?s:.)*at most 3\.0%\n +got +4\.0%"
    failed(lakescore, workspace, code=3, message=message, state=State.stopped)
    job.write_text(job.read_text().replace("max_quarantined = 0.03", "max_quarantined = 0.04"))
    assert re.search(r"quarantined +4", lakescore(*RUN).stdout)
    assert {row["id"] for row in workspace.stored()} == {f"u{number}" for number in range(4, 100)}
    (path,) = (workspace.lake / "quarantine").rglob("*.parquet")
    reasons = {row["id"]: row["reasons"] for row in pq.read_table(path).to_pylist()}
    assert reasons == {"u0": ["infinite:a"], "u1": ["infinite:a"], "u2": ["null:a"], "u3": ["null:a"]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ('null_features = "fail"', r"error: features are NULL in at least 2 rows"),
        ('infinite_features = "fail"', r"error: features are infinite in at least 2 rows"),
    ],
)
def test_input_with_a_row_that_the_policy_forbids_is_stopped(
    lakescore: Lakescore, workspace: Workspace, policy: str, message: str
) -> None:
    workspace.job(policy=policy)
    workspace.day(INFINITE)
    failed(lakescore, workspace, code=3, message=message, state=State.stopped)


# The model


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "toy"', 'name = "tyo"', r"error: no model is called 'tyo', did you mean 'toy'\?"),
        (
            'name = "toy"',
            'name = "toy"\nversion = "staging"',
            r"no version or alias 'staging'(?s:.)*production \(alias",
        ),
        ('features = ["a", "b"]', 'features = ["a"]', r"error: model toy v1 needs b, which the job's features lack"),
    ],
    ids=["model", "alias", "features"],
)
def test_job_whose_model_is_not_there_or_does_not_fit_is_refused(
    fails: Fails, workspace: Workspace, old: str, new: str, message: str
) -> None:
    workspace.day(TOY)
    path = workspace.job() / "job.toml"
    path.write_text(path.read_text().replace(old, new))
    fails(*RUN, code=1, message=message)


@pytest.mark.slow
def test_model_file_that_is_not_the_one_registered_is_refused(lakescore: Lakescore, workspace: Workspace) -> None:
    workspace.day(TOY)
    other = workspace.model("v2", seed=9)
    registry = Path(workspace.settings.models) / "toy"
    (registry / "aliases.json").write_text('{"production": "v1"}')
    (registry / "v1" / "model.pt").write_bytes(other.read_bytes())
    message = r"error: model toy v1 is not what was registered: its digest differs"
    failed(lakescore, workspace, code=1, message=message, state=State.failed)


def saved(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


CHECKPOINTS = {
    "text": (b"this is no checkpoint", r"not a checkpoint that can be loaded without running code"),
    "code": (saved(torch.nn.Linear(2, 2)), r"contains pickled code; it was not run(?s:.)*torch\.nn"),
    "shapes": (saved({"fc.weight": torch.zeros(2, 3), "fc.bias": torch.zeros(2)}), r"has 3 features, but 2 are named"),
    "chain": (saved({"a.weight": torch.zeros(4, 2), "b.weight": torch.zeros(2, 5)}), r"layers do not chain"),
    "not finite": (saved({"a.weight": torch.full((2, 2), np.nan)}), r"weights that are not finite"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("content", "message"), CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_checkpoint_that_cannot_be_used_is_refused_and_not_registered(
    fails: Fails, workspace: Workspace, tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "bad.pt").write_bytes(content)
    models = Path(workspace.settings.models)
    before = sorted(models.rglob("*"))
    arguments = ("models", "register", "bad.pt", "--name", "toy", "--version", "v2", "--features", "a,b")
    fails(*arguments, code=1, message=message, may_load_torch=True)
    assert sorted(models.rglob("*")) == before


# The lake


def test_lake_of_another_format_is_refused(fails: Fails, workspace: Workspace) -> None:
    workspace.day(TOY)
    (workspace.lake / "lakescore.json").write_text('{"format": 7}')
    fails(*RUN, code=1, message=r"error: this lake has a different format\n.*lakescore\.json\n +expected +1\n +got +7")


@pytest.mark.slow
def test_lake_with_a_damaged_record_names_it(fails: Fails, workspace: Workspace) -> None:
    workspace.day(TOY)
    workspace.run()
    (record,) = (workspace.lake / "runs").rglob("*.json")
    record.write_text(record.read_text()[:-10])
    fails(*RUN, code=1, message=rf"error: a run record cannot be read(?s:.)*{record.name}")
