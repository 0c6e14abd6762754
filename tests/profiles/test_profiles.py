"""The profile of a partition equals what plain SQL counts, and every complete run has one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.care.rollback import rollback
from pipeline.database.connection import connect
from pipeline.drift import stage
from pipeline.engines.threads import Threads
from pipeline.lake.layout import Lake
from pipeline.model.manifest import Signature
from pipeline.model.registry import Registry
from pipeline.profiles import bin_edges, store
from pipeline.profiles import stage as profiling
from pipeline.profiles.stage import remake_profile
from pipeline.profiles.stream_counts import Tally
from pipeline.quality import stage as validation
from pipeline.query import views
from pipeline.storage import LocalStorage
from pipeline.tabular import sources
from tests import lakes
from tests.workspace import DAY, Workspace, changed, table

NEXT = "2026-01-02"


@contextmanager
def lake_views(workspace: Workspace) -> Iterator[Any]:
    with connect(threads=2) as con:
        views.create(con, Lake.open(str(workspace.lake)))
        yield con


def profiles(workspace: Workspace, ds: str = DAY) -> dict[tuple[str, str], dict[str, Any]]:
    """Returns the rows of the view `profiles`, by slice and column."""
    with lake_views(workspace) as con:
        rows = con.sql("FROM profiles WHERE ds = $ds", params={"ds": ds}).to_arrow_table().to_pylist()
    return {(row["slice"], row["column_name"]): row for row in rows}


def assert_profile_is_that_of_plain_sql(workspace: Workspace, ds: str = DAY, rows: int | None = None) -> None:
    """Compares with the input's file and the current predictions, read by DuckDB alone."""
    found = profiles(workspace, ds)
    with lake_views(workspace) as views_con, duckdb.connect() as con:
        con.register("predictions", views_con.sql(f"FROM predictions WHERE ds = '{ds}'").to_arrow_table())
        con.read_parquet(f"{workspace.lake}/unscored/ds={ds}/*.parquet").create_view("input")
        for view, column in (("input", "a"), ("input", "b"), ("predictions", "prob_class_1")):
            row = found["", column]
            values = con.sql(f"SELECT {column}::FLOAT AS x FROM {view} WHERE x IS NOT NULL").fetchnumpy()["x"]
            edges = np.array([-np.inf, *row["edges"], np.inf])
            expected, _ = np.histogram(values[~np.isinf(values)], edges)
            assert row["counts"] == expected.tolist(), (column, row)
            assert row["mean"] == pytest.approx(float(values.astype(np.float64).mean()), rel=1e-6, abs=1e-9)
        classes = dict(con.sql("SELECT prediction::VARCHAR, count(*) FROM predictions GROUP BY 1").fetchall())
    row = found["", "prediction"]
    assert {label: n for label, n in zip(row["labels"], row["counts"], strict=True) if n} == classes
    assert rows is None or row["rows"] == rows


@pytest.mark.slow
def test_first_day_gives_the_edges_and_is_profiled(workspace: Workspace) -> None:
    workspace.day(1_000)
    workspace.complete()
    assert_profile_is_that_of_plain_sql(workspace, rows=1_000)
    digest = workspace.context().manifest().digest
    assert [path.name for path in edges_files(workspace)] == [f"v1-{digest[:16]}.parquet"]


def edges_files(workspace: Workspace) -> list[Path]:
    return sorted((workspace.lake / "profiles/job=toy/edges").iterdir())


@pytest.mark.slow
def test_edges_stored_by_an_earlier_lakescore_are_still_those_of_the_model(workspace: Workspace) -> None:
    """It named them by the version alone."""
    workspace.day(1_000)
    workspace.complete()
    (path,) = edges_files(workspace)
    path.rename(path.with_name("v1.parquet"))
    workspace.day(1_500, ds=NEXT)
    assert workspace.complete(NEXT).warnings == ()
    assert [path.name for path in edges_files(workspace)] == ["v1.parquet"]
    assert profiles(workspace)["", "a"]["edges"] == profiles(workspace, NEXT)["", "a"]["edges"]


