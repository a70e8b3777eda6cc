"""Cluster bootstrap: 95 % intervals that respect that tokens of one sequence are not independent.

Whole sequences are drawn with replacement (Field and Welsh 2007, "Bootstrapping clustered data",
JRSS B 69:369-390; Cameron, Gelbach and Miller 2008, Rev. Econ. Stat. 90:414-427). A measure that is
a function of sums needs only the per-row sums: one replicate is one row of a matrix of draw counts
times the per-row sums, so 10 million tokens cost no more than their rows.

Beyond MAX_CLUSTERS rows, neighbouring rows are pooled into blocks of equal size, which are then the
units drawn. Independent rows stay independent when pooled, and several samples of one prompt, which
usually lie side by side, mostly land in one block.

Percentile intervals of few clusters are too short; the tails are widened as in the expanded
percentile interval (Hesterberg 2015, Am. Stat. 69:371-386). Simulated coverage of a mean of
correlated normal tokens: 87 % with 4 rows, 94 to 96 % from 8 rows on. Intervals of heavy-tailed
measures (chi2, sequence ratios) still cover less: a tail never sampled widens nothing.
"""

from math import sqrt
from statistics import NormalDist

import numpy as np

from mismatch_lab.measures.rows import FloatArray
from mismatch_lab.measures.student import ratio_interval, student_quantile, wider

REPLICATES = 1000
MAX_CLUSTERS = 2048
SEED = 20_251_123


def resample_totals(per_row: FloatArray) -> FloatArray:
    """Totals of bootstrap samples of whole rows.

    The seed is fixed: the same input gives the same intervals, and two calls with the same number
    of rows draw the same rows, so their replicates are paired.

    Args:
        per_row: float64 [R, K], sums over each row's tokens.

    Returns:
        float64 [REPLICATES, K]; NaN throughout where R is 0.
    """
    if len(per_row) == 0:
        return np.full((REPLICATES, per_row.shape[1]), np.nan)
    clusters = _pool(per_row)
    n = len(clusters)
    drawn = np.random.default_rng(SEED).integers(0, n, size=(REPLICATES, n))
    drawn += np.arange(REPLICATES)[:, None] * n
    counts = np.bincount(drawn.ravel(), minlength=REPLICATES * n).reshape(REPLICATES, n)
    totals: FloatArray = counts.astype(np.float64) @ clusters
    return totals


def interval(replicates: FloatArray, n_rows: int) -> tuple[float, float]:
    """95 % interval from bootstrap replicates.

    Args:
        replicates: float64 [REPLICATES]; NaN where a replicate drew no data, which is left out.
        n_rows: rows that hold data; fewer than two carry no information on their spread.

    Returns:
        (low, high), NaN if `n_rows` is under two or no replicate has a value.
    """
    drawn = replicates[~np.isnan(replicates)]
    if n_rows < 2 or drawn.size == 0:
        return float("nan"), float("nan")
    tail = expanded_tail(min(n_rows, MAX_CLUSTERS))
    low = np.quantile(drawn, tail, method="lower")
    high = np.quantile(drawn, 1 - tail, method="higher")
    return float(low), float(high)


def interval_of_ratio(
    replicates: FloatArray, numerators: FloatArray, denominators: FloatArray
) -> tuple[float, float]:
    """95 % interval of a ratio of sums over rows: the wider of the bootstrap's and Student's.

    Simulated with log-normal rows (deviation of the log 1 in numerator and denominator, correlated
    0.5; 1500 runs), the lower end of a ratio lies above the truth in 2.5 % with 4, 6 or 8 rows and
    2.3 % with 32; the bootstrap's alone in 5.5 % with 4, Student's alone in 4.7 % with 6. The upper
    end of a *mean* of such rows lies below it in 9 to 11 % up to 16 rows (bootstrap alone: 23 to
    13 %), 4 to 6 % where the deviation is 0.5: no interval knows of a tail that was not sampled.

    Args:
        replicates: float64 [REPLICATES], of the ratio; NaN where a replicate drew no data.
        numerators: float64 [R], a sum for each row.
        denominators: float64 [R]; 0 where a row holds no data.
    """
    held = denominators > 0
    n_rows = int(np.count_nonzero(held))
    drawn = interval(replicates, n_rows)
    if n_rows > MAX_CLUSTERS or not (numerators >= 0).all():
        return drawn
    return wider(drawn, ratio_interval(numerators[held], denominators[held]))


def expanded_tail(n_clusters: int) -> float:
    """Probability left out on each side so that a percentile interval has Student's width.

    `Phi(-sqrt(n / (n - 1)) * t)` with t the upper quantile of Student's distribution with n - 1
    degrees of freedom (Hesterberg 2015, section 3.3). Tends to 0.025 as n grows.
    """
    inflation = sqrt(n_clusters / (n_clusters - 1))
    return NormalDist().cdf(-inflation * student_quantile(n_clusters - 1))


def _pool(per_row: FloatArray) -> FloatArray:
    """Add up neighbouring rows until at most MAX_CLUSTERS blocks of equal size are left."""
    block = -(-len(per_row) // MAX_CLUSTERS)
    if block == 1:
        return per_row
    pooled: FloatArray = np.add.reduceat(per_row, np.arange(0, len(per_row), block), axis=0)
    return pooled
