"""Means over seeds with Student's t interval.

Seeds are few, so the interval is wide: with 3 of them it is 2.48 standard deviations to each side.
It supposes that runs of other seeds are spread about normally around the same mean.
"""

from __future__ import annotations

import math

from mismatch_lab.findings.edges import record
from mismatch_lab.measures.rows import FloatArray
from mismatch_lab.measures.stats import mean_of_few
from mismatch_lab.schema import EstimateRecord


def mean_over_seeds(
    values: FloatArray, lowest: float = -math.inf, highest: float = math.inf
) -> EstimateRecord:
    """Mean and interval of float [S], one value of each seed; see `mean_of_few`.

    Args:
        values: of the seeds.
        lowest: that the measure can be; Student's interval knows no bounds and is cut off there.
        highest: likewise.
    """
    found = record(mean_of_few(values))
    low, high = found.ci95
    if math.isnan(low):
        return found
    return found.model_copy(update={"ci95": (max(low, lowest), min(high, highest))})
