"""What a job's pattern matches is read or refused: no file is passed over in silence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import IncompleteFile, InputError, UnreadableFile
from pipeline.flow.status import status
from pipeline.query.running import run_query
from tests.calling import Cli
from tests.workspace import DAY, Workspace

OTHER = "2026-01-02"


def rows(*ids: str, **more: object) -> pa.Table:
    return pa.table({"id": list(ids), "a": [0.5] * len(ids), "b": [0.25] * len(ids)} | more)


def folder_as_spark_writes_it(day: Path) -> Path:
    (day / "extra.parquet").mkdir()
    pq.write_table(rows("x"), day / "extra.parquet" / "part-00000.snappy.parquet")
    (day / "extra.parquet" / "_SUCCESS").touch()
    return day / "extra.parquet"


def dangling_link(day: Path) -> Path:
    (day / "extra.parquet").symlink_to(day / "nowhere")
    return day / "extra.parquet"


@pytest.mark.parametrize("add", [folder_as_spark_writes_it, dangling_link])
def test_what_a_pattern_matches_and_is_no_file_stops_its_day_alone(
    workspace: Workspace, add: Callable[[Path], Path]
) -> None:
    first = workspace.day(rows("x"))
    workspace.day(rows("x"), OTHER)
    workspace.run()
    extra = add(first.parent)
    with pytest.raises(UnreadableFile) as caught:
        workspace.run()
    assert caught.value.where == str(extra)
    workspace.run(OTHER)
    ctx = workspace.context()
    assert ctx.lake.input_days(ctx.job.patterns.values()) == [DAY, OTHER]
    found, other = status(ctx.lake, ctx.job, ctx.manifest().ref)
    assert (found.state, other.state) == ("failed", "complete")
    assert str(extra) in str(found.note)
    with pytest.raises(UnreadableFile), run_query(ctx.lake, "FROM unscored", job=ctx.job):
        pass


def test_day_whose_only_input_is_a_folder_is_named_by_plan_and_not_left_out(workspace: Workspace, cli: Cli) -> None:
    folder = workspace.lake / "unscored" / f"ds={DAY}"
    folder.mkdir(parents=True)
    folder_as_spark_writes_it(folder)
    done = cli("plan", "--job", "toy", "--date", DAY, expect=1)
    assert str(folder / "extra.parquet") in done.stderr
    assert "**" in done.stderr


def test_folder_is_read_if_the_pattern_names_its_files(workspace: Workspace) -> None:
    first = workspace.day(rows("x"))
    folder_as_spark_writes_it(first.parent)
    pq.write_table(rows("y"), first.parent / "extra.parquet" / "part-00001.snappy.parquet")
    job = workspace.settings.jobs / "toy" / "job.toml"
    job.write_text(job.read_text().replace("/*.parquet", "/**/*.parquet"))
    workspace.run()
    assert sorted(row["id"] for row in workspace.stored()) == ["x", "y"]


@pytest.mark.parametrize(
    ("pattern", "mark"),
    [
        ("table/ds={ds}/*.parquet", "table/_delta_log/00000000000000000000.json"),
        ("table/region=EU/ds={ds}/*.parquet", "table/_delta_log/00000000000000000000.json"),
        ("table/data/ds={ds}/*.parquet", "table/metadata/v1.metadata.json"),
        ("ds={ds}/**/*.parquet", ".hoodie/hoodie.properties"),
        ("days/ds={ds}/*/*.parquet", f"days/ds={DAY}/table/_delta_log/00000000000000000000.json"),
    ],
)
def test_files_of_a_table_with_a_log_are_refused(workspace: Workspace, pattern: str, mark: str) -> None:
    """Some of them are of earlier versions of the table: a delete or an update leaves the old files where they are."""
    job = workspace.settings.jobs / "toy" / "job.toml"
    job.write_text(job.read_text().replace("unscored/ds={ds}/*.parquet", pattern))
    for key in (mark, pattern.replace("{ds}", DAY).replace("**", "table").replace("/*/", "/table/").replace("*", "a")):
        (workspace.lake / key).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows("x"), workspace.lake / key)
    with pytest.raises(InputError, match="only its own log says") as caught:
        workspace.run()
    assert caught.value.where == str((workspace.lake / mark).parent)
    (workspace.lake / mark).unlink()
    (workspace.lake / mark).parent.rmdir()
    workspace.run()


def test_names_that_are_no_data_by_convention_are_passed_over(workspace: Workspace) -> None:
    day = workspace.day(rows("x")).parent
    for name in ("_b.parquet", ".c.parquet"):
        pq.write_table(rows(name), day / name)
    (day / "_gone.parquet").symlink_to("nowhere")
    (day / ".work.parquet").mkdir()
    workspace.run()
    assert [row["id"] for row in workspace.stored()] == ["x"]


def test_half_written_file_is_an_error_that_a_retry_may_mend(workspace: Workspace, cli: Cli) -> None:
    whole = workspace.day(rows(*map(str, range(50)))).read_bytes()
    path = workspace.day(rows("y"), file="late.parquet")
    for length in (0, 3, 4, 9, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(IncompleteFile) as caught:
            workspace.run()
        assert caught.value.where == str(path)
    for command in (("run",), ("plan",), ("validate",)):
        assert str(path) in cli(*command, "--job", "toy", "--date", DAY, expect=75).stderr
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(UnreadableFile):
        workspace.run()
