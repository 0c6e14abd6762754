"""Erasing a key also removes the examples of bad values that validations keep."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest

from pipeline.care.erase import erase
from pipeline.care.examples import remove_examples, with_examples
from pipeline.errors import LakeDamaged
from tests.quality.test_examine import BETWEEN, rule, suite
from tests.workspace import DAY, Workspace, changed, table

pytestmark = pytest.mark.slow


@pytest.fixture
def validated(workspace: Workspace) -> Workspace:
    """A day whose validation keeps two examples: a value of `a` of the row u0, and the key of u1."""
    with (workspace.job() / "job.toml").open("a") as file:
        file.write("[quality]\nsamples = true\n")
    suite(
        workspace,
        rule(BETWEEN, column="a", min_value=-50, max_value=50, meta={"name": "a_range"}),
        rule("expect_column_values_to_not_be_in_set", "warning", column="id", value_set=["u1"], meta={"name": "known"}),
    )
    workspace.day(changed(table(20), "a", {0: 98765.0}))
    workspace.run()
    return workspace


def examples(workspace: Workspace) -> list[str]:
    found = []
    for path in (workspace.lake / "quality").rglob("*.parquet"):
        found += [text for each in pq.ParquetFile(path).read()["examples"].to_pylist() for text in each or []]
    return sorted(found)


def test_erase_removes_the_examples_of_the_job_and_their_pages(validated: Workspace) -> None:
    assert examples(validated) == ["98765.0", "u1"]
    pages = [path for path in (validated.lake / "quality" / "docs").rglob("*.html") if "98765" in path.read_text()]
    assert pages
    ctx = validated.context()
    told = erase(ctx.lake, ctx.job, "u0", dry_run=True)
    assert examples(validated) == ["98765.0", "u1"]
    done = erase(ctx.lake, ctx.job, "u0")
    assert done.files == told.files
    (file,) = [file for file in done.files if file.folder == f"quality/job=toy/ds={DAY}"]
    assert (file.rows, file.run_id) == (2, ctx.lake.records.newest_id("toy", DAY))
    assert examples(validated) == []
    assert not any(page.exists() for page in pages)
    names = [row["name"] for path in (validated.lake / "quality").rglob("*.parquet") for row in rows(path)]
    assert {"a_range", "known"} <= set(names), "the results themselves stay"
    assert erase(ctx.lake, ctx.job, "u0").files == ()


def rows(path: object) -> list[dict[str, object]]:
    found: list[dict[str, object]] = pq.ParquetFile(path).read().to_pylist()
    return found


def test_erase_of_a_key_without_a_trace_leaves_the_examples(validated: Workspace) -> None:
    ctx, before = validated.context(), examples(validated)
    assert erase(ctx.lake, ctx.job, "u99").files == ()
    assert examples(validated) == before


def test_example_that_is_the_key_is_a_trace_of_its_own(validated: Workspace) -> None:
    lake = validated.context().lake
    assert with_examples(lake, "toy", {"u2"}, traced=False) == []
    (found,) = with_examples(lake, "toy", {"u1"}, traced=False)
    remove_examples(lake, found, validated.root)
    assert examples(validated) == []


def test_validation_that_cannot_be_read_stops_the_erasure(validated: Workspace) -> None:
    ctx = validated.context()
    (path,) = (validated.lake / "quality" / "job=toy").rglob("*-input.parquet")
    path.write_bytes(b"not Parquet")
    with pytest.raises(LakeDamaged, match="a validation cannot be read"):
        erase(ctx.lake, ctx.job, "u0")
