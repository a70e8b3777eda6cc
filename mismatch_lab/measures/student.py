"""Intervals by Student's t over rows: exact for few rows, where resampling them says too little.

Four rows have 35 distinct bootstrap samples; their extremes are what a percentile interval ends at,
however far the truth may lie outside. Student's factor (3.2 for four rows) knows how uncertain a
standard error of four values is.
"""

from __future__ import annotations

from math import exp, log, pi, sqrt, tan
from statistics import NormalDist

import numpy as np

from mismatch_lab.measures.rows import FloatArray

CONFIDENCE = 0.95


def student_quantile(dof: int) -> float:
    """Upper 2.5 % point of Student's t: exact for one and two degrees of freedom, then by
    Abramowitz and Stegun 26.7.5, within 0.01.
    """
    upper = 0.5 + CONFIDENCE / 2
    if dof == 1:
        return tan(pi * (upper - 0.5))
    if dof == 2:
        return (2 * upper - 1) * sqrt(2 / (4 * upper * (1 - upper)))
    z = NormalDist().inv_cdf(upper)
    return (
        z
        + (z**3 + z) / (4 * dof)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * dof**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * dof**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * dof**4)
    )


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
