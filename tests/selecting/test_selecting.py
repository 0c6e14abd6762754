"""The plan: which rows a run covers, for any keys, types and names; and what is refused before a record exists."""

from __future__ import annotations

import json
import math
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import startup
from pipeline.context import Context
from pipeline.database import sql_files
from pipeline.errors import (
    IncompleteFile,
    InputChanged,
    InputMissing,
    JobError,
    LakescoreError,
    ModelMismatch,
    SchemaMismatch,
    UnreadableFile,
)
from pipeline.flow.preview import Preview, preview
from pipeline.lake.layout import Partition
from pipeline.model.matrix import fingerprints
from pipeline.records import FileInfo
from pipeline.selecting.input import check_input_unchanged, connect_for_job
from pipeline.selecting.plan import plan, rows_by_footers
from pipeline.selecting.views import select
from tests.stages import stage
from tests.workspace import DAY, Workspace, changed, table

TWO = {"id": ["x", "y"], "a": [1.0, 2.0], "b": [1.0, 2.0]}
AGAIN = "2026-01-02"


def job_with(workspace: Workspace, **settings: list[str]) -> None:
    """Sets lists in the job's [input]: `key=["x"]` writes `key = ["x"]`."""
    path = workspace.settings.jobs / "toy" / "job.toml"
    lines = [line for line in path.read_text().splitlines() if line.partition(" = ")[0] not in settings]
    start = lines.index("[input]") + 1
    lines[start:start] = [f"{name} = {json.dumps(columns)}" for name, columns in settings.items()]
    path.write_text("\n".join(lines))


def job_selecting(workspace: Workspace, text: str) -> None:
    """Makes the job read its input with a SELECT over `orders`, the files of a day."""
    folder = workspace.job()
    job = (folder / "job.toml").read_text().replace('path = "unscored/ds={ds}/*.parquet"', 'select = "rows.sql"')
    (folder / "job.toml").write_text(job + '\n[input.sources]\norders = "unscored/ds={ds}/*.parquet"\n')
    (folder / "rows.sql").write_text(text)


def planned(workspace: Workspace, ds: str = DAY) -> Preview:
    """Returns what a run would do; fails if that wrote anything."""
    before = workspace.files()
    try:
        return preview(workspace.context(), ds)
    finally:
        assert workspace.files() == before


def refused(workspace: Workspace, kind: type[LakescoreError], message: str) -> LakescoreError:
    """Previews and runs a day; both must raise this error before anything is written. Returns the error of the run."""
    before = workspace.files()
    with pytest.raises(kind, match=message):
        planned(workspace)
    with pytest.raises(kind, match=message) as caught:
        workspace.run()
    assert workspace.files() == before
    return caught.value


# Keys

UTC_US = pa.timestamp("us", "UTC")
KEYS = {
    "int8": pa.array([-1, 2], pa.int8()),
    "int32": pa.array([-1, 2], pa.int32()),
    "bigint": pa.array([-(2**63), 2**63 - 1]),
    "uint64": pa.array([0, 2**64 - 1], pa.uint64()),
    "text": pa.array(["", "ключ'\"\\"]),
    "large text": pa.array(["x", "y"], pa.large_string()),
    "categories": pa.array(["x", "y"]).dictionary_encode(),
    "date": pa.array([date(1969, 12, 31), date(2026, 1, 1)]),
    "time in seconds": pa.array([1, 2], pa.timestamp("ms")),
    "time with zone": pa.array([datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)], UTC_US),
    "boolean": pa.array([True, False]),
    "uuid": pa.array([uuid.UUID(int=1).bytes, uuid.UUID(int=2).bytes], pa.uuid()),
}


@pytest.mark.parametrize("keys", KEYS.values(), ids=KEYS)
def test_key_of_any_supported_type_is_scored_once(workspace: Workspace, keys: pa.Array) -> None:
    path = workspace.day(TWO | {"id": keys})
    workspace.run()
    path.touch()
    assert planned(workspace).dispositions == {"scored": 0, "unchanged": 2, "quarantined": 0, "duplicates": 0}
    expected = [str(value) if isinstance(value, uuid.UUID) else value for value in keys.to_pylist()]
    assert Counter(row["id"] for row in workspace.stored()) == Counter(expected)


