"""Named queries as table macros of `lake.duckdb`, for a client that knows nothing of Lakescore."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from pipeline.database import sql_files
from pipeline.database.connection import connect
from pipeline.query import views
from pipeline.query.catalog import write_catalog
from pipeline.query.running import bind_parameters, parameters_of
from tests.docs import documented

NEEDED = {"from": documented.DAYS[0], "to": documented.DAYS[1], "ds": documented.DAYS[0], "key": "user_0007"}
MORE = {"top_scores": {"rows": "3"}, "volume_anomalies": {"factor": "1.5"}, "class_trend": {"job": "churn"}}
OF_TASKS = {"error_trend", "rank_trend", "value_distribution", "label_distribution", "item_distribution", "rankings"}
WITHOUT_ROWS = {"campaign_lift", "drift_trend", "profile_trend", "performance_trend"}
"""Neither lake has labels of classes, profiles or exports."""


@pytest.mark.parametrize("make", [documented.example_lake, documented.example_lake_of_tasks])
def test_macros_give_the_rows_of_the_named_queries(tmp_path: Path, make: documented.Make) -> None:
    lake = make(tmp_path / "lake")
    with duckdb.connect(str(write_catalog(lake)), read_only=True) as client, connect() as ours:
        client.execute("SET TimeZone = 'UTC'")
        views.create(ours, lake)
        for name, query in sql_files.named().items():
            if (name in OF_TASKS) != (make is documented.example_lake_of_tasks):
                continue
            needed = {each: NEEDED[each] for each, its in parameters_of(query).items() if its.default is None}
            given = needed | MORE.get(name, {})
            expected = ours.sql(query.text, params=bind_parameters(query, given) or None).fetchall()
            arguments = ", ".join(f"{each}_ := ${each}" for each in given)
            found = client.sql(f"FROM {name}({arguments})", params=given or None).fetchall()
            assert list(map(str, found)) == list(map(str, expected)), name
            assert bool(found) != (name in WITHOUT_ROWS), name
