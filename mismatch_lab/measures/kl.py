"""KL(infer || train): three estimators on sampled tokens, and exact at probe positions.

The samples come from the engine, so the estimators are of KL(infer || train) and of nothing else:
applied the other way round, one token at -15 on one side outweighs a whole batch.

k1, k2, k3 follow Schulman 2020, "Approximating KL divergence" (joschu.net/blog/kl-approx.html),
with delta = logp_train - logp_infer. k1 and k3 are unbiased; k1 can be negative; k2 is biased but
of low variance; k3 is never negative and is what NeMo-RL (gen_kl) and prime-rl (mismatch_kl) show.
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


def kl_infer_train_k1(sums: DeltaSums) -> FloatArray:
    """mean(-delta), nats per token."""
    return -sums.delta / sums.tokens


def kl_infer_train_k2(sums: DeltaSums) -> FloatArray:
    """mean(delta^2 / 2), nats per token."""
    return sums.delta_squared / (2.0 * sums.tokens)


def kl_infer_train_k3(sums: DeltaSums) -> FloatArray:
    """mean(ratio - 1 - delta), nats per token; exp(delta) is clipped at exp(300)."""
    return sums.k3 / sums.tokens


def kl_infer_train_exact(
    probe_logp_infer: AnyFloats, probe_logp_train: AnyFloats, row_ids: AnyInts
) -> Estimate:
    """Mean over probe positions of the exact KL(infer || train), nats per position.

    Args:
        probe_logp_infer: float [P, V], log-probs over the full vocabulary.
        probe_logp_train: float [P, V].
        row_ids: int [P], ascending.

    Returns:
        The mean over positions where the divergence is finite. See `exact_kl_per_position` for
        those where it is not; they are in `n_dropped`.

    Raises:
        ValueError: shapes or lengths differ.
    """
    check_matrix_rows(row_ids, probe_logp_infer=probe_logp_infer, probe_logp_train=probe_logp_train)
    return mean_estimate(exact_kl_per_position(probe_logp_infer, probe_logp_train), row_ids)


def exact_kl_per_position(probe_logp_infer: AnyFloats, probe_logp_train: AnyFloats) -> FloatArray:
    """Sum over v of p_infer (logp_infer - logp_train), at each position: [P, V] -> float64 [P].

    A token the engine rules out (-inf) adds nothing. One that only the trainer rules out makes the
    divergence infinite. A position with NaN, or with no probability at all, is NaN. Rows are not
    renormalised: log-probs that do not sum to one are a finding, not something to repair.
    """
    result = np.full(len(probe_logp_infer), np.nan)
    for part in position_chunks(*probe_logp_infer.shape):
        infer = probe_logp_infer[part].astype(np.float64)
        train = probe_logp_train[part].astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            probability = np.exp(infer)
            terms = probability * (infer - train)
        terms[np.isneginf(infer) & ~np.isnan(train)] = 0.0
        with np.errstate(invalid="ignore"):
            divergence = terms.sum(axis=1)
        result[part] = np.where(probability.sum(axis=1) > 0, divergence, np.nan)
    return result