@pytest.mark.parametrize(
    "keys",
    [
        pa.array([1.0, 2.0]),
        pa.array([Decimal(1), Decimal(2)], pa.decimal128(10, 0)),
        pa.array([b"x", b"y"]),
        pa.array([[1], [2]]),
        pa.array([1, 2], pa.timestamp("ns")),
        pa.nulls(2),
    ],
    ids=["double", "decimal", "binary", "list", "nanoseconds", "NULL alone"],
)
def test_key_of_a_type_without_safe_equality_is_refused(workspace: Workspace, keys: pa.Array) -> None:
    workspace.day(TWO | {"id": keys})
    refused(workspace, SchemaMismatch, "column id cannot be a key(?s:.)*an integer of up to 64 bits, text")


def test_key_wider_than_64_bits_from_a_select_is_refused(workspace: Workspace) -> None:
    """Parquet has no such integer: it would be stored as another type."""
    job_selecting(workspace, "SELECT sum(hash(id)) AS id, 1 AS a, 2 AS b FROM orders")
    workspace.day(TWO)
    refused(workspace, SchemaMismatch, "column id cannot be a key(?s:.)*HUGEINT(?s:.)*cast it")


def test_key_of_two_columns_is_told_apart_as_a_pair(workspace: Workspace) -> None:
    job_with(workspace, key=["shop", "id"])
    pairs = [("a", "bc"), ("ab", "c"), ("", "abc"), (None, "abc"), ("a", None)]
    workspace.day({"shop": [p[0] for p in pairs], "id": [p[1] for p in pairs], "a": [1.0] * 5, "b": [1.0] * 5})
    found = planned(workspace)
    assert found.dispositions == {"scored": 3, "unchanged": 0, "quarantined": 2, "duplicates": 0}


@pytest.mark.parametrize(
    ("before", "after"),
    [(pa.int32(), pa.int64()), (pa.int64(), pa.int8()), (pa.string(), pa.large_string())],
    ids=["wider", "narrower", "text"],
)
def test_key_of_the_same_kind_in_another_width_is_the_same_key(
    workspace: Workspace, before: pa.DataType, after: pa.DataType
) -> None:
    ids = pa.array(["1", "2"])
    workspace.day(TWO | {"id": ids.cast(before)})
    workspace.run()
    workspace.day(TWO | {"id": ids.cast(after)})
    assert planned(workspace).dispositions["unchanged"] == 2


NUMBERED = TWO | {"id": [1, 2]}


def test_key_that_changed_its_type_on_the_same_day_is_refused(workspace: Workspace) -> None:
    workspace.day(TWO)
    workspace.run()
    workspace.day(NUMBERED)
    error = refused(workspace, SchemaMismatch, "stored predictions have another key")
    assert (error.expected, error.got) == ("id VARCHAR", "id BIGINT")
    assert error.where is not None
    assert error.where.endswith("model_version=v1/part-00000000.parquet")


def test_key_that_changed_its_type_with_a_new_version_is_refused(workspace: Workspace) -> None:
    workspace.day(TWO)
    workspace.run()
    workspace.model("v2", seed=2)
    workspace.day(NUMBERED)
    refused(workspace, SchemaMismatch, r"stored predictions have another key(?s:.)*model_version=v1")


def test_key_that_changed_its_type_between_days_is_refused(workspace: Workspace) -> None:
    """Otherwise the history of a job would mix text and numbers in one column, which few engines can read."""
    workspace.day(TWO, "2025-12-01")
    workspace.run("2025-12-01")
    workspace.day(NUMBERED)
    refused(workspace, SchemaMismatch, r"stored predictions have another key(?s:.)*ds=2025-12-01")


def test_key_by_another_name_is_refused(workspace: Workspace) -> None:
    workspace.day(TWO)
    workspace.run()
    job_with(workspace, key=["uid"])
    workspace.day({"uid": TWO["id"], "a": TWO["a"], "b": TWO["b"]})
    error = refused(workspace, SchemaMismatch, "stored predictions have another key")
    assert (error.expected, error.got) == ("the columns uid", "uid VARCHAR")


def test_key_of_different_types_in_the_files_of_a_day_is_refused(workspace: Workspace) -> None:
    workspace.day(TWO, file="1.parquet")
    workspace.day(NUMBERED, file="2.parquet")
    error = refused(workspace, SchemaMismatch, "files of a day have keys of different types")
    assert error.where is not None
    assert error.where.endswith("2.parquet")


# Names

ODD = ['cust"id', "customer id", "ключ", "a;--", "x.y", "it's", "select", "c", "candidates", "$ds", "{ds}", "%s", "\\"]


