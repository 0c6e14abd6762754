"""Text as input: each run reads a copy that the first stage makes by the rules of `import`, and again if it changes."""

from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.care.erase import erase
from pipeline.care.expire import expire
from pipeline.care.verify import verify
from pipeline.errors import InputChanged, InputEmpty, InputError, InputMissing, JobError, LakescoreError, UsageError
from pipeline.explain.explaining import explain
from pipeline.flow import day as flow
from pipeline.flow.preview import preview
from pipeline.flow.single_stage import run_task
from pipeline.flow.status import status
from pipeline.lake.layout import Lake
from pipeline.query.catalog import write_catalog
from pipeline.query.running import run_query
from pipeline.selecting import imported
from pipeline.tabular import sources
from tests.calling import Cli
from tests.workspace import DAY, Workspace

NEXT = "2026-01-02"
COPY = f"imported/job=toy/ds={DAY}/unscored.parquet"


def job_of(
    workspace: Workspace,
    path: str = "unscored/{ds}/data.csv",
    reads: str = 'format = "csv"',
    policy: str = "",
    schedule: str = "",
) -> Path:
    folder = workspace.job(reads=reads, policy=policy, schedule=schedule)
    toml = folder / "job.toml"
    toml.write_text(toml.read_text().replace("unscored/ds={ds}/*.parquet", path))
    return folder


def csv(rows: int = 10, first: int = 0, shift: float = 0.0) -> str:
    lines = (f"u{number},{number / 10 + shift},{-number / 7:.3f}" for number in range(first, first + rows))
    return "\n".join(["id,a,b", *lines]) + "\n"


def write(workspace: Workspace, content: str | bytes, path: str = f"unscored/{DAY}/data.csv") -> Path:
    """Writes elsewhere and then renames, as whoever delivers files should."""
    file = workspace.lake / path
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.part")
    partial.write_bytes(content if isinstance(content, bytes) else content.encode())
    return partial.replace(file)


def scored(workspace: Workspace, ds: str = DAY) -> int:
    record = workspace.complete(ds)
    assert record.ledger is not None
    return record.ledger.scored.rows


def jsonl(text: str) -> str:
    names, *rows = (line.split(",") for line in text.splitlines())
    read = (dict(zip(names, (row[0], *map(float, row[1:])), strict=True)) for row in rows)
    return "".join(json.dumps(each) + "\n" for each in read)


