"""Shares as people read them: the percentages add up."""

from __future__ import annotations

from collections.abc import Mapping


def percentages(shares: Mapping[str, float]) -> dict[str, str]:
    """Returns shares, 0 to 1, as percentages with one decimal.

    If the shares add up to 1, so do the percentages: those that lose most by rounding down are rounded up. A share that
    is neither 0 nor 1 may still be written as 0.0% or 100.0%.
    """
    exact = {name: share * 1000 for name, share in shares.items()}
    whole = {name: int(value) for name, value in exact.items()}
    if shares and abs(sum(shares.values()) - 1) < 1e-6:
        by_loss = sorted(exact, key=lambda name: whole[name] - exact[name])
        for name in by_loss[: 1000 - sum(whole.values())]:
            whole[name] += 1
    else:
        whole = {name: round(value) for name, value in exact.items()}
    return {name: f"{value / 10:.1f}%" for name, value in whole.items()}
