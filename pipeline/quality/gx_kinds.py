"""Two expectations that Great Expectations lacks, built on its classes, so that suites support them.

`expect_column_values_to_be_finite`: NaN passes "not null" and ">= 0" in a database. `expect_rows_to_be_distinct`: the
`expect_compound_columns_to_be_unique` of Great Expectations joins on equality in SQL, so it misses copies that contain
a NULL, and it also counts the first row of each key. This one counts only the surplus copies, with NULL equal to NULL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import sqlalchemy as sa
from great_expectations.core.metric_domain_types import MetricDomainTypes
from great_expectations.core.metric_function_types import MetricPartialFunctionTypes
from great_expectations.execution_engine import ExecutionEngine, PandasExecutionEngine, SqlAlchemyExecutionEngine
from great_expectations.expectations.expectation import BatchExpectation, ColumnMapExpectation
from great_expectations.expectations.metrics.map_metric_provider import (
    ColumnMapMetricProvider,
    column_condition_partial,
)
from great_expectations.expectations.metrics.metric_provider import metric_partial, metric_value
from great_expectations.expectations.metrics.table_metric_provider import TableMetricProvider


class ColumnValuesFinite(ColumnMapMetricProvider):
    condition_metric_name = "column_values.finite"

    @column_condition_partial(engine=PandasExecutionEngine)
    def _pandas(cls, column: Any, **_: Any) -> Any:  # noqa: N805 - Great Expectations calls it with the class
        return np.isfinite(column.astype("float64"))

    @column_condition_partial(engine=SqlAlchemyExecutionEngine)
    def _sqlalchemy(cls, column: Any, **_: Any) -> Any:  # noqa: N805
        return sa.func.isfinite(sa.cast(column, sa.Double), type_=sa.Boolean)


class ExpectColumnValuesToBeFinite(ColumnMapExpectation):
    """Expect the column's values to be neither NaN nor infinite."""

    map_metric: ClassVar[str] = "column_values.finite"


class TableSurplusCopies(TableMetricProvider):
    metric_name = "table.surplus_copies"
    value_keys = ("column_list",)

    @metric_value(engine=PandasExecutionEngine)
    def _pandas(
        cls,  # noqa: N805
        execution_engine: Any,
        metric_domain_kwargs: Any,
        metric_value_kwargs: Any,
        **_: Any,
    ) -> int:
        rows, _, _ = execution_engine.get_compute_domain(metric_domain_kwargs, domain_type=MetricDomainTypes.TABLE)
        return int(rows.duplicated(subset=list(metric_value_kwargs["column_list"])).sum())

    @metric_partial(
        engine=SqlAlchemyExecutionEngine,
        partial_fn_type=MetricPartialFunctionTypes.AGGREGATE_FN,
        domain_type=MetricDomainTypes.TABLE,
    )
    def _sqlalchemy(
        cls,  # noqa: N805
        execution_engine: Any,
        metric_domain_kwargs: Any,
        metric_value_kwargs: Any,
        **_: Any,
    ) -> Any:
        row = sa.func.row(*map(sa.column, metric_value_kwargs["column_list"]))
        return sa.func.count() - sa.func.count(sa.distinct(row)), metric_domain_kwargs, {}


class ExpectRowsToBeDistinct(BatchExpectation):
    """Expect no two rows to have equal values in all columns of `column_list`."""

    column_list: Sequence[str]
    metric_dependencies = ("table.surplus_copies", "table.row_count")
    success_keys: ClassVar[tuple[str, ...]] = ("column_list",)
    args_keys: ClassVar[tuple[str, ...]] = ("column_list",)

    def _validate(
        self,
        metrics: Mapping[str, Any],
        runtime_configuration: dict[str, Any] | None = None,
        execution_engine: ExecutionEngine | None = None,
    ) -> dict[str, Any]:
        copies, rows = int(metrics["table.surplus_copies"]), int(metrics["table.row_count"])
        return {
            "success": copies == 0,
            "result": {
                "observed_value": copies,
                "element_count": rows,
                "unexpected_count": copies,
                "unexpected_percent": 100 * copies / rows if rows else 0.0,
            },
        }
