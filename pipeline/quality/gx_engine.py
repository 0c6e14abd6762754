"""Runs rules through Great Expectations over a DuckDB view: the database does the counting.

There is no data context, and so no store, no configuration on disk and no analytics requests. This module takes three
seconds to import: `evaluating.py` knows where and when.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

os.environ["GX_ANALYTICS_ENABLED"] = "false"  # before the import: its settings read the environment once
os.environ.setdefault("TQDM_DISABLE", "1")
# Great Expectations imports pyspark if it is installed, which takes CPU time and memory that nothing here needs.
_HIDE_SPARK = "pyspark" not in sys.modules
if _HIDE_SPARK:
    sys.modules["pyspark"] = None  # type: ignore[assignment]

from great_expectations.core.batch import Batch
from great_expectations.core.batch_spec import SqlAlchemyDatasourceBatchSpec
from great_expectations.execution_engine import ExecutionEngine, SqlAlchemyExecutionEngine
from great_expectations.expectations.expectation_configuration import ExpectationConfiguration
from great_expectations.validator.validator import Validator

from pipeline.errors import JobError
from pipeline.quality import gx_kinds as gx_kinds  # noqa: PLC0414 - importing it registers its expectations
from pipeline.quality.finding import Finding
from pipeline.quality.gx_dialect import Connection, engine
from pipeline.records import Rule
from pipeline.suite.in_words import number

if _HIDE_SPARK:
    del sys.modules["pyspark"]

logging.getLogger("great_expectations").setLevel(logging.ERROR)

COUNTS_ONLY = {"result_format": "BASIC", "partial_unexpected_count": 0}
OF_COLUMNS = ("expect_table_columns_", "expect_table_column_")
"""Expectations whose observed value has names of columns, not values of rows."""
EXAMPLES = 20
WITH_SAMPLES = {"result_format": "SUMMARY", "partial_unexpected_count": EXAMPLES}


class _Validator(Validator):
    def _determine_progress_bars(self) -> bool:
        return False


def evaluate(con: Connection, view: str, rules: Sequence[Rule], *, samples: bool = False) -> list[Finding]:
    """Evaluates rules over a view of an open connection. An expectation that raises becomes a finding with an error."""
    execution = SqlAlchemyExecutionEngine(engine=engine(con), create_temp_table=False)
    data, _ = execution.get_batch_data_and_markers(
        SqlAlchemyDatasourceBatchSpec(table_name=view, create_temp_table=False)
    )
    return judge(execution, Batch(data=data), rules, samples=samples)


def check(rules: Iterable[Rule], where: object) -> None:
    """Raises JobError for the first rule that Great Expectations itself rejects."""
    for rule in rules:
        try:
            _configuration(rule).to_domain_obj()
        except Exception as error:  # noqa: BLE001 - its own errors, and those of two releases of pydantic
            raise JobError(
                f"Great Expectations rejects {rule.name}", where=where, got=str(error).splitlines()[-1]
            ) from None


def judge(execution: ExecutionEngine, batch: Batch, rules: Sequence[Rule], *, samples: bool = False) -> list[Finding]:
    """Like `evaluate`, on any engine of Great Expectations: the tests compare DuckDB with pandas."""
    validator = _Validator(execution_engine=execution, batches=[batch], include_rendered_content=False)
    results = validator.graph_validate(
        configurations=[_configuration(rule) for rule in rules],
        runtime_configuration={"result_format": dict(WITH_SAMPLES if samples else COUNTS_ONLY)},
    )
    by_name = {result.expectation_config.meta["name"]: result for result in results}
    return [_finding(rule, by_name[rule.name], samples=samples) for rule in rules]


def _configuration(rule: Rule) -> ExpectationConfiguration:
    return ExpectationConfiguration(
        type=rule.type, kwargs=dict(rule.kwargs), meta={"name": rule.name}, severity=rule.severity.value
    )


def _finding(rule: Rule, result: Any, *, samples: bool) -> Finding:
    details = result.result or {}
    percent, count = details.get("unexpected_percent"), details.get("unexpected_count")
    observed = details.get("observed_value")
    if rule.type == "unexpected_rows_expectation":
        count = observed
    elif percent is None:  # then it is no number of rows
        count = None
    samples_of_columns = samples or rule.type.startswith(OF_COLUMNS)
    return Finding(
        rule=rule,
        success=bool(result.success),
        observed=None if observed == count else _observed(observed, samples=samples_of_columns),
        unexpected=count,
        share=None if percent is None else percent / 100,
        error=_error(result.exception_info or {}),
        examples=_examples(details) if samples else (),
    )


def _observed(value: Any, *, samples: bool) -> str | None:
    """Returns an observed value as text; of a set of values, which are those of rows, only the number."""
    if isinstance(value, float):
        return f"{value:,.10g}"
    if isinstance(value, dict) and value.keys() == {"quantiles", "values"}:
        found = zip(value["quantiles"], value["values"], strict=True)
        return ", ".join(f"{share:.6g} quantile {number(each)}" for share, each in found)
    if isinstance(value, list | tuple | set | dict) and not samples:
        return f"{len(value):,} different values"
    if isinstance(value, list | tuple | set):
        shown = [str(each) for each in value][:EXAMPLES]
        return ", ".join(shown) + (f" and {len(value) - EXAMPLES:,} more" if len(value) > EXAMPLES else "")
    return None if value is None else str(value)


def _examples(details: Mapping[str, Any]) -> tuple[str, ...]:
    found = details.get("partial_unexpected_list") or []
    return tuple(dict.fromkeys(str(each) for each in found))


def _error(info: dict[str, Any]) -> str | None:
    """Returns the message of an exception, or None. `info` describes one exception, or several by metric."""
    for entry in (info, *(value for value in info.values() if isinstance(value, dict))):
        if entry.get("raised_exception"):
            return str(entry.get("exception_message"))
    return None