@pytest.mark.slow
@pytest.mark.parametrize("earlier", [False, True], ids=["", "edges of an earlier Lakescore"])
def test_another_models_v1_has_edges_of_its_own_and_no_days_to_compare_with(
    workspace: Workspace, *, earlier: bool
) -> None:
    workspace.day(1_000)
    workspace.complete()
    if earlier:
        (path,) = edges_files(workspace)
        path.rename(path.with_name("v1.parquet"))
    workspace.job(model="other")
    workspace.model("v1", name="other", classes=3)
    workspace.day(1_500, ds=NEXT)
    assert workspace.complete(NEXT).warnings == ()
    assert len(edges_files(workspace)) == 2
    assert profiles(workspace, NEXT)["", "prediction"]["labels"] == ["0", "1", "2"]
    assert profiles(workspace, NEXT)["", "prob_class_2"]["rows"] == 1_500
    with lake_views(workspace) as con:
        days = con.sql("SELECT DISTINCT ds, reference_days FROM drift WHERE reference = 'trailing'").fetchall()
    assert {(ds, number) for ds, number in days if number} == set()


@pytest.mark.slow
def test_second_day_is_counted_by_the_stream_with_the_edges_of_the_first(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.day(1_000)
    workspace.complete()
    monkeypatch.delattr(profiling, "_read")  # the stream has seen it all
    workspace.day(1_500, ds=NEXT)
    assert workspace.complete(NEXT).warnings == ()
    assert_profile_is_that_of_plain_sql(workspace, NEXT, rows=1_500)
    assert profiles(workspace)["", "a"]["edges"] == profiles(workspace, NEXT)["", "a"]["edges"]


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes each day a large one, whose edges are found before it is scored."""
    monkeypatch.setattr(bin_edges, "LARGE", 1)


def of_countries(workspace: Workspace) -> None:
    folder = workspace.job(reads='carry = ["country"]')
    with (folder / "job.toml").open("a") as file:
        file.write('[drift]\nslices = ["country"]\n')


@pytest.mark.slow
@pytest.mark.usefixtures("large")
def test_large_first_day_is_counted_by_the_stream_alone(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    of_countries(workspace)
    monkeypatch.delattr(profiling, "_read")
    monkeypatch.setattr(bin_edges, "SCORED", 1_000)
    rows = changed(table(4_000), "a", dict.fromkeys(range(40)) | {41: float("nan"), 42: float("inf")})
    for ds in (DAY, NEXT):
        workspace.day(rows.append_column("country", pa.array(["fr", "de", "it", "de"] * 1_000)), ds=ds)
        assert workspace.complete(ds).warnings == ()
        found = profiles(workspace, ds)
        missing = {name: found["", "a"][name] for name in ("rows", "nulls", "nans", "infinite")}
        assert missing == {"rows": 4_000, "nulls": 40, "nans": 1, "infinite": 1}
        assert found["", "prob_class_1"]["rows"] == 3_958
        assert max(found["", "prob_class_1"]["counts"]) < 400  # the edges are quantiles
        for column in ("a", "prob_class_1", "prediction_proba", "prediction"):
            parts = [found[country, column]["counts"] for country in ("fr", "de", "it")]
            assert np.sum(parts, axis=0).tolist() == found["", column]["counts"]
        with lake_views(workspace) as con:
            scores = con.sql(f"SELECT prob_class_1 FROM predictions WHERE ds = '{ds}'").fetchnumpy()["prob_class_1"]
        edges = np.array([-np.inf, *found["", "prob_class_1"]["edges"], np.inf])
        assert found["", "prob_class_1"]["counts"] == np.histogram(scores, edges)[0].tolist()


@pytest.mark.slow
@pytest.mark.usefixtures("large")
def test_edges_are_kept_only_of_a_large_day_that_is_valid(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.day(1_000)
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.quality.stage.validate_output", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            workspace.run()
    assert not list(workspace.lake.glob("profiles/job=toy/edges/*"))
    workspace.complete()  # what was staged is taken up, and has not been counted
    assert_profile_is_that_of_plain_sql(workspace, rows=1_000)
    assert len(edges_files(workspace)) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("large")
def test_large_day_is_read_again_if_another_run_has_stored_other_edges_meanwhile(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = workspace.copy_to(tmp_path / "other")
    other.day(3_000)
    other.complete()
    (stored,) = edges_files(other)
    validate = validation.validate_output

    def meanwhile(*arguments: Any) -> Any:
        (workspace.lake / stored.relative_to(other.lake)).parent.mkdir(parents=True)
        (workspace.lake / stored.relative_to(other.lake)).write_bytes(stored.read_bytes())
        return validate(*arguments)

    workspace.day(1_000)
    monkeypatch.setattr(validation, "validate_output", meanwhile)
    assert workspace.complete().warnings == ()
    assert_profile_is_that_of_plain_sql(workspace, rows=1_000)
    for column in ("a", "prob_class_1"):
        assert profiles(workspace)["", column]["edges"] == profiles(other)["", column]["edges"]


@pytest.mark.slow
@pytest.mark.usefixtures("large")
def test_large_first_day_in_buckets_has_one_set_of_edges(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.buckets.stage.open_engine", lambda _ctx: Threads(1))
    folder = workspace.job()
    with (folder / "job.toml").open("a") as file:
        file.write('[engine]\nname = "processes"\nmin_rows = 1\nbuckets = 2\n')
    workspace.day(1_000)
    assert workspace.complete().warnings == ()
    assert_profile_is_that_of_plain_sql(workspace, rows=1_000)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_stream_counts_what_a_reader_counts(workspace: Workspace, threads: int) -> None:
    workspace.day(1_000)
    workspace.complete()
    workspace.day(300_000, ds=NEXT)  # several batches, for several workers
    record = workspace.run(NEXT, threads=threads).record
    assert record is not None
    streamed = profiles(workspace, NEXT)
    assert remake_profile(workspace.context(), record)
    read = profiles(workspace, NEXT)
    assert streamed.keys() == read.keys()
    for name, row in read.items():
        for column in ("rows", "nulls", "nans", "counts", "edges", "low", "high"):
            assert streamed[name][column] == row[column], (name, column)
        assert streamed[name]["mean"] == pytest.approx(row["mean"])


@pytest.mark.slow
def test_revised_day_is_profiled_as_it_is_then(workspace: Workspace) -> None:
    workspace.day(1_000)
    workspace.complete()
    rows = changed(table(1_000), "a", {row: 5.0 + row for row in range(100)})
    more = pa.table({"id": [f"new{i}" for i in range(50)], "a": np.zeros(50), "b": np.ones(50)})
    workspace.day(pa.concat_tables([rows, more]))
    record = workspace.complete()
    assert record.ledger is not None
    assert record.ledger.scored.rows == 150
    assert_profile_is_that_of_plain_sql(workspace, rows=1_050)
    workspace.day(pa.concat_tables([changed(rows, "a", dict.fromkeys(range(50, 200), 7.0)), more]))
    workspace.complete()  # now stored rows have later revisions, too
    assert_profile_is_that_of_plain_sql(workspace, rows=1_050)


@pytest.mark.slow
def test_rows_that_a_policy_rejects_count_as_missing(workspace: Workspace) -> None:
    workspace.day(changed(table(500), "a", dict.fromkeys(range(40)) | {41: float("nan"), 42: float("inf")}))
    workspace.complete()
    found = profiles(workspace)
    counts = {name: found["", "a"][name] for name in ("rows", "nulls", "nans", "infinite")}
    assert counts == {"rows": 500, "nulls": 40, "nans": 1, "infinite": 1}
    assert found["", "prob_class_1"]["rows"] == 458


@pytest.mark.slow
def test_row_that_stands_twice_and_row_without_key_count_once_and_never(workspace: Workspace) -> None:
    rows = table(100)
    without_key = pa.table({"id": pa.array([None], pa.string()), "a": [9.0], "b": [9.0]})
    workspace.day(pa.concat_tables([rows, rows.slice(0, 10), without_key]))
    workspace.complete()
    assert profiles(workspace)["", "a"]["rows"] == 100


@pytest.mark.slow
def test_slices_add_up_to_the_whole(workspace: Workspace) -> None:
    of_countries(workspace)
    for ds in (DAY, NEXT):
        rows = table(2_000)
        workspace.day(rows.append_column("country", pa.array(["fr", "de", "it", "de"] * 500)), ds=ds)
        workspace.complete(ds)
        found = profiles(workspace, ds)
        for column in ("a", "prob_class_1", "prediction"):
            parts = [found[country, column]["counts"] for country in ("fr", "de", "it")]
            assert np.sum(parts, axis=0).tolist() == found["", column]["counts"]
            assert found["de", column]["rows"] == 1_000


@pytest.mark.slow
def test_crash_before_the_commit_leaves_no_profile_that_counts(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.day(1_000)
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.committing.stage.publish_quarantine", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            workspace.run()
    assert list(workspace.lake.glob("profiles/job=toy/ds=*/*/*.parquet"))
    assert profiles(workspace) == {}
    assert store.current(workspace.context(), "profiles", DAY, "v1") is None
    workspace.complete()
    assert_profile_is_that_of_plain_sql(workspace, rows=1_000)


@pytest.mark.slow
def test_missing_profile_and_comparison_are_made_by_the_next_run_of_the_day(workspace: Workspace) -> None:
    workspace.day(1_000)
    record = workspace.complete()
    before = profiles(workspace)
    for kind in ("profiles", "drift"):
        (workspace.lake / store.key(kind, record)).unlink()
    outcome = workspace.run()
    assert outcome.up_to_date
    after = profiles(workspace)
    assert [row["counts"] for row in after.values()] == [row["counts"] for row in before.values()]
    assert not stage.is_missing(workspace.context(), record)


@pytest.mark.slow
def test_profile_is_not_made_from_other_input_than_the_run_read(workspace: Workspace) -> None:
    workspace.day(100)
    record = workspace.complete()
    (workspace.lake / store.key("profiles", record)).unlink()
    workspace.day(200)
    assert not remake_profile(workspace.context(), record)
    assert profiles(workspace) == {}


@pytest.mark.slow
def test_fault_of_the_profile_costs_no_run(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace.day(1_000)
    with monkeypatch.context() as patch:
        patch.setattr(profiling, "make_profile", lambda *_: 1 / 0)
        record = workspace.complete()
    assert record.warnings == ("no profile: ZeroDivisionError: division by zero",)
    assert len(workspace.stored()) == 1_000
    assert workspace.run().up_to_date
    assert_profile_is_that_of_plain_sql(workspace, rows=1_000)


@pytest.mark.slow
def test_fault_while_the_stream_counts_costs_no_run(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace.day(1_000)
    workspace.complete()
    workspace.day(1_000, ds=NEXT)
    monkeypatch.setattr("pipeline.histograms.counting.Counting.add_predictions", _fails_once())
    assert workspace.complete(NEXT).warnings == ()
    assert_profile_is_that_of_plain_sql(workspace, NEXT, rows=1_000)


def _fails_once() -> Any:
    from pipeline.histograms.counting import Counting

    original, calls = Counting.add_predictions, iter([True])

    def add(self: Counting, *arguments: Any) -> None:
        if next(calls, False):
            raise ValueError("a column that cannot be counted")
        original(self, *arguments)

    return add


@pytest.mark.slow
def test_rows_staged_by_a_crashed_run_are_in_the_profile(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace.day(1_000)
    workspace.complete()
    workspace.day(1_000, ds=NEXT)
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.committing.stage.commit", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            workspace.run(NEXT)
    workspace.complete(NEXT)
    assert_profile_is_that_of_plain_sql(workspace, NEXT, rows=1_000)


@pytest.mark.slow
def test_rollback_uncovers_the_profile_before(workspace: Workspace) -> None:
    workspace.day(1_000)
    first = workspace.complete()
    workspace.day(changed(table(1_000), "a", dict.fromkeys(range(500), 50.0)))
    second = workspace.complete()
    assert {row["run_id"] for row in profiles(workspace).values()} == {second.run_id}
    rollback(workspace.context().lake, second.run_id)
    assert {row["run_id"] for row in profiles(workspace).values()} == {first.run_id}
    current = store.current(workspace.context(), "profiles", DAY, "v1")
    assert current is not None
    assert set(current.column("run_id").to_pylist()) == {first.run_id}


def test_job_without_drift_keeps_no_profile(workspace: Workspace) -> None:
    with (workspace.job() / "job.toml").open("a") as file:
        file.write("[drift]\nenabled = false\n")
    workspace.day(100)
    record = workspace.complete()
    assert workspace.run().up_to_date
    assert not (workspace.lake / "profiles").exists()
    assert "profile" not in {stage.stage for stage in record.stages}


@pytest.mark.slow
def test_training_data_give_the_edges_and_a_reference_from_the_first_day(workspace: Workspace) -> None:
    rng = np.random.default_rng(5)
    training = workspace.root / "training.parquet"
    pq.write_table(pa.table({"a": rng.normal(size=20_000), "b": rng.normal(size=20_000)}), training)
    checkpoint = workspace.model("unused")
    registry = Registry(Path(workspace.settings.models))
    registry.register(checkpoint, name="toy", version="v2", features=("a", "b"), training=sources.find([training]))
    registry.promote("toy", "v2")
    rows = table(1_000)
    workspace.day(rows.set_column(2, "b", pa.array(np.asarray(rows.column("b")) + 1.0)))
    record = workspace.complete()
    assert_profile_is_that_of_plain_sql(workspace, rows=1_000)
    with lake_views(workspace) as con:
        query = "SELECT column_name, outcome FROM drift WHERE reference = 'training' AND kind = 'feature' ORDER BY ALL"
        assert con.sql(query).fetchall() == [("a", "ok"), ("b", "critical")]
    assert [text for text in record.warnings if text.startswith("b has drifted from training: critical")]


@pytest.mark.slow
def test_drift_of_a_day_reads_two_windows_of_profiles_and_no_more(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datetime import date, timedelta

    days = [str(date(2026, 1, 1) + timedelta(days=number)) for number in range(70)]
    workspace.day(200, ds=days[0])
    record = workspace.complete(days[0])
    content = {kind: (workspace.lake / store.key(kind, record)).read_bytes() for kind in ("profiles", "drift")}
    lake = workspace.context().lake
    for ds in days[1:-1]:
        copy = record.with_(ds=ds)
        lakes.put_record(lake, copy)
        lake.storage.write(store.key("profiles", copy), content["profiles"])
    seen: set[str] = set()
    read = LocalStorage.read

    def noted(storage: LocalStorage, key: str) -> bytes | None:
        seen.add(key)
        return read(storage, key)

    monkeypatch.setattr(LocalStorage, "read", noted)
    workspace.day(200, ds=days[-1])
    workspace.complete(days[-1])
    profiled = {key.split("/")[2].removeprefix("ds=") for key in seen if key.startswith("profiles/job=toy/ds=")}
    assert profiled == set(days[-57:])


def test_tally_that_broke_is_not_kept(workspace: Workspace) -> None:
    tally = Tally((), (), Signature(features=("a",), classes=(0, 1)))
    assert tally.broken
    tally.see_features(pa.record_batch({"a": [1.0]}), np.ones((1, 1), np.float32))
    assert tally.counting.counts["", ""] == {}


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 10**6], ids=["large", "small"])
def test_day_that_is_all_quarantine_has_an_empty_profile_and_no_warning(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(bin_edges, "LARGE", rows)
    workspace.day({"id": ["u", "v"], "a": pa.array([None, None], pa.float64()), "b": [1.0, 1.0]})
    record = workspace.complete()
    assert record.ledger is not None
    assert (record.ledger.quarantined.rows, record.warnings) == (2, ())
    assert workspace.ask("SELECT count(*) FROM profiles") == [(0,)]
    assert workspace.run().up_to_date
    workspace.day(100, ds="2026-01-02")
    assert workspace.complete("2026-01-02").warnings == ()
    assert workspace.ask("SELECT DISTINCT ds, rows FROM profiles") == [("2026-01-02", 100)]
    workspace.day(200)
    assert workspace.complete().warnings == ()
    assert workspace.ask("SELECT DISTINCT rows FROM profiles ORDER BY ALL") == [(100,), (200,)]