@pytest.mark.parametrize("number", range(len(ODD)))
def test_columns_with_odd_names_work_in_each_role(workspace: Workspace, number: int) -> None:
    key, carried, feature = (ODD[(number + offset) % len(ODD)] for offset in range(3))
    workspace.model("v2", features=(feature, "b"))
    job_with(workspace, key=[key], carry=[carried], features=[feature, "b"])
    workspace.day({key: ["x", "y"], carried: [7, 8], feature: [1.0, 2.0], "b": [1.0, 2.0]})
    assert planned(workspace).dispositions["scored"] == 2


def test_columns_with_odd_names_throughout_are_stored_under_them(workspace: Workspace) -> None:
    workspace.model("v2", features=('f"1', "f;--"))
    job_with(workspace, key=["k'", "k 2"], carry=["ä"], features=['f"1', "f;--"])
    rows: dict[str, list[Any]] = {
        "k'": ["x", "x", None],
        "k 2": [1, 1, 1],
        "ä": ["p", "q", "r"],
        'f"1': [1.0, 2.0, 3.0],
        "f;--": [1, 1, 1],
    }
    workspace.day(rows)
    ledger = workspace.complete().ledger
    assert ledger is not None
    assert ledger.quarantined.rows == 3
    (quarantine,) = (workspace.lake / "quarantine").rglob("*.parquet")
    assert pq.read_table(quarantine, columns=list(rows)).num_rows == 3
    workspace.day({column: values[:1] for column, values in rows.items()})
    workspace.run()
    (stored,) = workspace.stored()
    assert (stored["k'"], stored["k 2"], stored["ä"]) == ("x", 1, "p")


@pytest.mark.parametrize("name", ["reasons", "RUN_ID", "quarantined_at", "__key", "__row"])
def test_feature_with_a_reserved_column_name_is_refused(workspace: Workspace, name: str) -> None:
    workspace.model("v2", features=(name, "b"))
    job_with(workspace, features=[name, "b"])
    workspace.day({"id": ["x"], name: [1.0], "b": [1.0]})
    refused(workspace, ModelMismatch, rf"has a reserved column name(?s:.)*got +{name}")


@pytest.mark.parametrize("name", ["prediction", "fingerprint", "score", "reason", "rows"])
def test_feature_with_the_name_of_an_output_works(workspace: Workspace, name: str) -> None:
    """Features are not stored with the predictions, so they may have the names of outputs."""
    workspace.model("v2", features=(name, "b"))
    job_with(workspace, features=[name, "b"])
    workspace.day({"id": ["x", "y", "z", "z"], name: [1.0, None, 1.0, 2.0], "b": [1.0, 1.0, 1.0, 1.0]})
    ledger = workspace.complete().ledger
    assert ledger is not None
    assert (ledger.scored.rows, ledger.quarantined.rows) == (1, 3)


# Columns


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"ID": ["x"], "a": [1.0], "b": [1.0]}, r"lacks id, did you mean 'ID'\?"),
        ({"idd": ["x"], "a": [1.0], "b": [1.0]}, r"lacks id, did you mean 'idd'\?"),
        ({"id": ["x"], "A": [1.0], "b": [1.0]}, r"no column a \(did you mean 'A'\?\)"),
        ({"id": ["x"], "a": ["1"], "b": [1.0]}, r"a feature must be a number(?s:.)*got +a VARCHAR"),
        ({"id": ["x"], "a": [[1.0]], "b": [1.0]}, r"a feature must be a number(?s:.)*got +a DOUBLE\[\]"),
        ({"id": ["x"], "a": [date(2026, 1, 1)], "b": [1.0]}, r"a feature must be a number(?s:.)*got +a DATE"),
        ({"id": ["x"], "a": pa.nulls(1), "b": [1.0]}, r"a feature must be a number(?s:.)*got +a .*NULL"),
    ],
    ids=["key in capitals", "key misspelt", "feature in capitals", "text", "list", "date", "NULL alone"],
)
def test_columns_that_do_not_fit_are_refused(workspace: Workspace, rows: dict[str, Any], message: str) -> None:
    path = workspace.day(rows)
    assert refused(workspace, SchemaMismatch, message).where == str(path)


def test_columns_missing_from_one_of_several_files_name_that_file(workspace: Workspace) -> None:
    workspace.day(TWO, file="1.parquet")
    path = workspace.day({"id": ["z"], "a": [1.0]}, file="2.parquet")
    assert refused(workspace, SchemaMismatch, "no column b").where == str(path)


