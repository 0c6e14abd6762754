"""A page of Great Expectations, by its own renderers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from great_expectations.render.renderer import ValidationResultsPageRenderer
from great_expectations.render.view import DefaultJinjaPageView

from pipeline.quality.gx_engine import Finding, suite_result


@cache  # it compiles seventeen templates, as long as everything else takes together
def _view() -> DefaultJinjaPageView:
    return DefaultJinjaPageView()


def page(name: str, run_id: str, findings: Sequence[Finding]) -> str:
    """Returns HTML that still loads scripts and styles from elsewhere: `pages.offline` takes these out."""
    document = ValidationResultsPageRenderer().render(suite_result(name, run_id, findings))
    return str(_view().render(document))
