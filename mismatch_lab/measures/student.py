"""Intervals by Student's t over rows: exact for few rows, where resampling them says too little.

Four rows have 35 distinct bootstrap samples; their extremes are what a percentile interval ends at,
however far the truth may lie outside. Student's factor (3.2 for four rows) knows how uncertain a
standard error of four values is.
"""

from __future__ import annotations

import math
from functools import lru_cache
from math import exp, log, sqrt

import numpy as np

from mismatch_lab.measures.rows import FloatArray

CONFIDENCE = 0.95


@lru_cache
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


def mean_interval(row_means: FloatArray) -> tuple[float, float]:
    """95 % interval of the mean of independent rows; NaN with fewer than two.

    Args:
        row_means: float64 [R], one value for each row.
    """
    n = len(row_means)
    if n < 2:
        return float("nan"), float("nan")
    mean = float(row_means.mean())
    half = student_quantile(n - 1) * float(row_means.std(ddof=1)) / sqrt(n)
    return mean - half, mean + half


def ratio_interval(numerators: FloatArray, denominators: FloatArray) -> tuple[float, float]:
    """95 % interval of `sum(numerators) / sum(denominators)`, both positive, on a log scale.

    The standard error of the log is the jackknife's (Tukey 1958): the spread of the ratio with
    each row left out in turn. It is held to what one row that carries everything comes to by linear
    propagation, `sqrt(n / (n - 1))`: beyond that, a log says only that the others are near 0.

    Args:
        numerators: float64 [R], a sum for each row.
        denominators: float64 [R].

    Returns:
        (low, high), NaN with fewer than two rows or where leaving one out leaves nothing.
    """
    n = len(numerators)
    total, over = float(numerators.sum()), float(denominators.sum())
    left, over_left = total - numerators, over - denominators
    # What is left of a sum of which nothing should be left is its rounding.
    least = 1e-12
    if n < 2 or not (left.min() > least * total and over_left.min() > least * over):
        return float("nan"), float("nan")
    logs = np.log(left / over_left)
    spread = float(((logs - logs.mean()) ** 2).sum())
    error = min(sqrt((n - 1) / n * spread), sqrt(n / (n - 1)))
    half = student_quantile(n - 1) * error
    centre = log(total / over)
    return exp(centre - half), exp(centre + half)


def wider(first: tuple[float, float], second: tuple[float, float]) -> tuple[float, float]:
    """The interval that holds both; one of NaN says nothing."""
    return float(np.fmin(first[0], second[0])), float(np.fmax(first[1], second[1]))