GERMAN = 'format = "csv"\ndelimiter = ";"\ndecimal = ","'
TEXTS: dict[str, tuple[str, str, str | bytes]] = {
    "csv": ("data.csv", 'format = "csv"', csv()),
    "packed": ("data.csv.gz", 'format = "csv"', gzip.compress(csv().encode())),
    "json": ("data.jsonl", 'format = "jsonl"', jsonl(csv())),
    "german": ("data.txt", GERMAN, csv().replace(",", ";").replace(".", ",")),
    "excel": ("data.csv", 'format = "csv"', "sep=|\n" + csv().replace(",", "|")),
    "tabs": ("*.tsv", 'format = "csv"\ndelimiter = "tab"', csv().replace(",", "\t")),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_run_scores_text_as_it_scores_the_same_rows_in_parquet(workspace: Workspace, kind: str) -> None:
    name, reads, content = TEXTS[kind]
    job_of(workspace, f"unscored/{{ds}}/{name}", reads)
    write(workspace, content, f"unscored/{DAY}/{name.replace('*', 'a')}")
    assert scored(workspace) == 10
    workspace.job("other")
    rows = pq.read_table(workspace.lake / COPY)
    workspace.day(rows)
    workspace.complete(DAY, "other")
    columns = "SELECT id, prediction, prob_class_0, fingerprint FROM predictions ORDER BY id"
    assert workspace.stored(columns) == workspace.stored(columns, "other")
    assert rows.column("a").to_pylist() == [number / 10 for number in range(10)]


def test_copy_is_made_once_and_again_only_if_the_text_changes(workspace: Workspace) -> None:
    job_of(workspace)
    write(workspace, csv())
    first = workspace.complete()
    copy = (workspace.lake / COPY).stat()
    assert [file.path for file in first.plan.input["unscored"]] == [f"unscored/{DAY}/data.csv"]
    assert workspace.run().up_to_date
    ctx = workspace.context()
    assert [day.state for day in status(ctx.lake, ctx.job, ctx.manifest().ref)] == ["complete"]
    write(workspace, csv(12, shift=1.0))
    assert [day.note for day in status(ctx.lake, ctx.job, ctx.manifest().ref)] == ["the input changed since"]
    second = workspace.complete()
    assert second.ledger is not None
    assert second.statistics.reasons == {"new": 2, "changed": 10}
    assert (workspace.lake / COPY).stat().st_ino != copy.st_ino
    assert len(list((workspace.lake / "imported").rglob("*.parquet"))) == 1
    assert not list((workspace.lake / ".writing").iterdir())


def test_up_to_date_day_needs_no_copy_and_a_lost_one_is_made_again(workspace: Workspace) -> None:
    job_of(workspace)
    write(workspace, csv())
    before = workspace.complete()
    (workspace.lake / COPY).unlink()
    assert workspace.run().up_to_date
    workspace.model("v2", seed=1)
    after = workspace.complete()
    assert after.plan.imported == before.plan.imported


def test_job_that_reads_the_same_text_in_another_way_imports_it_again(workspace: Workspace) -> None:
    job_of(workspace)
    write(workspace, csv().replace("u", ""))
    workspace.complete()
    assert str(pq.read_schema(workspace.lake / COPY).field("id").type) == "int64"
    job_of(workspace, reads='format = "csv"\ntypes = { id = "VARCHAR" }')
    with pytest.raises(InputError, match="another key"):
        workspace.run()
    assert str(pq.read_schema(workspace.lake / COPY).field("id").type) == "string"


def test_stages_in_processes_of_their_own_read_the_copy_of_the_plan(workspace: Workspace) -> None:
    job_of(workspace)
    write(workspace, csv())
    found = run_task(workspace.context(), "check", DAY)
    for name in ("plan", "validate_input", "score", "validate_output", "profile"):
        found = run_task(workspace.context(), name, DAY, found["run_id"])
    run = found["run_id"]
    write(workspace, csv(3))
    assert workspace.complete().run_id != run  # another run imports the text as it is now
    after = run_task(workspace.context(), "commit", DAY, run)
    assert after["run_id"] != run
    assert len(workspace.stored("SELECT id FROM predictions")) == 10 - 7


def test_plan_that_was_made_before_the_copy_changed_does_not_read_it(workspace: Workspace) -> None:
    job_of(workspace)
    write(workspace, csv())
    ctx = workspace.context()
    record = workspace.complete()
    write(workspace, csv(3))
    with pytest.raises(InputChanged):
        imported.of_plan(ctx, record.plan.model_copy(update={"imported": {"unscored": "0" * 64}}), DAY)


def test_preview_and_queries_leave_the_lake_as_it_is(workspace: Workspace) -> None:
    job_of(workspace)
    write(workspace, csv())
    before = workspace.files()
    assert preview(workspace.context(), DAY).dispositions["scored"] == 10
    assert ask(workspace, "SELECT ds, count(*), max(a) FROM unscored GROUP BY ds") == [(DAY, 10, 0.9)]
    assert workspace.files() == before


def ask(workspace: Workspace, query: str) -> list[tuple[object, ...]]:
    ctx = workspace.context()
    with run_query(ctx.lake, query, job=ctx.job) as result, result.stream() as (_, batches):
        return [tuple(row.values()) for batch in batches for row in batch.to_pylist()]


@pytest.mark.slow
def test_view_shows_text_as_it_is_now_and_the_catalog_what_runs_have_imported(workspace: Workspace) -> None:
    import duckdb

    job_of(workspace)
    write(workspace, csv())
    write(workspace, csv(3), f"unscored/{NEXT}/data.csv")
    workspace.complete()
    counts = "SELECT ds, count(*) FROM unscored GROUP BY ds ORDER BY ds"
    ctx = workspace.context()
    path = write_catalog(ctx.lake, ctx.job)
    assert ask(workspace, counts) == [(DAY, 10), (NEXT, 3)]
    with duckdb.connect(path, read_only=True) as con:
        assert con.sql(counts).fetchall() == [(DAY, 10)]
        workspace.complete(NEXT)
        assert con.sql(counts).fetchall() == [(DAY, 10), (NEXT, 3)]
    write(workspace, csv(4), f"unscored/{NEXT}/data.csv")
    assert ask(workspace, counts) == [(DAY, 10), (NEXT, 4)]


def test_killed_import_leaves_nothing_that_a_run_reads(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    job_of(workspace)
    write(workspace, csv())

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(imported, "sync_file", killed)
        with pytest.raises(KeyboardInterrupt):
            workspace.run()
    assert not (workspace.lake / COPY).exists()
    assert scored(workspace) == 10


def test_text_that_changes_while_it_is_read_is_read_again(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_of(workspace)
    file = write(workspace, csv())
    read, changes = sources.read, iter([csv(20), csv(30)])

    def slowly(*arguments: object, **options: object) -> object:
        found = read(*arguments, **options)  # type: ignore[arg-type]
        if (content := next(changes, None)) is not None:
            file.write_text(content)
        return found

    monkeypatch.setattr(sources, "read", slowly)
    assert scored(workspace) == 30


def test_file_that_arrives_while_the_text_is_imported_is_not_left_out(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_of(workspace, "unscored/{ds}/*.csv")
    write(workspace, csv())
    read, more = sources.read, iter([csv(5, first=100)])

    def slowly(*arguments: object, **options: object) -> object:
        if (content := next(more, None)) is not None:
            write(workspace, content, f"unscored/{DAY}/more.csv")
        return read(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(sources, "read", slowly)
    assert scored(workspace) == 15


BAD = {
    "text in a feature": ('format = "csv"', "id,a,b\nu0,1.5,x\n", "line 2", 'types = { b = "DOUBLE" } in [input]'),
    "a decimal comma": ('format = "csv"', "id;a;b\nu0;1,5;2,5\n", "line 2", 'decimal = "," in [input]'),
    "a missing value": ('format = "csv"', "id,a,b\nu0,1.5,NA\n", "line 2", "leave a missing value empty"),
    "a short line": ('format = "csv"', "id,a,b\nu0,1.5\n", "line 2", "expected  3"),
    "another delimiter": ('format = "csv"\ndelimiter = ";"', csv(), "data.csv", "the features of model toy v1"),
    "an unknown column": ('format = "csv"\ntypes = { c = "DOUBLE" }', csv(), "types in [input]", "id, a, b"),
    "a wrong type": ('format = "csv"\ntypes = { a = "INTEGER" }', csv(), "line 3", "types in [input]"),
    "no type": ('format = "csv"\ntypes = { a = "NUMBER" }', csv(), "job.toml", "a = 'NUMBER'"),
    "two characters": ('format = "csv"\ndelimiter = "::"', csv(), "job.toml", "unknown delimiter"),
    "other text": ('format = "jsonl"', csv(), "suffix", "JSON lines"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_text_is_refused_with_place_and_the_key_that_mends_it(workspace: Workspace, case: str) -> None:
    reads, content, *texts = BAD[case]
    job_of(workspace, reads=reads)
    write(workspace, content)
    with pytest.raises(LakescoreError) as error:
        workspace.run()
    assert not [text for text in texts if text not in str(error.value)], str(error.value)
    assert "--" not in str(error.value)
    assert not error.value.transient
    assert not (workspace.lake / "imported").exists() or case == "another delimiter"


@pytest.mark.parametrize(
    ("path", "reads", "text"),
    [
        ("unscored/{ds}/data.csv", 'decimal = ","', "`decimal` is for text"),
        ("unscored/{ds}/data.csv", 'types = { a = "DOUBLE" }', "`types` is for text"),
        ("unscored/{ds}/*.parquet", 'format = "csv"', "the path ends in .parquet"),
        ("unscored/{ds}/*.jsonl", 'format = "jsonl"\ndelimiter = ";"', "`delimiter` is for CSV"),
        ("all.csv", 'format = "csv"\npartition_by = "seen"', "`partition_by` is for Parquet"),
        ("unscored/{ds}/*", 'format = "excel"', "parquet"),
    ],
)
def test_contradiction_in_the_job_is_refused(workspace: Workspace, path: str, reads: str, text: str) -> None:
    job_of(workspace, path, reads)
    with pytest.raises(JobError, match=re.escape(text)):
        workspace.context()


def test_missing_and_empty_text_follow_their_policies(workspace: Workspace) -> None:
    job_of(workspace)
    with pytest.raises(InputMissing, match="a run imports them"):
        workspace.run()
    for content in ("", "\n", "id,a,b\n"):
        write(workspace, content)
        with pytest.raises(InputEmpty):
            workspace.run()
    job_of(workspace, policy='empty_input = "skip"')
    skipped = workspace.run()
    assert (skipped.skipped, skipped.first_skip) == (f"the input of {DAY} has no rows", True)
    ctx = workspace.context()
    assert [day.state for day in status(ctx.lake, ctx.job, ctx.manifest().ref)] == ["skipped"]
    write(workspace, csv())
    assert scored(workspace) == 10


def test_json_without_lines_is_empty_and_one_of_several_is_left_out(workspace: Workspace) -> None:
    job_of(workspace, "unscored/{ds}/*", 'format = "jsonl"')
    for name, content in (("a.jsonl", ""), ("b.jsonl", "\n\n"), ("c.jsonl.gz", gzip.compress(b""))):
        write(workspace, content, f"unscored/{DAY}/{name}")
        with pytest.raises(InputEmpty):
            workspace.run()
    write(workspace, jsonl(csv()), f"unscored/{DAY}/d.jsonl")
    assert scored(workspace) == 10


def test_feature_without_a_value_on_a_day_is_a_number_all_the_same(workspace: Workspace) -> None:
    job_of(workspace)
    write(workspace, "id,a,b\nu0,1.5,\nu1,2.5,\n")
    record = workspace.complete()
    assert record.ledger is not None
    assert record.ledger.quarantined.rows == 2


ISO = {"2025-12-29": "2026-01", "2026-01-05": "2026-02"}
PATTERNS: dict[str, tuple[str, str, Callable[[str], str]]] = {
    "days": ("", "text/{year}/{month}/{day}.csv", lambda ds: f"text/{ds.replace('-', '/')}.csv"),
    "weeks": ('every = "week"', "text/week {ds:%G-%V}.csv", lambda ds: f"text/week {ISO[ds]}.csv"),
    "hours": (
        'every = "hour"',
        "text/{ds:%Y%m%d}/{hour}.csv",
        lambda ds: f"text/{ds[:10].replace('-', '')}/{ds[11:13]}.csv",
    ),
}
PERIODS = {
    "days": ["2026-01-01", "2026-01-02"],
    "weeks": ["2025-12-29", "2026-01-05"],
    "hours": ["2026-01-01T04Z", "2026-01-01T05Z"],
}


@pytest.mark.slow
@pytest.mark.parametrize("grain", PATTERNS)
def test_late_text_of_each_grain_is_found_by_its_path(workspace: Workspace, grain: str) -> None:
    schedule, pattern, path = PATTERNS[grain]
    job_of(workspace, pattern, schedule=f"{schedule}\nlookback = 1")
    first, second = PERIODS[grain]
    write(workspace, csv(4), path(first))
    write(workspace, csv(6), path(second))
    workspace.complete(first)
    write(workspace, csv(5), path(first))
    done = flow.run(workspace.context(), second)
    assert [(each.ds, each.up_to_date) for each in done] == [(second, False), (first, False)]
    rows = workspace.stored("SELECT ds, count(*) AS n FROM predictions GROUP BY ds ORDER BY ds")
    assert [(str(row["ds"]), row["n"]) for row in rows] == [(first, 5), (second, 6)]
    assert all(each.up_to_date for each in flow.run(workspace.context(), second))


def test_select_reads_text_and_parquet(workspace: Workspace) -> None:
    folder = job_of(workspace)
    toml = folder / "job.toml"
    text = toml.read_text().replace('path = "unscored/{ds}/data.csv"', 'select = "rows.sql"')
    toml.write_text(text + '[input.sources]\nnumbers = "unscored/{ds}/data.csv"\nothers = "others.parquet"\n')
    (folder / "rows.sql").write_text("SELECT id, numbers.a, others.b FROM numbers JOIN others USING (id)")
    write(workspace, csv())
    pq.write_table(pq.read_table(workspace.day(8)), workspace.lake / "others.parquet")
    assert scored(workspace) == 8
    assert (workspace.lake / f"imported/job=toy/ds={DAY}/numbers.parquet").exists()
    assert ask(workspace, "SELECT ds, count(*) FROM numbers GROUP BY ds") == [(DAY, 10)]


def test_folder_of_text_gives_a_column_if_it_has_one_value(workspace: Workspace) -> None:
    job_of(workspace, "text/region=*/ds={ds}/*.csv", 'format = "csv"\ncarry = ["region"]')
    write(workspace, csv(), f"text/region=EU/ds={DAY}/a.csv")
    workspace.complete()
    assert {row["region"] for row in workspace.stored()} == {"EU"}
    write(workspace, csv(5, first=50), f"text/region=US/ds={DAY}/a.csv")
    with pytest.raises(InputError, match="different folders region="):
        workspace.run()


def test_explain_shows_the_row_that_was_scored_even_after_the_text_has_changed(workspace: Workspace) -> None:
    job_of(workspace)
    write(workspace, csv())
    workspace.complete()
    ctx = workspace.context()
    (found,) = explain(ctx, "u3", replay=True).predictions
    assert found.input is not None
    assert (found.input.same, found.input.changed, found.input.note) == (True, (), f"a row of unscored/{DAY}/data.csv")
    assert found.replay is not None
    assert found.replay.reproduced
    write(workspace, csv(shift=2.0))
    (found,) = explain(ctx, "u3").predictions
    assert found.input is not None
    assert (found.input.same, found.input.changed) == (True, (f"unscored/{DAY}/data.csv",))
    (workspace.lake / COPY).unlink()
    (found,) = explain(ctx, "u3").predictions
    assert found.input is not None
    assert found.input.same is False
    assert not (workspace.lake / COPY).exists()


@pytest.mark.slow
def test_copies_expire_with_their_period_and_go_with_an_erased_key(workspace: Workspace) -> None:
    job_of(workspace)
    write(workspace, csv())
    workspace.complete()
    ctx = workspace.context()
    assert erase(ctx.lake, ctx.job, "u77").rows == 0
    assert (workspace.lake / COPY).exists()
    assert {file.folder for file in erase(ctx.lake, ctx.job, "u3").files} >= {f"imported/job=toy/ds={DAY}"}
    assert not (workspace.lake / COPY).exists()
    workspace.model("v2", seed=1)
    workspace.complete()
    assert (workspace.lake / COPY).exists()
    assert expire(ctx.lake, ctx.job, keep_days=1) == [DAY]
    assert not (workspace.lake / COPY).parent.exists()


def test_damaged_copy_is_found_and_mended(workspace: Workspace) -> None:
    job_of(workspace)
    write(workspace, csv())
    workspace.complete()
    copy, lake = workspace.lake / COPY, Lake.open(str(workspace.lake))
    os.truncate(copy, copy.stat().st_size // 2)
    (finding,) = verify(lake)
    assert finding.where == str(copy)
    assert finding.repair is not None
    finding.repair()
    assert not list(verify(lake))
    workspace.model("v2", seed=1)
    workspace.complete()


def test_import_into_a_job_that_reads_text_is_refused(workspace: Workspace, cli: Cli) -> None:
    job_of(workspace, "unscored/ds={ds}/*.csv")
    (workspace.root / "a.csv").write_text(csv())
    said = cli("import", "a.csv", "--date", DAY, "--job", "toy", expect=UsageError).stderr
    assert "reads text itself" in said
    assert not (workspace.lake / "unscored").exists()


def test_delimiter_of_a_command_is_that_of_the_job(workspace: Workspace, cli: Cli) -> None:
    (workspace.root / "a.csv").write_text(csv().replace(",", "\t").replace("id\t", "id,x\t"))
    cli("import", "a.csv", "--date", DAY, "--job", "toy", "--delimiter", "tab", "--unchecked")
    (file,) = (workspace.lake / "unscored" / f"ds={DAY}").iterdir()
    assert pq.read_schema(file).names == ["id,x", "a", "b"]
    said = cli("import", str(file), "--date", NEXT, "--job", "toy", "--delimiter", ";", expect=UsageError).stderr
    assert "Parquet has no delimiter" in said
