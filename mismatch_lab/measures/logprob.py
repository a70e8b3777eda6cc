"""Differences of log-probs: mean delta, mean |delta|, multiplicative error, correlation, top-1.

`delta = logp_train - logp_infer`, in nats, on tokens the engine sampled. The quantiles of |delta|
come from `stats.quantiles_by_row`. `mult_prob_error` is NeMo-RL's token_mult_prob_error
(`loss_functions.py`), the correlation is verl's (`utils/debug/metrics.py`) taken of log-probs.
"""

import numpy as np

from mismatch_lab.measures.rows import (
    AnyFloats,
    AnyInts,
    FloatArray,
    check_matrix_rows,
    position_chunks,
)
from mismatch_lab.measures.stats import Estimate, mean_estimate
from mismatch_lab.measures.sums import DeltaSums

_ROUNDING = 1e-13  # a variance below this share of the mean square is rounding, not variation


def mean_delta(sums: DeltaSums) -> FloatArray:
    """mean(delta), nats: negative where the trainer finds the sampled tokens less likely."""
    return sums.delta / sums.tokens


def abs_delta_mean(sums: DeltaSums) -> FloatArray:
    """mean(|delta|), nats."""
    return sums.abs_delta / sums.tokens


def mult_prob_error(sums: DeltaSums) -> FloatArray:
    """mean(exp(|delta|)): 1 is perfect, 1.05 says probabilities are off by 5 % on average."""
    return sums.mult / sums.tokens


def pearson(sums: DeltaSums) -> FloatArray:
    """Pearson correlation of the two sides' log-probs; NaN if a side does not vary."""
    mean_infer, mean_train = sums.infer / sums.tokens, sums.train / sums.tokens
    square_infer, square_train = sums.infer_squared / sums.tokens, sums.train_squared / sums.tokens
    variance_infer, variance_train = square_infer - mean_infer**2, square_train - mean_train**2
    varies = (variance_infer > _ROUNDING * square_infer) & (
        variance_train > _ROUNDING * square_train
    )
    covariance = sums.infer_train / sums.tokens - mean_infer * mean_train
    scale = np.sqrt(np.where(varies, variance_infer * variance_train, np.nan))
    correlation: FloatArray = np.clip(covariance / scale, -1.0, 1.0)
    return correlation


def top1_agreement(
    probe_logp_infer: AnyFloats, probe_logp_train: AnyFloats, row_ids: AnyInts
) -> Estimate:
    """Share of probe positions at which both sides rank the same token first.

    Args:
        probe_logp_infer: float [P, V], nats. -inf is a value; a position with NaN is dropped.
        probe_logp_train: float [P, V], nats.
        row_ids: int [P], ascending.

    Raises:
        ValueError: shapes or lengths differ.
    """
    check_matrix_rows(row_ids, probe_logp_infer=probe_logp_infer, probe_logp_train=probe_logp_train)
    agree = np.full(len(row_ids), np.nan)
    for part in position_chunks(*probe_logp_infer.shape):
        infer, train = probe_logp_infer[part], probe_logp_train[part]
        # The maximum is NaN if any entry is, and -inf if the position holds no distribution.
        usable = np.isfinite(infer.max(axis=1)) & np.isfinite(train.max(axis=1))
        same = infer.argmax(axis=1) == train.argmax(axis=1)
        agree[part] = np.where(usable, same, np.nan)
    return mean_estimate(agree, row_ids)
