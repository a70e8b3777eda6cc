"""How many times the floor an error *typically* is: token by token, not by the mean.

A mean of |delta| is carried by the few tokens on which a policy is undecided. In bfloat16 the
embedded model's floor is 0.0015 nats on average and 1e-6 at the median: an error of 0.002 nats on
every token, a thousand times what rounding does to most of them, is 1.8 times the mean.

So each token's error is divided by the floor's error *of that token*, and the logs of these ratios
are averaged, over each row's tokens and then over rows. Two errors of the same kind have a ratio
with median 1 wherever they are large or small, and the average of its log is 0. Where both are
beneath what log-probs resolve, the ratio is 1: there is nothing to compare.
"""

from __future__ import annotations

from math import exp

import numpy as np

from mismatch_lab.measures.rows import AnyFloats, AnyInts, check_lengths, row_starts, sum_by_row
from mismatch_lab.measures.stats import Estimate
from mismatch_lab.measures.student import mean_interval


def typical_ratio(
    error_per_token: AnyFloats,
    floor_per_token: AnyFloats,
    row_ids: AnyInts,
    resolution_nats: float,
) -> Estimate:
    """Geometric mean of `(error + resolution) / (floor + resolution)`, rows counting alike.

    The interval is Student's over the rows' mean logs. A token counts only if both of its values
    are finite.

    Args:
        error_per_token: float [N], absolute errors in nats.
        floor_per_token: float [N], what precision does to the same tokens.
        row_ids: int [N], ascending.
        resolution_nats: errors much smaller than this count as equal; above 0.

    Returns:
        An estimate without unit: 1 where the error is as large as the floor.

    Raises:
        ValueError: lengths differ, `row_ids` does not ascend, or there is no resolution.
    """
    check_lengths(error_per_token=error_per_token, floor_per_token=floor_per_token, row_ids=row_ids)
    if not resolution_nats > 0:
        raise ValueError(f"resolution_nats must be above 0, got {resolution_nats}")
    valid = np.isfinite(error_per_token) & np.isfinite(floor_per_token)
    n = int(np.count_nonzero(valid))
    if not n:
        return Estimate(float("nan"), 0, len(valid), float("nan"), float("nan"))
    starts = row_starts(row_ids[valid])
    error = error_per_token[valid].astype(np.float64) + resolution_nats
    floor = floor_per_token[valid].astype(np.float64) + resolution_nats
    counts = np.diff(np.append(starts, n))
    row_means = sum_by_row(np.log(error / floor), starts) / counts
    low, high = mean_interval(row_means)
    return Estimate(exp(float(row_means.mean())), n, len(valid) - n, exp(low), exp(high))
