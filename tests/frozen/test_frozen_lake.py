"""The content of `format_1` must stay readable: the expected values here were noted when the lake was written.

Only the command line and plain Parquet are used, so that these tests need no change when the package changes.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from pipeline.cli.commands import command_line

FORMAT_1 = Path(__file__).parent / "format_1"
STAGED = "20261126T190812891Z-8682dd36"
"""The run of churn, 2026-03-07, that has scored and not committed."""
OF_V2 = "20261126T190750081Z-8852a8e4"
"""The run of churn, 2026-03-03, that has scored the day with v2."""
V1, V2 = (
    "396f64bbdbd71fe86df1c34499fa53ed342535f7be1483ad9419de1d083880ab",
    "81a875fb360af068e56c6d873f226b41c5695b6784e952c8802fc35e701a30ab",
)


def use(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("lake", "models", "jobs"):
        monkeypatch.setenv(f"LAKESCORE_{name.upper()}", str(folder / name))
    return folder


def copied(folder: Path) -> Path:
    """Copies without times, since `verify` reports unfinished work that is older than a day."""
    return Path(shutil.copytree(FORMAT_1, folder, copy_function=shutil.copyfile))


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy for all tests that only read. Fails if any of them changes a file."""
    folder = copied(tmp_path_factory.mktemp("frozen") / "format_1")
    yield folder
    assert files(folder) == files(FORMAT_1)


