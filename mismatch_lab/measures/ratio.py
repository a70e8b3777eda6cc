"""Importance ratios, ratio = exp(delta): what off-policy corrections would have to correct.

chi2 and the sequence ratios as in verl (`rollout_corr_helper.py`), the effective sample fraction as
Kong 1992; the geometric sequence ratio is the quantity that MLPerf's and NeMo's sequence masks
bound. Exponents are clipped to +-300 nats (`sums.MAX_EXPONENT_NATS`) in place of overflowing: a
value of that size means "at least". The clip is far above verl's +-20, at which chi2 saturates.
"""

import numpy as np

from mismatch_lab.measures.rows import FloatArray
from mismatch_lab.measures.sums import DeltaSums


def chi2_token(sums: DeltaSums) -> FloatArray:
    """mean(ratio^2) - 1: the chi-squared divergence of train from infer, on tokens."""
    return sums.ratio_squared / sums.tokens - 1.0


def ess(sums: DeltaSums) -> FloatArray:
    """(sum w)^2 / (n sum w^2) with w = ratio: share of the tokens that effectively count."""
    # A product of quotients: the square of a sum of clipped ratios stays finite, but only just.
    return np.minimum((sums.ratio / sums.tokens) * (sums.ratio / sums.ratio_squared), 1.0)


def seq_ratio_arithmetic(sums: DeltaSums) -> FloatArray:
    """Mean over sequences of exp(sum of delta): 1 in expectation, and heavy-tailed."""
    return sums.sequence_ratio / sums.sequences


def seq_ratio_geometric(sums: DeltaSums) -> FloatArray:
    """Mean over sequences of exp(mean of delta): the per-token ratio, whatever the length."""
    return sums.sequence_geometric_ratio / sums.sequences


def ratio_outside_share(sums: DeltaSums) -> FloatArray:
    """Share of tokens whose ratio lies outside [0.8, 1.25]."""
    return sums.outside / sums.tokens
