"""A series in one line of characters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII = "_.-~=+*#"
"""Where blocks cannot be shown; as many levels."""
GAP = " "
LOG_RATIO = 10.0
"""Largest over smallest from which on a log scale is used where it is allowed."""

ALIKE = 1e-3
"""Relative."""


def sparkline(values: Sequence[float], width: int, log: bool = False, levels: str = BLOCKS) -> str:
    """At most `width` characters from the lowest level (the smallest value) to the highest.

    Longer series are cut into `width` parts of nearly equal length, each the mean of its finite
    values. What has none is a gap. Where all are the same to three digits, as numbers are shown
    beside it, they are of a middle level: noise is not drawn as if it were a change.

    Args:
        values: in order; NaN where there is none.
        width: characters, at least 1.
        log: a log scale, where positive values span more than `LOG_RATIO`; others are the lowest.
        levels: a character each, lowest first.
    """
    points = _resampled(values, width)
    if log:
        points = _on_log_scale(points)
    finite = [point for point in points if math.isfinite(point)]
    low, high = min(finite, default=math.nan), max(finite, default=math.nan)

    def character(point: float) -> str:
        if not math.isfinite(point):
            return GAP
        if high - low <= ALIKE * max(abs(low), abs(high)):
            return levels[len(levels) // 2 - 1]
        share = (point - low) / (high - low)
        return levels[min(int(share * len(levels)), len(levels) - 1)]

    return "".join(map(character, points))


def _resampled(values: Sequence[float], width: int) -> list[float]:
    parts = min(len(values), width)
    edges = [index * len(values) // parts for index in range(parts + 1)] if parts else []
    return [_mean(values[low:high]) for low, high in pairwise(edges)]


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan


def _on_log_scale(points: list[float]) -> list[float]:
    positive = [point for point in points if math.isfinite(point) and point > 0]
    if not positive or max(positive) <= LOG_RATIO * min(positive):
        return points
    least = min(positive)
    return [math.log(max(p, least)) if math.isfinite(p) else math.nan for p in points]
