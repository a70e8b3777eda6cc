"""Student's t: intervals of means over few runs or seeds."""

from __future__ import annotations

import math

import numpy as np

from mismatch_lab.measures.rows import FloatArray
from mismatch_lab.measures.stats import Estimate

CONFIDENCE = 0.95


def mean_of_few(values: FloatArray) -> Estimate:
    """Mean and 95 % interval, `mean ± t(n - 1) s / sqrt(n)`, s the sample's deviation.

    Args:
        values: float64 [S], one of each run; those that are not finite are left out and counted.

    Returns:
        NaN with n = 0 where no value is finite; an interval of NaN where only one is.
    """
    finite = values[np.isfinite(values)]
    n, dropped = len(finite), len(values) - len(finite)
    if n == 0:
        return Estimate(math.nan, 0, dropped, math.nan, math.nan)
    mean, half = float(finite.mean()), math.nan
    if n > 1:
        half = student_quantile(n - 1) * float(finite.std(ddof=1)) / math.sqrt(n)
    return Estimate(mean, n, dropped, mean - half, mean + half)


def student_quantile(dof: int, confidence: float = CONFIDENCE) -> float:
    """The t with `P(|T| <= t) = confidence`, for whole degrees of freedom.

    By bisection of `central_probability` in the angle, to the last bit of a float.

    Raises:
        ValueError: fewer than one degree of freedom.
    """
    if dof < 1:
        raise ValueError(f"{dof} degrees of freedom")
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        if central_probability(middle, dof) < confidence:
            low = middle
        else:
            high = middle
    return math.sqrt(dof) * math.tan((low + high) / 2)


def central_probability(angle: float, dof: int) -> float:
    """`P(|T| <= sqrt(dof) tan(angle))`: Abramowitz and Stegun 26.7.3 (odd) and 26.7.4 (even)."""
    sine, cosine = math.sin(angle), math.cos(angle)
    if dof == 1:
        return 2 * angle / math.pi
    odd = dof % 2
    term = cosine if odd else 1.0
    total = term
    for k in range(2 + odd, dof - 1, 2):
        term *= cosine * cosine * (k - 1) / k
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
