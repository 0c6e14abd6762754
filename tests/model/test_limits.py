"""The size of a slice on a device, which is found on any machine."""

from __future__ import annotations

import pytest

from pipeline.model.heads import SCORES_AT_ONCE, head_of
from pipeline.model.limits import values_of_device
from pipeline.model.manifest import Signature

H100, SMALL = 80 * 10**9, 2 * 10**9
ITEMS = 10_000


@pytest.mark.parametrize(("memory", "threads", "rows"), [(H100, 16, 7_812), (H100, 1, 125_000), (SMALL, 16, 195)])
def test_rankings_slice_follows_the_memory_of_the_device(memory: int, threads: int, rows: int) -> None:
    signature = Signature.model_validate(
        {"features": ["a"], "task": "ranking", "top": 10, "classes": [str(item) for item in range(ITEMS)]}
    )
    values = values_of_device(memory, threads, 2)
    assert head_of(signature, scores_at_once=values).most_rows == rows
    assert head_of(signature).most_rows == SCORES_AT_ONCE // ITEMS
    assert values * 16 * threads * 2 <= memory // 2


def test_slice_is_never_empty() -> None:
    assert values_of_device(1, 16, 2) == 1
