"""Are sampled tokens distributed as the engine's reported log-probs say?

If y is drawn from p, then E[log p(y)] = -H(p) and Var[log p(y)] = sum p log^2 p - H^2. Summed over
tokens, log p(y) + H has mean 0 and the summed variance as its variance: given what came before,
each term has mean 0, so terms of one sequence are uncorrelated (martingale differences) and z is
standard normal for many tokens, without any assumption on dependence.

A raw log-prob reported while sampling at another temperature, or before top-p, makes z large:
positive if the tokens are likelier than they should be (sampling was sharper than reported).
"""

from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

import numpy as np

from mismatch_lab.measures.rows import AnyFloats, check_lengths


@dataclass(frozen=True, slots=True)
class Calibration:
    """Result of the test.

    Attributes:
        z: sum(log p(y) + H) / sqrt(sum Var); NaN if nothing varies or nothing was measured.
        p_value: two-sided, NaN with z.
        mean_excess_nats: mean of log p(y) + H.
        n: tokens used.
        n_dropped: tokens with a NaN or without a distribution.
        n_impossible: tokens that have probability 0 by the report. They are not in `n`, as no
            finite z can hold them; a single one disproves the report.
    """

    z: float
    p_value: float
    mean_excess_nats: float
    n: int
    n_dropped: int
    n_impossible: int


def calibration(logp_sampled: AnyFloats, entropy: AnyFloats, variance: AnyFloats) -> Calibration:
    """z-test of sampled log-probs against the reported distributions.

    Args:
        logp_sampled: float [N], nats, of each sampled token.
        entropy: float [N], nats, of the distribution it was drawn from; NaN where there is none.
        variance: float [N], of the log-prob under that distribution.

    Raises:
        ValueError: lengths differ.
    """
    check_lengths(logp_sampled=logp_sampled, entropy=entropy, variance=variance)
    excess = logp_sampled.astype(np.float64) + entropy
    impossible = np.isneginf(logp_sampled)
    kept = np.isfinite(excess)
    n, n_impossible = int(kept.sum()), int(impossible.sum())
    total = float(excess[kept].sum())
    total_variance = float(variance[kept].astype(np.float64).sum())
    z = total / sqrt(total_variance) if total_variance > 0 else float("nan")
    return Calibration(
        z=z,
        p_value=2 * NormalDist().cdf(-abs(z)),
        mean_excess_nats=total / n if n else float("nan"),
        n=n,
        n_dropped=len(excess) - n - n_impossible,
        n_impossible=n_impossible,
    )
