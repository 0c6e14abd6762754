"""Bytes and texts that nobody meant: a clear error or a right result, and nothing is written outside the lake."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline.care.verify import verify
from pipeline.errors import LakescoreError, QueryRefused
from pipeline.flow.status import status
from pipeline.query.running import run_query
from pipeline.records import State
from tests.workspace import DAY, Workspace

EXAMPLES = 1000 if os.environ.get("TORTURE") else 40
pytestmark = [pytest.mark.timeout(0)] if os.environ.get("TORTURE") else []
many = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
DAMAGE = st.lists(st.tuples(st.integers(0, 1 << 20), st.binary(min_size=1, max_size=4)), min_size=1, max_size=4)
WORDS = st.sampled_from(
    [
        *(
            "SELECT",
            "*",
            "FROM",
            "predictions",
            "runs",
            "WHERE",
            "id",
            "=",
            "'u1'",
            "count(*)",
            ",",
            "(",
            ")",
            ";",
            "JOIN",
        ),
        *(
            "ATTACH 'x.db'",
            "COPY runs TO 'x.csv'",
            "read_text('/etc/passwd')",
            "'/etc/passwd'",
            "glob('/*')",
            "INSTALL httpfs",
        ),
        *(
            "SET threads = 1",
            "PRAGMA version",
            "WITH x AS",
            "$ds",
            "--",
            "/*",
            "\x00",
            "é",
            '"',
            "EXPLAIN",
            "ORDER BY 1",
        ),
    ]
)


def damaged(content: bytes, damage: list[tuple[int, bytes]]) -> bytes:
    found = bytearray(content)
    for at, change in damage:
        start = at % len(found)
        found[start : start + len(change)] = change
    return bytes(found)


@pytest.fixture
def scored(workspace: Workspace) -> Workspace:
    workspace.day(20)
    workspace.run()
    return workspace


def outside(workspace: Workspace) -> set[Path]:
    inner = (workspace.lake, workspace.settings.jobs, Path(workspace.settings.models))
    return {path for path in workspace.root.rglob("*") if not any(path.is_relative_to(each) for each in inner)}


@pytest.mark.slow
@many
@given(damage=DAMAGE)
def test_damaged_run_record_is_a_clear_error_or_none(scored: Workspace, damage: list[tuple[int, bytes]]) -> None:
    ctx, before = scored.context(), outside(scored)
    (path,) = (scored.lake / "runs").rglob("*.json")
    whole = path.read_bytes()
    path.write_bytes(damaged(whole, damage))
    try:
        for call in (lambda: status(ctx.lake, ctx.job, None), lambda: list(verify(ctx.lake)), scored.run):
            with suppress(LakescoreError):
                call()
        assert outside(scored) == before
        assert len(scored.stored()) == 20
    finally:
        for each in (scored.lake / "runs").rglob("*.json"):
            each.unlink()
        path.write_bytes(whole)


@pytest.mark.slow
@many
@given(damage=DAMAGE)
def test_damaged_model_json_is_a_clear_error_or_the_same_model(
    scored: Workspace, damage: list[tuple[int, bytes]]
) -> None:
    registry = scored.context().registry
    (path,) = Path(scored.settings.models).rglob("model.json")
    whole = path.read_bytes()
    path.write_bytes(damaged(whole, damage))
    try:
        with suppress(LakescoreError):
            registry.content(registry.resolve("toy", "production"))
    finally:
        path.write_bytes(whole)


@pytest.mark.slow
@many
@example(damage=[(656, b"\x80")])  # a column's name that is not UTF-8: DuckDB's client raised RuntimeError
@example(damage=[(20, b"\x80")])  # the program that wrote the file has a name that is not UTF-8
@example(damage=[(127258, b"2"), (27948, b"\xeb"), (1650, b"\xb6\xb7\xce")])  # put an end to DuckDB's instance
@given(damage=DAMAGE)
def test_damaged_input_is_a_clear_error_or_adds_up(workspace: Workspace, damage: list[tuple[int, bytes]]) -> None:
    path = workspace.day(20)
    content = path.read_bytes()
    path.write_bytes(damaged(content, [(len(content) - 1 - at % 2000, change) for at, change in damage]))
    try:
        record = workspace.run().record
    except LakescoreError:
        return
    assert record is None or (record.state is State.complete and record.ledger is not None and record.ledger.balanced)


@pytest.mark.slow
@many
@given(words=st.lists(WORDS, max_size=10))
def test_query_of_any_words_is_refused_or_only_reads(scored: Workspace, words: list[str]) -> None:
    before, files = outside(scored), scored.files()
    try:
        with run_query(scored.context().lake, " ".join(words)) as result, result.stream() as (_, batches):
            text = "".join(str(batch.to_pylist()) for batch in batches)
            assert "root:" not in text
    except QueryRefused:
        pass
    assert outside(scored) == before
    assert scored.files() == files


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a b", "o'clock", 'say "x"', "ключ", "a=b", "a/b", "100%", "%2e%2e", "x;--", "$ds"])
def test_columns_and_keys_of_any_name_are_bound(workspace: Workspace, name: str) -> None:
    job = workspace.job() / "job.toml"
    quoted = name.replace('"', '\\"')
    job.write_text(job.read_text().replace('key = ["id"]', f'key = ["{quoted}"]'))
    workspace.day({name: ["u1", "../../x", "'; DROP TABLE x; --", "a,b"], "a": [1.0] * 4, "b": [2.0] * 4})
    record = workspace.complete()
    assert record.ledger is not None
    assert record.ledger.scored.rows == 4
    assert {row[name] for row in workspace.stored()} == {"u1", "../../x", "'; DROP TABLE x; --", "a,b"}
    assert outside(workspace) == {workspace.root / "toy-v1.pt", workspace.root / "dags"}


@pytest.mark.slow
@pytest.mark.parametrize("file", ["a b.parquet", "ключ.parquet", "100%.parquet", "a=b.parquet", "it's.parquet"])
def test_input_files_of_any_name_are_read(workspace: Workspace, file: str) -> None:
    workspace.day(3, file=file)
    workspace.complete()
    assert len(workspace.stored()) == 3


@pytest.mark.parametrize("day", ["2026-02-30", "../2026-01-01", "2026-01-01/..", "2026-1-1", "%2e", ""])
def test_day_that_is_none_is_refused(workspace: Workspace, day: str) -> None:
    with pytest.raises(LakescoreError, match="is not a day"):
        workspace.run(day)


@pytest.mark.slow
def test_good_query_still_answers(scored: Workspace) -> None:
    with run_query(scored.context().lake, f"SELECT count(*) FROM predictions WHERE ds = '{DAY}'") as result:
        assert result.count() == 1