@pytest.fixture
def frozen(shared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return use(shared, monkeypatch)


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy that the test may change."""
    return use(copied(tmp_path / "format_1"), monkeypatch)


def ask(command: str, *arguments: str, expect: int = 0) -> Any:
    """Runs a command in this process; returns its JSON output, or the text of the expected error."""
    given = [*command.split(), *arguments, *(() if command.startswith("stage") else ("--json",))]
    done = CliRunner().invoke(command_line(given[0]), given)
    if expect == 0:
        assert (done.exit_code, done.exception) == (0, None), done.output
        return json.loads(done.stdout)
    assert getattr(done.exception, "exit_code", done.exit_code) == expect, (done.output, done.exception)
    return str(done.exception)


def rows(sql: str, *arguments: str) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in ask("query", sql, *arguments)]


def run(job: str, ds: str, *, report: bool = False) -> Any:
    """Brings a day up to date and returns the outcome; by default without pages, whose index takes a second to make."""
    options = f"--job {job} --date {ds}"
    outcome = ask(f"run {options}")[0] if report else ask(f"stage drift {options}")
    assert outcome["state"] == "complete"
    ledger = outcome["ledger"]
    assert ledger["candidates"] == sum(count for term, count in ledger.items() if term != "candidates")
    return outcome


def ledger_of(outcome: Any) -> dict[str, int]:
    """Returns the terms that are not zero."""
    return {term: count for term, count in outcome["ledger"].items() if count}


def parts(folder: Path, job: str, ds: str) -> dict[str, int]:
    """Returns the published files of a day, with the number of rows of each."""
    found = sorted((folder / "lake" / "predictions" / f"job={job}" / f"ds={ds}").glob("*/part-*.parquet"))
    return {f"{path.parent.name}/{path.name}": pq.read_metadata(path).num_rows for path in found}


def published(folder: Path, ds: str, version: str, columns: str) -> list[tuple[Any, ...]]:
    """Returns columns of all published rows of churn, read without the package."""
    pattern = folder / "lake" / "predictions" / "job=churn" / f"ds={ds}" / f"model_version={version}" / "part-*.parquet"
    with duckdb.connect() as con:
        return con.sql(f"SELECT {columns} FROM read_parquet('{pattern}') ORDER BY ALL").fetchall()


def input_file(folder: Path, place: str) -> Path:
    (path,) = (folder / "lake" / place).glob("*.parquet")
    return path


def rewrite(path: Path, sql: str) -> None:
    """Replaces an input file with the result of a SELECT over it, as the table `old`."""
    with duckdb.connect() as con:
        con.register("old", pq.read_table(path))
        pq.write_table(con.sql(sql).to_arrow_table(), path)


# Reading


def test_history_is_counted_has_the_rows_that_were_written(frozen: Path) -> None:
    found = rows(
        "SELECT job, ds, model_version, reason, revision, count(*), "
        "round(sum(coalesce(value, prob_class_1)::DOUBLE), 3) FROM predictions_history GROUP BY ALL ORDER BY ALL"
    )
    sensor = [26.139, 26.924, 26.024, 26.212, 26.811, 26.866, 26.072, 26.328, 26.611, 26.291, 14.109]
    assert found == [
        ("churn", "2026-03-02", "v1", "new", 0, 57, 31.768),
        ("churn", "2026-03-03", "v1", "changed", 1, 3, 1.057),
        ("churn", "2026-03-03", "v1", "new", 0, 60, 29.724),
        ("churn", "2026-03-03", "v2", "model", 0, 59, 28.775),
        ("churn", "2026-03-05", "v1", "new", 0, 60, 44.312),
        ("churn", "2026-03-06", "v2", "new", 0, 60, 29.615),
        *(("sensor", f"2026-03-{21 + day}", "v1", "new", 0, 60, total) for day, total in enumerate(sensor)),
        ("shelf", "2026-03-31", "v1", "new", 0, 40, None),
        ("spend", "2026-03-31", "v1", "new", 0, 39, 2324.506),
        ("topics", "2026-03-31", "v1", "new", 0, 60, 32.092),
    ]


def test_predictions_are_asked_shows_the_version_that_completed_last(frozen: Path) -> None:
    found = rows("SELECT job, ds, model_version, count(*) FROM predictions WHERE job = 'churn' GROUP BY ALL ORDER BY 2")
    assert [row[1:] for row in found] == [
        ("2026-03-02", "v1", 57),
        ("2026-03-03", "v2", 59),
        ("2026-03-05", "v1", 60),
        ("2026-03-06", "v2", 60),
    ]
    found = rows("SELECT job, model_version, count(*) FROM predictions_by_version GROUP BY ALL ORDER BY ALL")
    assert found == [
        ("churn", "v1", 177),
        ("churn", "v2", 119),
        ("sensor", "v1", 660),
        ("shelf", "v1", 40),
        ("spend", "v1", 39),
        ("topics", "v1", 60),
    ]


def test_history_of_keys_shows_revisions_withdrawn_erased_and_rolled_back_rows(frozen: Path) -> None:
    found = rows(
        "SELECT key_text, model_version, revision, reason, prediction, round(prob_class_1::DOUBLE, 6), country "
        "FROM predictions_history WHERE job = 'churn' AND (ds = '2026-03-03' AND id IN ('u000', 'u058', 'u200') "
        "OR id IN ('u300', 'u900')) ORDER BY ALL"
    )
    assert found == [
        ("u000", "v1", 0, "new", "0", 0.465986, "DE"),
        ("u000", "v1", 1, "changed", "0", 0.080449, "DE"),
        ("u000", "v2", 0, "model", "0", 0.137098, "DE"),
        ("u058", "v1", 0, "new", "1", 0.929275, "FR"),
        ("u200", "v1", 0, "new", "0", 0.297716, "DE"),
        ("u200", "v2", 0, "model", "0", 0.158151, "DE"),
    ]


def test_runs_are_asked_have_their_states_ledgers_and_reasons(frozen: Path) -> None:
    found = rows(
        "SELECT job, ds, model_version, state, candidates, scored, unchanged, quarantined, duplicates, "
        "balanced, reasons FROM runs WHERE job <> 'sensor' ORDER BY job, ds, run_id"
    )
    none = (None,) * 6
    assert found == [
        ("churn", "2026-03-02", "v1", "complete", 63, 56, 0, 6, 1, True, {"new": 56}),
        ("churn", "2026-03-02", "v1", "complete", 63, 1, 56, 5, 1, True, {"new": 1}),
        ("churn", "2026-03-03", "v1", "complete", 60, 60, 0, 0, 0, True, {"new": 60}),
        ("churn", "2026-03-03", "v1", "complete", 59, 4, 55, 0, 0, True, {"changed": 3, "new": 1}),
        ("churn", "2026-03-03", "v2", "complete", 59, 59, 0, 0, 0, True, {"model": 59}),
        ("churn", "2026-03-04", "v1", "stopped", *none, {}),
        ("churn", "2026-03-04", "v1", "stopped", *none, {}),
        ("churn", "2026-03-05", "v1", "failed", *none, {}),
        ("churn", "2026-03-05", "v1", "complete", 60, 60, 0, 0, 0, True, {"new": 60}),
        ("churn", "2026-03-06", "v2", "complete", 60, 60, 0, 0, 0, True, {"new": 60}),
        ("churn", "2026-03-06", "v2", "rolled_back", 61, 3, 58, 0, 0, True, {"changed": 2, "new": 1}),
        ("churn", "2026-03-07", "v2", "scored", *none, {}),
        ("shelf", "2026-03-31", "v1", "complete", 40, 40, 0, 0, 0, True, {"new": 40}),
        ("spend", "2026-03-31", "v1", "complete", 40, 39, 0, 1, 0, True, {"new": 39}),
        ("topics", "2026-03-31", "v1", "complete", 60, 60, 0, 0, 0, True, {"new": 60}),
    ]
    assert rows("SELECT state, count(*), sum(scored) FROM runs WHERE job = 'sensor' GROUP BY ALL") == [
        ("complete", 11, 660)
    ]


def test_rows_in_quarantine_are_asked_have_their_reasons(frozen: Path) -> None:
    found = rows("SELECT job, id, customer, shop, reasons FROM quarantine ORDER BY ALL")
    assert found == [
        ("churn", "u006", None, None, ["conflicting_duplicate"]),
        ("churn", "u006", None, None, ["conflicting_duplicate"]),
        ("churn", "u007", None, None, ["null:age"]),
        ("churn", "u008", None, None, ["age_range"]),
        ("churn", None, None, None, ["null_key"]),
        ("spend", None, 1002, "Mitte", ["unknown:channel"]),
    ]
    assert [(row["ds"], row["reason"], row["rows"]) for row in ask("quarantine list --job churn")] == [
        ("2026-03-02", "conflicting_duplicate", 2),
        ("2026-03-02", "age_range", 1),
        ("2026-03-02", "null:age", 1),
        ("2026-03-02", "null_key", 1),
    ]
    (shown,) = ask("quarantine show --date 2026-03-02 --reason age_range --job churn")
    assert (shown["id"], shown["age"]) == ("u008", 150)


def test_quality_has_every_check_and_what_stopped_a_run(frozen: Path) -> None:
    found = rows("SELECT job, suite, outcome, count(*) FROM quality GROUP BY ALL ORDER BY ALL")
    assert [row[1:] for row in found if row[0] == "churn"] == [
        ("input", "noted", 4),
        ("input", "passed", 221),
        ("input", "quarantined", 2),
        ("input", "stopped", 1),
        ("model", "passed", 9),
        ("output", "passed", 98),
        ("output", "stopped", 1),
    ]
    assert sum(row[3] for row in found) == 405
    assert rows(
        "SELECT ds, name, engine, round(observed::DOUBLE, 4) FROM quality WHERE outcome = 'stopped' ORDER BY run_id"
    ) == [
        ("2026-03-04", "spend_mean", "gx", 897.804),
        ("2026-03-04", "score_mean", "gx", 0.9715),
    ]


def test_drift_has_both_references_and_the_slices(frozen: Path) -> None:
    found = rows("SELECT job, slice, reference, outcome, count(*) FROM drift GROUP BY ALL ORDER BY ALL")
    assert found == [
        ("churn", "", "trailing", "none", 25),
        ("churn", "", "training", "critical", 3),
        ("churn", "", "training", "ok", 12),
        ("churn", "DE", "trailing", "none", 25),
        ("churn", "FR", "trailing", "none", 25),
        ("churn", "US", "trailing", "none", 25),
        ("sensor", "", "trailing", "critical", 2),
        ("sensor", "", "trailing", "none", 20),
        ("shelf", "", "trailing", "none", 1),
        ("spend", "", "trailing", "none", 7),
        ("topics", "", "trailing", "none", 6),
    ]
    found = rows("SELECT job, ds, column_name, round(psi, 4) FROM drift WHERE outcome = 'critical' ORDER BY ALL")
    assert found == [
        ("churn", "2026-03-05", "prediction", 0.496),
        ("churn", "2026-03-05", "prob_class_1", 0.515),
        ("churn", "2026-03-05", "visits", 0.9474),
        ("sensor", "2026-03-31", "heat", 1.0984),
        ("sensor", "2026-03-31", "value", 1.6219),
    ]


def test_profiles_have_the_columns_and_rows_of_each_day(frozen: Path) -> None:
    found = rows("SELECT job, kind, count(*), sum(rows)::INT, sum(nulls)::INT FROM profiles GROUP BY ALL ORDER BY ALL")
    assert found == [
        ("churn", "class", 20, 594, 0),
        ("churn", "confidence", 20, 594, 0),
        ("churn", "feature", 60, 1776, 2),
        ("churn", "score", 20, 594, 0),
        ("sensor", "feature", 11, 660, 0),
        ("sensor", "score", 11, 660, 0),
        ("shelf", "score", 1, 40, 0),
        ("spend", "feature", 3, 120, 2),
        ("spend", "score", 4, 156, 0),
        ("topics", "feature", 3, 180, 0),
        ("topics", "score", 3, 180, 0),
    ]


def test_performance_and_labels_are_those_of_the_import(frozen: Path) -> None:
    found = rows("SELECT job, ds, model_version, class, rows, positives, predictions, auc, brier FROM performance")
    assert found == [("churn", "2026-03-03", "v2", "1", 58, 31, 59, pytest.approx(0.878136), pytest.approx(0.136141))]
    assert rows("SELECT job, ds, label, count(*) FROM labels GROUP BY ALL ORDER BY ALL") == [
        ("churn", "2026-03-03", "0", 27),
        ("churn", "2026-03-03", "1", 32),
    ]


@pytest.mark.slow
def test_views_have_their_rows(frozen: Path) -> None:
    counts = {
        "runs": 26,
        "predictions_history": 1098,
        "predictions_by_version": 1095,
        "predictions": 1035,
        "quarantine": 6,
        "quality": 405,
        "profiles": 156,
        "drift": 151,
        "performance": 1,
        "labels": 59,
    }
    assert set(ask("query --list")["views"]) >= {*counts, "unscored"}
    assert {view: rows(f"SELECT count(*) FROM {view}")[0][0] for view in counts} == counts
    assert rows("SELECT ds, count(*) FROM unscored GROUP BY ds ORDER BY ds", "--job", "churn") == [
        (f"2026-03-0{day}", count) for day, count in zip(range(2, 9), (63, 59, 60, 60, 61, 60, 60), strict=True)
    ]
    assert rows("SELECT count(*) FROM texts JOIN authors USING (author)", "--job", "topics") == [(60,)]


@pytest.mark.slow
def test_named_queries_return_their_rows(frozen: Path) -> None:
    counts = {
        "class_distribution": 11,
        "class_trend": 24,
        "compare_days --param from=2026-03-05 --param to=2026-03-06": 2,
        "daily_summary": 20,
        "drift_trend": 151,
        "item_distribution": 10,
        "label_distribution": 3,
        "performance_trend": 1,
        "prediction_history --param key=u000": 6,
        "profile_trend": 61,
        "quality_trend": 243,
        "rankings": 120,
        "run_performance": 26,
        "run_trend": 7,
        "score_movers --param from=2026-03-05 --param to=2026-03-06": 20,
        "top_scores --param ds=2026-03-03": 20,
        "top_stability": 18,
        "value_distribution": 12,
        "volume_anomalies": 0,
    }
    known = {query["name"] for query in ask("query --list")["queries"]}
    assert known >= {name.split()[0] for name in counts}
    assert {name: len(ask(f"query {name}")) for name in counts} == counts


def test_status_shows_the_calendar(frozen: Path) -> None:
    shown = ask("status --job churn")
    assert shown["model"] == {"name": "churn", "version": "v2", "digest": V2}
    found = [(day["ds"], day["version"], day["runs"], day["last_state"]) for day in shown["days"]]
    assert found == [
        ("2026-03-02", "v1", 2, "complete"),
        ("2026-03-03", "v2", 3, "complete"),
        ("2026-03-04", None, 2, "stopped"),
        ("2026-03-05", "v1", 2, "complete"),
        ("2026-03-06", "v2", 2, "rolled_back"),
        ("2026-03-07", None, 1, "scored"),
        ("2026-03-08", None, 0, None),
    ]
    assert [day["state"] for day in shown["days"]] == [
        "stale",
        "partial",  # the times of the copied files differ from those in the run record
        "stopped",
        "stale",
        "rolled_back",
        "unfinished",
        "missing",
    ]


EXPLAINED = {
    "changed": ("churn", "u000 --date 2026-03-03", {"prob_class_1": 0.137098}, "mean of the rows of 2026-03-03"),
    "baseline": (
        "churn",
        "u020 --date 2026-03-05",
        {"prob_class_1": 0.954863},
        "mean of the training data of churn v1",
    ),
    "released": (
        "churn",
        "u009 --date 2026-03-02",
        {"prob_class_1": 0.945809},
        "mean of the training data of churn v1",
    ),
    "two columns": ("spend", "1004,Mitte", {"value": 63.885033, "value_q10": 56.564716}, None),
    "select": (
        "topics",
        "doc-003",
        {"prob_class_0": 0.486111, "prob_class_1": 0.538476},
        "mean of the rows of 2026-03-31",
    ),
    "ranking": ("shelf", "5", {"top_items": ["sku-07", "sku-13", "sku-14"]}, None),
    "regression": ("sensor", "7 --date 2026-03-30", {"value": 0.577563}, "mean of the rows of 2026-03-30"),
}


@pytest.mark.parametrize(("job", "key", "outputs", "baseline"), EXPLAINED.values(), ids=EXPLAINED)
def test_key_is_explained_and_replayed_gives_the_stored_score(
    frozen: Path, job: str, key: str, outputs: dict[str, Any], baseline: str | None
) -> None:
    told = ask(f"explain {key} --replay --job {job}")["predictions"][0]
    assert {name: told["outputs"][name] for name in outputs} == {
        name: pytest.approx(value, abs=1e-6) if isinstance(value, float) else value for name, value in outputs.items()
    }
    assert told["current"]
    assert told["input"]["same"]
    assert told["replay"]["same_model"]
    assert told["replay"]["difference"] <= 1e-6
    assert (told["attribution"]["baseline"] if told["attribution"] else None) == baseline


def test_key_with_a_comma_is_explained(frozen: Path) -> None:
    (told,) = ask("explain --job spend", "1003,Wedding\\, Nord")["predictions"]
    assert told["outputs"]["value"] == pytest.approx(58.151939, abs=1e-5)


def test_key_of_two_versions_is_explained_tells_each_revision(frozen: Path) -> None:
    told = ask("explain u000 --date 2026-03-03 --replay --job churn")["predictions"]
    found = [
        (each["model_version"], each["revision"], each["current"], each["reason"], each["model_digest"])
        for each in told
    ]
    assert found == [
        ("v2", 0, True, "model", V2),
        ("v1", 1, False, "changed", V1),
        ("v1", 0, False, "new", V1),
    ]
    assert told[0]["fingerprint"] == told[1]["fingerprint"] == 1792540994446267653
    assert told[1]["replay"]["difference"] <= 1e-6


def test_quarantined_key_is_explained_tells_the_reason(frozen: Path) -> None:
    told = ask("explain u007 --date 2026-03-02 --job churn")
    assert told["predictions"] == []
    assert [(each["ds"], each["reasons"]) for each in told["quarantine"]] == [("2026-03-02", ["null:age"])]


def test_rolled_back_key_is_explained_has_the_prediction_before_or_none(frozen: Path) -> None:
    (told,) = ask("explain u003 --date 2026-03-06 --job churn")["predictions"]
    assert (told["revision"], told["current"], told["reason"]) == (0, True, "new")
    assert told["outputs"]["prob_class_1"] == pytest.approx(0.932745, abs=1e-6)
    assert "nothing is stored for the key" in ask("explain u300 --job churn", expect=2)


def test_verify_finds_no_problem(frozen: Path) -> None:
    assert ask("verify") == []


def test_models_are_listed_are_those_registered(frozen: Path) -> None:
    found = [(each["name"], each["version"], each["kind"], each["aliases"]) for each in ask("models list")]
    assert found == [
        ("churn", "v1", "checkpoint", []),
        ("churn", "v2", "safetensors", ["production"]),
        ("sensor", "v1", "checkpoint", ["production"]),
        ("shelf", "v1", "checkpoint", ["production"]),
        ("spend", "v1", "program", ["production"]),
        ("topics", "v1", "safetensors", ["production"]),
    ]
    shown = ask("models show churn v1")
    assert (shown["digest"], shown["recorded_version"], shown["metrics"]) == (V1, "7f3a", {"auc": 0.81})
    assert ask("models show churn")["digest"] == V2


PLANNED = {
    "first time": ("churn", "2026-03-08", {"scored": 60}, {"new": 60}),
    "another model": ("churn", "2026-03-02", {"scored": 57, "quarantined": 5, "duplicates": 1}, {"model": 57}),
    "after a rollback": ("churn", "2026-03-06", {"scored": 3, "unchanged": 58}, {"new": 1, "changed": 2}),
    "nothing to do": ("spend", "2026-03-31", {"unchanged": 39, "quarantined": 1}, {}),
}


@pytest.mark.parametrize(("job", "ds", "dispositions", "reasons"), PLANNED.values(), ids=PLANNED)
def test_day_is_planned_counts_what_a_run_would_do(
    frozen: Path, job: str, ds: str, dispositions: dict[str, int], reasons: dict[str, int]
) -> None:
    found = ask(f"plan --job {job} --date {ds}")
    assert {name: count for name, count in found["dispositions"].items() if count} == dispositions
    assert {name: count for name, count in found["reasons"].items() if count} == reasons


# Changing


UNCHANGED = {
    "classification": ("churn", "2026-03-03", {"candidates": 59, "unchanged": 59}),
    "two columns": ("spend", "2026-03-31", {"candidates": 40, "unchanged": 39, "quarantined": 1}),
    "multi-label": ("topics", "2026-03-31", {"candidates": 60, "unchanged": 60}),
    "ranking": ("shelf", "2026-03-31", {"candidates": 40, "unchanged": 40}),
    "regression": ("sensor", "2026-03-31", {"candidates": 60, "unchanged": 60}),
}


@pytest.mark.slow
@pytest.mark.parametrize(("job", "ds", "ledger"), UNCHANGED.values(), ids=UNCHANGED)
def test_complete_day_is_run_again_scores_nothing(mine: Path, job: str, ds: str, ledger: dict[str, int]) -> None:
    before = parts(mine, job, ds)
    outcome = run(job, ds, report=True)
    assert ledger_of(outcome) == ledger
    assert parts(mine, job, ds) == before
    (again,) = ask(f"run --job {job} --date {ds}")
    assert (again["run_id"], again["state"]) == (outcome["run_id"], "up to date")


@pytest.mark.slow
def test_older_version_is_run_again_keeps_released_and_rejected_rows(mine: Path) -> None:
    assert ask("models promote churn v1")["before"] == "v2"
    outcome = run("churn", "2026-03-02")
    assert ledger_of(outcome) == {"candidates": 63, "unchanged": 57, "quarantined": 5, "duplicates": 1}
    assert parts(mine, "churn", "2026-03-02") == {
        "model_version=v1/part-00000000.parquet": 56,
        "model_version=v1/part-00000001.parquet": 1,
    }
    assert ask("verify") == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", ["run --job churn --date 2026-03-07", f"stage commit --job churn --date 2026-03-07 --run-id {STAGED}"]
)
def test_unfinished_day_is_finished_with_the_staged_rows(mine: Path, command: str) -> None:
    found = ask(command)
    outcome = found[0] if isinstance(found, list) else found
    assert (outcome["state"], ledger_of(outcome)) == ("complete", {"candidates": 60, "scored": 60})
    record = json.loads((mine / f"lake/runs/job=churn/ds=2026-03-07/{outcome['run_id']}.json").read_text())
    assert record["dispositions"]["adopted"] == 60
    assert parts(mine, "churn", "2026-03-07") == {"model_version=v2/part-00000000.parquet": 60}
    total, adopted = published(mine, "2026-03-07", "v2", "round(sum(prob_class_1::DOUBLE), 4), count(DISTINCT run_id)")[
        0
    ]
    assert (total, adopted) == (26.9798, 1)
    assert ask("verify") == []


@pytest.mark.slow
def test_changed_and_new_row_come_to_a_day_only_these_are_scored(mine: Path) -> None:
    rewrite(
        input_file(mine, "unscored/ds=2026-03-03"),
        "SELECT * REPLACE (if(id = 'u010', 45, age) AS age, if(id = 'u010', 16, visits) AS visits, "
        "if(id = 'u010', 100, spend) AS spend) FROM old UNION ALL SELECT 'u999', 60, 10, 100, 'DE'",
    )
    outcome = run("churn", "2026-03-03")
    assert ledger_of(outcome) == {"candidates": 60, "scored": 2, "unchanged": 58}
    columns = "id, revision, reason, round(prob_class_1::DOUBLE, 4)"
    found = published(mine, "2026-03-03", "v2", f"{columns}, run_id = '{outcome['run_id']}' AS ours")
    assert len(found) == 61
    # Computed by hand: 1 / (1 + exp(-2.8 tanh(2))) and 1 / (1 + exp(-1.2 tanh(1))).
    assert [row[:4] for row in found if row[4]] == [("u010", 1, "changed", 0.937), ("u999", 0, "new", 0.7138)]
    assert ask("verify") == []


def test_row_of_a_key_of_two_columns_changes_only_it_is_scored(mine: Path) -> None:
    path = input_file(mine, "input/spend/ds=2026-03-31")
    rewrite(path, "SELECT * REPLACE (if(customer = 1003, 99, age) AS age) FROM old")
    assert ledger_of(run("spend", "2026-03-31")) == {"candidates": 40, "scored": 1, "unchanged": 38, "quarantined": 1}
    told = ask("explain --job spend", "1003,Wedding\\, Nord")["predictions"]
    assert [(each["revision"], each["reason"], each["current"]) for each in told] == [
        (1, "changed", True),
        (0, "new", False),
    ]


@pytest.mark.slow
def test_frozen_run_is_rolled_back_and_run_again_rows_come_back(mine: Path) -> None:
    before = published(mine, "2026-03-03", "v2", "id, revision, reason, prediction, prob_class_1, fingerprint")
    assert ask(f"rollback {OF_V2}")["state"] == "rolled_back"
    assert parts(mine, "churn", "2026-03-03")["model_version=v2/part-00000000.parquet"] == 0
    current = "SELECT model_version, count(*) FROM predictions WHERE job = 'churn' AND ds = '2026-03-03' GROUP BY ALL"
    assert rows(current) == [("v1", 60)]
    assert ask("verify") == []

    assert ledger_of(run("churn", "2026-03-03")) == {"candidates": 59, "scored": 59}
    after = published(mine, "2026-03-03", "v2", "id, revision, reason, prediction, prob_class_1, fingerprint")
    assert [row[:4] for row in after] == [row[:4] for row in before]
    assert [row[4] for row in after] == pytest.approx([row[4] for row in before], abs=1e-6)
    assert [row[5] for row in after] == [row[5] for row in before]
    assert rows(current) == [("v2", 59)]
    assert ask("verify") == []


@pytest.mark.slow
def test_day_with_a_rolled_back_run_is_run_scores_its_rows(mine: Path) -> None:
    assert ledger_of(run("churn", "2026-03-06")) == {"candidates": 61, "scored": 3, "unchanged": 58}
    assert published(mine, "2026-03-06", "v2", "id, revision, reason")[-1] == ("u300", 0, "new")
    assert parts(mine, "churn", "2026-03-06") == {
        "model_version=v2/part-00000000.parquet": 60,
        "model_version=v2/part-00000001.parquet": 0,
        "model_version=v2/part-00000002.parquet": 3,
    }
    assert ask("verify") == []


@pytest.mark.parametrize(
    "expected",
    [
        pytest.param({"churn": 12}, id="one job"),
        pytest.param(
            {"churn": 12, "sensor": 11, "shelf": 1, "spend": 1, "topics": 1}, id="all", marks=pytest.mark.slow
        ),
    ],
)
def test_reports_are_made_again_without_warnings(
    mine: Path, caplog: pytest.LogCaptureFixture, expected: dict[str, int]
) -> None:
    reports = mine / "lake" / "reports"
    shutil.rmtree(reports)
    with caplog.at_level(logging.WARNING):
        made = {job: len(ask(f"report --job {job}")["runs"]) for job in expected}
    assert made == expected
    assert len(list(reports.glob("job=*/ds=*/*.html"))) == sum(expected.values())
    index = (reports / "index.html").read_text("utf-8")
    assert all(f">{job}<" in index for job in ("churn", "sensor", "shelf", "spend", "topics"))
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


COMPARED = {
    "trailing": ("sensor", "2026-03-31", "trailing", {"heat": 1.0984, "value": 1.6219}, 10),
    "training": (
        "churn",
        "2026-03-05",
        "training",
        {"visits": 0.9474, "prob_class_1": 0.515, "prediction": 0.496},
        0,
    ),
    "the model before": ("churn", "2026-03-05", "previous_model", {"prob_class_1": 0.4378, "prediction": 0.5392}, 1),
}


@pytest.mark.parametrize(("job", "ds", "reference", "alarms", "days"), COMPARED.values(), ids=COMPARED)
def test_drift_computed_again_from_stored_profiles_alarms_as_before(
    mine: Path, job: str, ds: str, reference: str, alarms: dict[str, float], days: int
) -> None:
    judged = [each for each in ask(f"drift --job {job} --date {ds}") if each["reference"] == reference]
    found = [each for each in judged if each["outcome"] == "critical"]
    assert {each["column_name"]: round(each["psi"], 4) for each in found} == alarms
    assert {each["reference_days"] for each in found} == {days}


def test_comparison_of_versions_has_the_flips_of_before(mine: Path) -> None:
    found = ask("compare v1 v2 --job churn --date 2026-03-03")
    assert {(row["before"], row["after"]): row["rows"] for row in found["flips"]} == {
        ("0", "0"): 29,
        ("0", "1"): 1,
        ("1", "0"): 1,
        ("1", "1"): 28,
    }
    assert found["summary"]["mean_b"] == pytest.approx(0.487719, abs=1e-6)
    assert Path(found["page"]).is_file()


def test_writer_of_the_lake_refuses_an_existing_folder(tmp_path: Path) -> None:
    from tests.frozen.write import main

    with pytest.raises(SystemExit, match="exists"):
        main(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_keys_withdrawn_from_an_old_day_are_marked_and_return(mine: Path) -> None:
    job = mine / "jobs" / "churn" / "job.toml"
    job.write_text(job.read_text().replace("[policy]", '[policy]\nwithdrawn = "mark"\ncarried_change = "publish"'))
    path = input_file(mine, "unscored/ds=2026-03-06")
    whole, current = path.read_bytes(), "SELECT id FROM predictions WHERE job = 'churn' AND ds = '2026-03-06'"
    rewrite(path, "SELECT * FROM old WHERE id NOT IN ('u000', 'u001')")
    assert ledger_of(run("churn", "2026-03-06")) == {"candidates": 59, "scored": 3, "unchanged": 56}
    marked = {key for (key,) in rows(current)}
    assert len(marked) == 59
    assert not marked & {"u000", "u001"}
    path.write_bytes(whole)
    assert ledger_of(run("churn", "2026-03-06")) == {"candidates": 61, "scored": 2, "unchanged": 59}
    assert {key for (key,) in rows(current)} == marked | {"u000", "u001"}
    found = published(mine, "2026-03-06", "v2", "id, revision, reason")
    assert [row for row in found if row[0] == "u000"] == [
        ("u000", 0, "new"),
        ("u000", 1, "withdrawn"),
        ("u000", 2, "returned"),
    ]
