"""Checking that a model fits a job and its input, and the messages if it does not."""

from __future__ import annotations

import pytest

from pipeline.errors import ModelMismatch, SchemaMismatch
from pipeline.model.manifest import Manifest, Signature
from pipeline.model.schema_check import check_fit
from pipeline.records import now

MANIFEST = Manifest(
    name="churn",
    version="v3",
    digest="0" * 64,
    file="model.pt",
    kind="checkpoint",
    signature=Signature(features=("age", "visits"), classes=(0, 1)),
    registered_at=now(),
)
COLUMNS = {"id": "VARCHAR", "visits": "BIGINT", "age": "DOUBLE", "note": "VARCHAR"}


@pytest.mark.parametrize("features", [None, ["age", "visits"], ["visits", "age"]])
def test_check_fit_all_there_passes(features: list[str] | None) -> None:
    check_fit(MANIFEST, features, COLUMNS, "day.parquet")


@pytest.mark.parametrize(
    ("features", "said", "not_said"),
    [
        (["age"], "needs visits, which the job's features lack", "does not take"),
        (["age", "visits", "zip"], "include zip, which model churn v3 does not take", "lack"),
        (["age", "visit"], "lack; the job's features include visit (did you mean 'visits'?), which", "age,"),
        ([], "needs age, visits, which", "does not take"),
    ],
)
def test_check_fit_other_features_names_both_sides(features: list[str], said: str, not_said: str) -> None:
    with pytest.raises(ModelMismatch) as caught:
        check_fit(MANIFEST, features, COLUMNS, "day.parquet")
    assert said in caught.value.what
    assert not_said not in caught.value.what
    assert caught.value.expected == "age, visits"
    assert caught.value.got == (", ".join(features) or "none")


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"id": "VARCHAR", "visits": "BIGINT"}, "no column age"),
        ({"visits": "BIGINT", "AGE": "DOUBLE"}, "no column age (did you mean 'AGE'?)"),
        ({"age": "DOUBLE", "vists": "BIGINT"}, "no column visits (did you mean 'vists'?)"),
        ({"x": "DOUBLE"}, "no column age, visits"),
    ],
)
def test_check_fit_missing_column_names_it_and_what_is_there(columns: dict[str, str], said: str) -> None:
    with pytest.raises(SchemaMismatch) as caught:
        check_fit(MANIFEST, None, columns, "day.parquet")
    assert caught.value.what.endswith(said)
    assert caught.value.where == "day.parquet"
    assert caught.value.got == f"columns {', '.join(columns)}"
    assert "model churn v3: age, visits" in str(caught.value)


@pytest.mark.parametrize(
    "kind",
    ["BOOLEAN", "TINYINT", "UINTEGER", "HUGEINT", "UHUGEINT", "FLOAT", "DOUBLE", "DECIMAL(10,2)", "DECIMAL(4, 1)"],
)
def test_check_fit_number_passes(kind: str) -> None:
    check_fit(MANIFEST, None, {**COLUMNS, "age": kind}, "day.parquet")


@pytest.mark.parametrize(
    "kind",
    ["VARCHAR", "DATE", "TIMESTAMP WITH TIME ZONE", "BLOB", "DOUBLE[]", "DECIMAL(10,2)[]", "STRUCT(a DOUBLE)", "UUID"],
)
def test_check_fit_other_type_is_refused_by_name(kind: str) -> None:
    with pytest.raises(SchemaMismatch) as caught:
        check_fit(MANIFEST, None, {**COLUMNS, "age": kind}, "day.parquet")
    assert caught.value.got == f"age {kind}"
    assert "cast" in str(caught.value.next_step)
