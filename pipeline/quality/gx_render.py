"""A page of Great Expectations, by its own renderers."""

from __future__ import annotations

from collections.abc import Sequence

from great_expectations.render.renderer import ValidationResultsPageRenderer
from great_expectations.render.view import DefaultJinjaPageView

from pipeline.quality.gx_engine import Finding, suite_result


def page(name: str, run_id: str, findings: Sequence[Finding]) -> str:
    """Returns HTML that still loads scripts and styles from elsewhere: `pages.offline` takes these out."""
    document = ValidationResultsPageRenderer().render(suite_result(name, run_id, findings))
    return str(DefaultJinjaPageView().render(document))