def test_columns_of_other_number_types_in_one_of_several_files_are_scored(workspace: Workspace) -> None:
    workspace.day(TWO, file="1.parquet")
    workspace.day({"b": [True], "extra": ["?"], "a": pa.array([1], pa.int8()), "id": ["z"]}, file="2.parquet")
    assert planned(workspace).dispositions["scored"] == 3


def test_columns_beyond_those_needed_are_ignored_or_refused_as_the_job_says(workspace: Workspace) -> None:
    path = workspace.day(TWO | {"extra": [1, 2], "more": [1, 2]})
    assert planned(workspace).dispositions["scored"] == 2
    workspace.job(policy='extra_columns = "fail"')
    error = refused(workspace, SchemaMismatch, "columns that the job does not know: extra, more")
    assert error.where == str(path)
    workspace.job(policy='extra_columns = "fail"', reads='carry = ["extra", "more"]')
    assert planned(workspace).dispositions["scored"] == 2


def test_features_that_the_model_does_not_take_are_refused(workspace: Workspace) -> None:
    job_with(workspace, features=["a", "c"])
    workspace.day(TWO)
    refused(workspace, ModelMismatch, "needs b(?s:.)*expected +a, b")


# Rows


def test_day_without_rows_is_missing_input(workspace: Workspace) -> None:
    workspace.day(table(TWO).slice(0, 0))
    refused(workspace, InputMissing, f"the input of {DAY} has no rows")


def test_day_with_an_empty_file_beside_others_is_scored(workspace: Workspace) -> None:
    workspace.day(TWO, file="1.parquet")
    workspace.day(table(TWO).slice(0, 0), file="2.parquet")
    assert planned(workspace).dispositions["scored"] == 2


def test_day_with_a_folder_alone_is_missing_input(workspace: Workspace) -> None:
    workspace.day(TWO, AGAIN)
    (workspace.lake / "unscored" / f"ds={DAY}").mkdir()
    refused(workspace, InputMissing, f"there is no input for {DAY}(?s:.)*got +{AGAIN}")


CELLS = st.sampled_from([None, 0.0, -0.0, 1.0, math.nan, math.inf])
ROWS = st.lists(st.tuples(st.none() | st.integers(0, 3), CELLS, st.sampled_from([1.0, 2.0])), min_size=1, max_size=8)
Row = tuple[int | None, float | None, float]


def by_hand(rows: list[Row], stored: dict[int, tuple[float, float]]) -> Counter[str]:
    """Returns the expected counts, computed without the package. `stored`: features scored before, by key; updated."""
    counts: Counter[str] = Counter(candidates=len(rows))
    of_key: dict[int, list[Row]] = {}
    for row in rows:
        if row[0] is None:
            counts["quarantined"] += 1
        else:
            of_key.setdefault(row[0], []).append(row)
    for key, (first, *others) in of_key.items():
        a, b = first[1:]
        if len({str(abs(each[1]) if each[1] is not None else None) + str(each[2]) for each in (first, *others)}) > 1:
            counts["quarantined"] += 1 + len(others)
            continue
        counts["duplicates"] += len(others)
        if a is None or not math.isfinite(a):
            counts["quarantined"] += 1
        elif stored.get(key) == (a, b):
            counts["unchanged"] += 1
        else:
            counts["scored"] += 1
            counts["changed" if key in stored else "new"] += 1
            stored[key] = (a, b)
    return counts


