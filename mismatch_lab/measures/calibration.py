"""Are sampled tokens distributed as the engine's reported log-probs say?

If y is drawn from p, then E[log p(y)] = -H(p) and Var[log p(y)] = sum p log^2 p - H^2. Summed over
positions, log p(y) + H has mean 0 and the summed variance as its variance: given what came before,
each term has mean 0, so terms of one sequence are uncorrelated (martingale differences) and z is
standard normal for many positions, without any assumption on dependence.

A raw log-prob reported while sampling at another temperature, or before top-p, makes z large:
positive if the tokens are likelier than they should be (sampling was sharper than reported).
"""

from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

import numpy as np

from mismatch_lab.measures.rows import AnyFloats, FloatArray, check_lengths, position_chunks


@dataclass(frozen=True, slots=True)
class Calibration:
    """Result of the test.

    Attributes:
        z: sum(log p(y) + H) / sqrt(sum Var); NaN if nothing varies or nothing was measured.
        p_value: two-sided, NaN with z.
        mean_excess_nats: mean of log p(y) + H.
        n: positions used.
        n_dropped: positions with a NaN or without a distribution.
        n_impossible: positions whose sampled token has probability 0 by the report. They are not
            in `n`, as no finite z can hold them; a single one disproves the report.
    """

    z: float
    p_value: float
    mean_excess_nats: float
    n: int
    n_dropped: int
    n_impossible: int


def calibration(logp_sampled: AnyFloats, probe_logp: AnyFloats) -> Calibration:
    """z-test of sampled log-probs against the reported distribution.

    Args:
        logp_sampled: float [P], nats, of the token sampled at each probe position.
        probe_logp: float [P, V], the log-probs reported there, over the full vocabulary.

    Raises:
        ValueError: lengths differ, or `probe_logp` is not [P, V].
    """
    if probe_logp.ndim != 2:
        raise ValueError(f"probe_logp must be [P, V], got shape {list(probe_logp.shape)}")
    check_lengths(logp_sampled=logp_sampled, probe_logp=probe_logp)
    entropy, variance = _entropy_and_variance(probe_logp)
    excess = logp_sampled.astype(np.float64) + entropy
    impossible = np.isneginf(logp_sampled) & np.isfinite(entropy)
    kept = np.isfinite(excess)
    n, n_impossible = int(kept.sum()), int(impossible.sum())
    total, total_variance = float(excess[kept].sum()), float(variance[kept].sum())
    z = total / sqrt(total_variance) if total_variance > 0 else float("nan")
    return Calibration(
        z=z,
        p_value=2 * NormalDist().cdf(-abs(z)),
        mean_excess_nats=total / n if n else float("nan"),
        n=n,
        n_dropped=len(excess) - n - n_impossible,
        n_impossible=n_impossible,
    )


def _entropy_and_variance(probe_logp: AnyFloats) -> tuple[FloatArray, FloatArray]:
    """Entropy (nats) and variance of the log-prob at each position: [P, V] -> float64 [P] each."""
    entropy, variance = np.full((2, len(probe_logp)), np.nan)
    for part in position_chunks(*probe_logp.shape):
        logp = probe_logp[part].astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):  # +inf and NaN make the position NaN
            probability = np.exp(logp)
            logp[np.isneginf(logp)] = 0.0  # p log p -> 0
            first = (probability * logp).sum(axis=1)
            # Around the mean: second moment minus squared mean is rounding where p is peaked.
            spread = (probability * (logp - first[:, None]) ** 2).sum(axis=1)
        usable = probability.sum(axis=1) > 0
        entropy[part] = np.where(usable, -first, np.nan)
        variance[part] = np.where(usable, spread, np.nan)
    return entropy, variance
