"""The lift of campaigns on the index: those who were sent an export, beside its control group."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.profiles import store
from pipeline.publish.stage import deliver_all
from pipeline.query import views
from pipeline.report import facts, lift, pages
from tests import lakes
from tests.publish.drop import DAYS, Drop
from tests.publish.test_export_sender import withdrawn


@pytest.fixture
def drop(tmp_path: Path) -> Drop:
    made = Drop(tmp_path)
    made.job('holdout = { campaign = "<b>spring</b>", share = 0.5 }')
    return made


def send(drop: Drop, ds: str, *, sent: int, held_out: int, outcome: str = "1") -> str:
    """Sends 400 keys and labels 100 of each group; so many of these have the outcome. Returns the run."""
    record = drop.day(dict.fromkeys(range(400), 0.5), ds)
    assert deliver_all(drop.context, record).error is None
    group = dict(drop.ask(f"SELECT DISTINCT key_text::INTEGER, export_group FROM exports WHERE ds = '{ds}'"))
    keys = {which: [key for key in group if group[key] == which][:100] for which in ("target", "holdout")}
    good = {*keys["target"][:sent], *keys["holdout"][:held_out]}
    known = [*keys["target"], *keys["holdout"]]
    labels = pa.table({"id": known, "label": [outcome if key in good else "stays" for key in known]})
    lakes.write_parquet(drop.root / f"lake/labels/job=churn/ds={ds}/a.parquet", labels)
    measured = {
        "run_id": [record.run_id],
        "class": [outcome],
        "rows": [200],
        "auc": [0.7],
        "mean_score": [0.5],
        "base_rate": [0.5],
    }
    lakes.write_parquet(drop.root / "lake" / store.key("performance", record), pa.table(measured))
    return record.run_id


def found(drop: Drop) -> lift.Campaigns | None:
    return lift.of_job(drop.lake, facts.job_facts(drop.lake, "churn"))


def test_lift_is_of_each_period_newest_first_and_says_what_may_be_chance(drop: Drop) -> None:
    send(drop, DAYS[0], sent=30, held_out=28)
    send(drop, DAYS[1], sent=60, held_out=20)
    campaigns = found(drop)
    assert campaigns is not None
    newer, older = campaigns.lifts
    assert (newer.ds, newer.significant) == (DAYS[1], True)
    assert newer.lift == pytest.approx(0.4)
    assert (older.ds, older.significant) == (DAYS[0], False)
    assert older.lift == pytest.approx(0.02)


def test_exports_of_the_same_people_have_one_lift(drop: Drop) -> None:
    options = 'holdout = { campaign = "x", share = 0.5 }'
    other = f'[[publish]]\nname = "other"\nkind = "export"\nto = "{drop.root}/drop"\nformat = "parquet"\n{options}'
    drop.job(options, more=other)
    send(drop, DAYS[0], sent=60, held_out=20)
    campaigns = found(drop)
    assert campaigns is not None
    assert [each.targets for each in campaigns.lifts] == [("other", "spring")]


def test_outcome_is_the_class_that_the_model_scores(drop: Drop) -> None:
    send(drop, DAYS[0], sent=60, held_out=20, outcome="leaves")
    campaigns = found(drop)
    assert campaigns is not None
    assert campaigns.outcome == "leaves"
    assert campaigns.lifts[0].sent_rate == pytest.approx(0.6)


def test_index_shows_the_lift_with_its_interval_and_escapes_names(drop: Drop) -> None:
    send(drop, DAYS[0], sent=60, held_out=20)
    page = pages.index_page(drop.lake, [facts.job_facts(drop.lake, "churn")])
    for part in ("60.0%", "20.0%", "+40.0 &plusmn; 12.4 points", "beyond chance", "&lt;b&gt;spring&lt;/b&gt;"):
        assert part in page
    assert "<b>spring" not in page


def test_export_that_was_withdrawn_has_no_lift(drop: Drop) -> None:
    run_id = send(drop, DAYS[0], sent=60, held_out=20)
    withdrawn(drop, run_id, DAYS[0])
    campaigns = found(drop)
    assert campaigns is None


def test_index_of_a_job_without_labels_says_nothing_of_campaigns(drop: Drop) -> None:
    drop.send(dict.fromkeys(range(40), 0.5))
    assert found(drop) is None
    assert "Campaigns" not in pages.index_page(drop.lake, [facts.job_facts(drop.lake, "churn")])


def test_only_the_latest_labelled_periods_are_read(drop: Drop, monkeypatch: pytest.MonkeyPatch) -> None:
    for ds in DAYS:
        send(drop, ds, sent=60, held_out=20)
    monkeypatch.setattr(lift, "MOST_PERIODS", 2)
    read: list[str] = []
    create = views.create

    def noted(*arguments: object, **options: object) -> list[str]:
        files = create(*arguments, **options)  # type: ignore[arg-type]
        read.extend(files)
        return files

    monkeypatch.setattr(views, "create", noted)
    campaigns = found(drop)
    assert campaigns is not None
    assert [each.ds for each in campaigns.lifts] == [DAYS[2], DAYS[1]]
    assert read
    assert not [file for file in read if f"ds={DAYS[0]}" in file]
