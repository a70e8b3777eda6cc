"""Means over seeds with Student's t interval.

Seeds are few, so the interval is wide: with 3 of them it is 2.48 standard deviations to each side.
It supposes that runs of other seeds are spread about normally around the same mean.
"""

from __future__ import annotations

from mismatch_lab.findings.edges import record
from mismatch_lab.measures.rows import FloatArray
from mismatch_lab.measures.stats import mean_of_few
from mismatch_lab.schema import EstimateRecord


def mean_over_seeds(values: FloatArray) -> EstimateRecord:
    """Mean and interval of float [S], one value of each seed; see `mean_of_few`."""
    return record(mean_of_few(values))
