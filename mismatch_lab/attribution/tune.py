"""Set a hypothesis's free number to what explains the suspect best."""

from __future__ import annotations

import math
from collections.abc import Callable

from mismatch_lab.attribution.fit import Fit
from mismatch_lab.attribution.hypotheses import Explanation, Hypothesis

Judge = Callable[[Explanation], Fit | None]

WORTH_REFINING = 0.2
"""Share of the error that the best grid value must explain, or share with, to be refined."""

GOLDEN = (math.sqrt(5) - 1) / 2
STEPS = 7
"""Golden-section steps, which cannot fail; then secant steps, which converge fast."""

SECANT_STEPS = 6


def tuned(judge: Judge, before: Explanation, hypothesis: Hypothesis) -> Fit | None:
    """The best fit of `before` and the hypothesis over its free number; None if inapplicable."""
    search = hypothesis.search
    if search is None:
        return judge((*before, hypothesis))
    found: dict[float, Fit] = {}

    def at(value: float) -> float:
        if value not in found:
            result = judge((*before, hypothesis.at(value)))
            if result is None:
                return math.inf
            found[value] = result
        return found[value].residual_nats

    for value in search.grid:
        at(value)
    if not found:
        return None
    best = min(found, key=at)
    hopeful = max(found[best].explained, found[best].shared) >= WORTH_REFINING
    if search.refine != "no" and hopeful:
        low, high = _bracket(sorted(found), best)
        if search.refine == "integer":
            _integers(at, round(low), round(high))
        else:
            _golden(at, low, high, logarithmic=search.refine == "log")
            _secant(at, found, positive=search.refine == "log")
        best = min(found, key=at)
    return found[best]


def _bracket(values: list[float], best: float) -> tuple[float, float]:
    at = values.index(best)
    return values[max(at - 1, 0)], values[min(at + 1, len(values) - 1)]


def _golden(at: Callable[[float], float], low: float, high: float, *, logarithmic: bool) -> None:
    """Golden-section search for a minimum between two values."""
    if logarithmic:
        _golden(lambda x: at(math.exp(x)), math.log(low), math.log(high), logarithmic=False)
        return
    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    for _ in range(STEPS):
        if at(left) < at(right):
            high, right = right, left
            left = high - GOLDEN * (high - low)
        else:
            low, left = left, right
            right = low + GOLDEN * (high - low)


def _secant(at: Callable[[float], float], found: dict[float, Fit], *, positive: bool) -> None:
    """Go to where the predicted change is there at the size predicted: slope 1."""
    for _ in range(SECANT_STEPS if len(found) > 1 else 0):
        best, second = sorted(found, key=at)[:2]
        rise = found[second].slope - found[best].slope
        if rise == 0 or found[best].slope == 1:
            return
        value = best + (1 - found[best].slope) * (second - best) / rise
        if not math.isfinite(value) or (positive and value <= 0) or value in found:
            return
        before = at(best)
        if at(value) >= before:
            return


def _integers(at: Callable[[float], float], low: int, high: int) -> None:
    """Ternary search between two whole numbers."""
    while high - low > 2:
        third = (high - low) // 3 or 1
        if at(low + third) < at(high - third):
            high -= third
        else:
            low += third
    for value in range(low, high + 1):
        at(float(value))
