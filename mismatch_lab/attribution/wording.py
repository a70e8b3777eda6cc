"""Numbers in the words of a verdict."""

from __future__ import annotations

import math

from mismatch_lab.schema import EstimateRecord


def number(estimate: EstimateRecord) -> str:
    """With its interval, where there is one."""
    low, high = estimate.ci95
    if not (math.isfinite(low) and math.isfinite(high)):
        return figure(estimate.value)
    return f"{figure(estimate.value)} [{figure(low)}, {figure(high)}]"


def figure(value: float) -> str:
    """Three figures, without an exponent where people would write none."""
    return f"{value:.0f}" if 100 <= abs(value) < 1e6 else f"{value:.3g}"
