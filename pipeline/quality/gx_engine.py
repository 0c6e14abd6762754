"""Runs rules through Great Expectations, inside DuckDB over a view: no row leaves the database.

Without a data context: no store, no configuration on the disk, and no analytics, which would call home. This module
takes four to five seconds to import, so whoever uses it does so where it is needed.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

os.environ["GX_ANALYTICS_ENABLED"] = "false"  # before the import: its settings read the environment once
os.environ.setdefault("TQDM_DISABLE", "1")
# It imports pyspark if that is there, which beside pandas 3 ends the process: with exit code 0, as if all were well.
_HIDE_SPARK = "pyspark" not in sys.modules
if _HIDE_SPARK:
    sys.modules["pyspark"] = None  # type: ignore[assignment]

import great_expectations as gx
from great_expectations.core.batch import Batch
from great_expectations.core.batch_spec import SqlAlchemyDatasourceBatchSpec
from great_expectations.core.expectation_validation_result import ExpectationSuiteValidationResult
from great_expectations.core.run_identifier import RunIdentifier
from great_expectations.execution_engine import ExecutionEngine, SqlAlchemyExecutionEngine
from great_expectations.expectations.expectation_configuration import ExpectationConfiguration
from great_expectations.validator.validator import Validator

from pipeline.errors import JobError
from pipeline.quality import gx_kinds as gx_kinds  # noqa: PLC0414 - importing it registers its expectations
from pipeline.quality.gx_dialect import engine
from pipeline.records import Rule

if _HIDE_SPARK:
    del sys.modules["pyspark"]

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

logging.getLogger("great_expectations").setLevel(logging.ERROR)

COUNTS_ONLY = {"result_format": "BASIC", "partial_unexpected_count": 0}
WITH_SAMPLES = {"result_format": "SUMMARY", "partial_unexpected_count": 20}


@dataclass(frozen=True)
class Finding:
    """What Great Expectations says of one rule."""

    rule: Rule
    success: bool
    observed: str | None
    unexpected: int | None
    share: float | None
    error: str | None
    """The message of an expectation that raised."""
    raw: Any
    """Its ExpectationValidationResult."""


class _Validator(Validator):
    def _determine_progress_bars(self) -> bool:
        return False


def evaluate(con: Connection, view: str, rules: Sequence[Rule], *, samples: bool = False) -> list[Finding]:
    """Judges a view of an open connection. An expectation that raises is a finding with an error."""
    execution = SqlAlchemyExecutionEngine(engine=engine(con), create_temp_table=False)
    data, _ = execution.get_batch_data_and_markers(
        SqlAlchemyDatasourceBatchSpec(table_name=view, create_temp_table=False)
    )
    return judge(execution, Batch(data=data), rules, samples=samples)


def check(rules: Iterable[Rule], where: object) -> None:
    """Raises JobError for the first rule that Great Expectations itself does not take."""
    for rule in rules:
        try:
            _configuration(rule).to_domain_obj()
        except Exception as error:  # noqa: BLE001 - its own, and those of two releases of pydantic
            raise JobError(
                f"Great Expectations does not take {rule.name}", where=where, got=str(error).splitlines()[-1]
            ) from None


def judge(execution: ExecutionEngine, batch: Batch, rules: Sequence[Rule], *, samples: bool = False) -> list[Finding]:
    """As `evaluate`, on any engine of Great Expectations: the tests compare DuckDB with pandas."""
    validator = _Validator(execution_engine=execution, batches=[batch], include_rendered_content=False)
    results = validator.graph_validate(
        configurations=[_configuration(rule) for rule in rules],
        runtime_configuration={"result_format": dict(WITH_SAMPLES if samples else COUNTS_ONLY)},
    )
    by_name = {result.expectation_config.meta["name"]: result for result in results}
    return [_finding(rule, by_name[rule.name]) for rule in rules]


def suite_result(name: str, run_id: str, findings: Iterable[Finding]) -> ExpectationSuiteValidationResult:
    """Puts findings together as Great Expectations does, for its own renderers."""
    found = list(findings)
    passed = sum(finding.success for finding in found)
    return ExpectationSuiteValidationResult(
        results=[finding.raw for finding in found],
        success=passed == len(found),
        suite_name=name,
        statistics={
            "evaluated_expectations": len(found),
            "successful_expectations": passed,
            "unsuccessful_expectations": len(found) - passed,
            "success_percent": 100 * passed / len(found) if found else 100.0,
        },
        meta={
            "great_expectations_version": gx.__version__,
            "run_id": RunIdentifier(run_name=run_id),
            "batch_spec": {},
            "batch_markers": {},
            "active_batch_definition": {},
        },
        batch_id=run_id,
    )


def _configuration(rule: Rule) -> ExpectationConfiguration:
    return ExpectationConfiguration(
        type=rule.type, kwargs=dict(rule.kwargs), meta={"name": rule.name}, severity=rule.severity.value
    )


def _finding(rule: Rule, result: Any) -> Finding:
    details = result.result or {}
    observed = details.get("observed_value")
    percent = details.get("unexpected_percent")
    return Finding(
        rule=rule,
        success=bool(result.success),
        observed=None if observed is None else str(observed),
        unexpected=details.get("unexpected_count"),
        share=None if percent is None else percent / 100,
        error=_error(result.exception_info or {}),
        raw=result,
    )


def _error(info: dict[str, Any]) -> str | None:
    """Returns the message of an exception; the information is of one, or of several by metric."""
    for entry in (info, *(value for value in info.values() if isinstance(value, dict))):
        if entry.get("raised_exception"):
            return str(entry.get("exception_message"))
    return None