def as_table(rows: list[Row]) -> pa.Table:
    kinds = (pa.int64(), pa.float64(), pa.float64())
    columns = zip(*rows, strict=True)
    return pa.table({name: pa.array(c, k) for name, c, k in zip(["i", "a", "b"], columns, kinds, strict=True)})


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with one model, shared by the workspaces of this module."""
    shared = Workspace(tmp_path_factory.mktemp("models"))
    shared.model()
    return Path(shared.settings.models)


@pytest.fixture(scope="module")
def make(registered: Path) -> Iterator[Callable[[], Workspace]]:
    """Returns a function that creates a workspace with the shared model, any number of times."""
    folders = []

    def new() -> Workspace:
        folders.append(tempfile.TemporaryDirectory())
        root = Path(folders[-1].name)
        (root / "models").symlink_to(registered)
        made = Workspace(root)
        made.job()
        job_with(made, key=["i"])
        return made

    yield new
    for folder in folders:
        folder.cleanup()


def check_plan(found: Preview, expected: Counter[str]) -> None:
    assert found.candidates == expected["candidates"]
    assert found.dispositions == {name: expected[name] for name in found.dispositions}
    assert found.reasons == {name: expected[name] for name in found.reasons}


@pytest.mark.slow
@settings(max_examples=25)
@given(rows=ROWS)
def test_plan_of_any_rows_counts_as_by_hand(make: Callable[[], Workspace], rows: list[Row]) -> None:
    workspace = make()
    workspace.day(as_table(rows))
    check_plan(preview(workspace.context(), DAY), by_hand(rows, {}))


@pytest.mark.slow
@settings(max_examples=5)
@given(first=ROWS, second=ROWS)
def test_run_of_any_rows_does_what_was_planned(
    make: Callable[[], Workspace], first: list[Row], second: list[Row]
) -> None:
    workspace = make()
    stored: dict[int, tuple[float, float]] = {}
    for rows in (first, second):
        workspace.day(as_table(rows))
        expected = by_hand(rows, stored)
        check_plan(preview(workspace.context(), DAY), expected)
        record = workspace.complete()
        assert record.ledger is not None
        assert record.ledger.counts() == {name: expected[name] for name in record.ledger.counts()}
        assert record.statistics.reasons == {name: expected[name] for name in ("new", "changed") if expected[name]}
    parts = list((workspace.lake / "predictions").rglob("part-*.parquet"))
    found = pa.concat_tables([pq.read_table(path, columns=["i"]) for path in parts]) if parts else None
    assert set(found["i"].to_pylist() if found else []) == set(stored)


@pytest.mark.parametrize(("key", "feature"), [("id", "a"), ("c", "a"), ("id", "c"), ("repeated", "candidates")])
def test_duplicates_that_differ_in_one_column_are_conflicting(workspace: Workspace, key: str, feature: str) -> None:
    """For any column names: `c` was once an alias in the SQL, and so hid the other columns."""
    workspace.model("v2", features=(feature, "b"))
    job_with(workspace, key=[key], features=[feature, "b"])
    workspace.day({key: ["x", "x", "y"], feature: [1.0, 1.0, 1.0], "b": [1.0, 2.0, 1.0]})
    assert planned(workspace).dispositions == {"scored": 1, "unchanged": 0, "quarantined": 2, "duplicates": 0}


# The job's SELECT


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "SELECT * FROM ordrs",
            r"ordrs is not a source of the job, did you mean 'orders'\?(?s:.)*expected +orders(?s:.)*input\.sources",
        ),
        ("SELECT id, x FROM orders", r'column "x" not found'),
        ("SELEC", r"syntax error"),
        ("", r"must be one SELECT(?s:.)*nothing"),
        ("SELECT 1; SELECT 2", r"must be one SELECT(?s:.)*SELECT, SELECT"),
        ("DROP VIEW orders", r"must be one SELECT"),
        ("COPY orders TO 'evil.csv'", r"must be one SELECT"),
        ("SELECT id, $other AS a, b FROM orders", r"does not work(?s:.)*other"),
        ("SELECT id, f(a) AS a, b FROM orders", r"does not work(?s:.)*\bf\b"),
    ],
)
def test_select_that_does_not_work_is_refused(workspace: Workspace, text: str, message: str) -> None:
    job_selecting(workspace, text)
    workspace.day(TWO)
    error = refused(workspace, JobError, message)
    assert error.where is not None
    assert error.where.endswith("toy/rows.sql")
    assert error.exit_code == 2


def test_select_that_writes_a_file_or_reads_another_is_refused(workspace: Workspace) -> None:
    secret, written = workspace.root / "secret.csv", workspace.root / "written.csv"
    secret.write_text("id,a,b\nx,1,2\n")
    workspace.day(TWO)
    for text in (
        f"WITH x AS (COPY (FROM orders) TO '{written}') SELECT * FROM orders",
        f"SELECT * FROM '{secret}'",
        f"SELECT id, a, b FROM orders UNION ALL FROM read_csv('{secret}')",
    ):
        job_selecting(workspace, text)
        refused(workspace, JobError, r"the job's SELECT does not work")
    assert not written.exists()


def test_select_that_lacks_a_column_names_the_file(workspace: Workspace) -> None:
    job_selecting(workspace, "SELECT id, a FROM orders")
    workspace.day(TWO)
    error = refused(workspace, SchemaMismatch, "no column b")
    assert error.where is not None
    assert error.where.endswith("toy/rows.sql")


def test_select_over_a_value_that_cannot_be_cast_is_refused(workspace: Workspace) -> None:
    job_selecting(workspace, "SELECT id::INTEGER AS id, a, b FROM orders")
    workspace.day(TWO)
    refused(workspace, SchemaMismatch, "a value does not have its column's type(?s:.)*'x'")


def test_select_of_sums_wider_than_64_bits_is_scored(workspace: Workspace) -> None:
    job_selecting(workspace, "SELECT id, sum(a) AS a, count(*) AS b FROM orders GROUP BY id")
    workspace.day({"id": ["x", "x", "y"], "a": [2**62, 2**62, -1], "b": [0, 0, 0]})
    workspace.run()
    expected = fingerprints(np.array([[2.0**63, 2], [-1, 1]], np.float32)).tolist()
    assert [row["fingerprint"] for row in workspace.stored("FROM predictions ORDER BY id")] == expected


def test_select_over_a_truncated_file_names_that_file(workspace: Workspace) -> None:
    job_selecting(workspace, "SELECT id, a, b FROM orders")
    workspace.day(TWO, file="1.parquet")
    path = workspace.day(TWO, file="2.parquet")
    path.write_bytes(path.read_bytes()[:-20])
    assert refused(workspace, IncompleteFile, "ends too early").where == str(path)


# The input moves


def test_input_removed_after_the_plan_is_changed_and_not_damaged(workspace: Workspace) -> None:
    path = workspace.day(TWO, file="1.parquet")
    workspace.day(changed(table(TWO), "id", {0: "p", 1: "q"}), file="2.parquet")
    ctx = workspace.context()
    record = plan(ctx, DAY)
    path.unlink()
    with pytest.raises(InputChanged) as caught:
        stage(ctx, record, "score")
    assert caught.value.transient
    assert caught.value.where == "unscored/ds=2026-01-01/1.parquet"
    with pytest.raises(InputChanged):
        check_input_unchanged(ctx, record.plan, DAY)


def by_footers(ctx: Context, files: Mapping[str, Sequence[FileInfo]]) -> tuple[int, int]:
    with connect_for_job(ctx) as con:
        return rows_by_footers(con, ctx, files, DAY, "v1")


def test_rows_by_footers_are_those_of_input_and_partition(workspace: Workspace) -> None:
    ctx = workspace.context()
    workspace.day(5)
    files = ctx.lake.input_files(ctx.job.patterns, DAY)
    assert by_footers(ctx, files) == (5, 0)
    workspace.run()
    workspace.day(table(9))
    files = ctx.lake.input_files(ctx.job.patterns, DAY)
    assert by_footers(ctx, files) == (9, 5)


def test_rows_by_footers_names_the_stored_file_that_is_damaged(workspace: Workspace) -> None:
    for rows in (5, 9):
        workspace.day(rows)
        workspace.run()
    (_, second) = sorted((workspace.lake / "predictions").rglob("part-*.parquet"))
    second.write_bytes(second.read_bytes()[:100])
    ctx = workspace.context()
    files = ctx.lake.input_files(ctx.job.patterns, DAY)
    with pytest.raises(UnreadableFile) as caught:
        by_footers(ctx, files)
    assert caught.value.where == str(second)


@pytest.mark.parametrize(("rows", "goes_on", "expected"), [(5, True, [True]), (3, True, [False]), (5, False, [])])
def test_plan_of_a_run_that_goes_on_imports_ahead_what_the_footers_make_likely(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, rows: int, goes_on: bool, expected: list[bool]
) -> None:
    workspace.day(3)
    workspace.run()
    workspace.day(rows)
    noted: list[bool] = []

    def note(_ctx: object, *, scores: bool) -> None:
        noted.append(scores)

    monkeypatch.setattr(startup, "import_ahead", note)
    plan(workspace.context(), DAY, goes_on=goes_on)
    assert noted == expected


def test_first_rows_of_a_partition_are_read_without_joins_as_with_them(workspace: Workspace) -> None:
    workspace.day(100)
    record = plan(workspace.context(), DAY)
    with select(workspace.context(), record.plan, Partition.of(record)) as selected:
        found = selected.to_score([])
        assert "JOIN" not in found.explain()
        rows = found.order("id").to_arrow_table()
        joined = selected.con.sql(sql_files.load("selecting/to_score")).order("id").to_arrow_table()
    assert rows.num_rows == 100
    assert rows.equals(joined)
