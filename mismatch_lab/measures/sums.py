"""The additive sums from which every measure of an edge is computed.

Each measure in `logprob`, `kl` and `ratio` is a function of `DeltaSums`. Because sums add up, one
definition serves all uses: a table of per-row sums (for the bootstrap), its replicates, the totals,
and the running state of a live monitor. Every term of a dropped token is 0.
"""

from dataclasses import dataclass, fields
from math import log

import numpy as np

from mismatch_lab.measures.rows import (
    AnyFloats,
    AnyInts,
    FloatArray,
    IntArray,
    check_lengths,
    row_chunks,
    row_starts,
)

MAX_EXPONENT_NATS = 300.0
"""Exponents are clipped to this: exp(2 * 300) times 1e12 tokens, squared, is still finite in
float64. A measure that reaches exp(300) says "at least that", never infinity."""

OUTSIDE_NATS = log(1.25)
"""Ratios outside [0.8, 1.25] are those with |delta| above this; the band is symmetric in logs."""


@dataclass(frozen=True)
class TokenSums:
    """Sums over tokens, each float64 of shape [...] (per token, row, replicate, or one total).

    `delta` is in nats, `ratio` is exp(delta), `mult` is exp(|delta|), `k3` is ratio - 1 - delta.
    """

    tokens: FloatArray
    dropped: FloatArray
    delta: FloatArray
    abs_delta: FloatArray
    delta_squared: FloatArray
    ratio: FloatArray
    ratio_squared: FloatArray
    mult: FloatArray
    k3: FloatArray
    outside: FloatArray
    infer: FloatArray
    train: FloatArray
    infer_squared: FloatArray
    train_squared: FloatArray
    infer_train: FloatArray


@dataclass(frozen=True)
class DeltaSums(TokenSums):
    """Sums over tokens and, below, over whole sequences (rows).

    A sequence with a dropped token is itself dropped: the ratio of a part is not the ratio of the
    whole.
    """

    sequences: FloatArray
    sequences_dropped: FloatArray
    sequence_ratio: FloatArray
    sequence_geometric_ratio: FloatArray

    @classmethod
    def from_matrix(cls, matrix: FloatArray) -> "DeltaSums":
        """Name the columns of [..., K], in the order of the fields."""
        return cls(*np.moveaxis(matrix, -1, 0))


N_TOKEN_SUMS = len(fields(TokenSums))
N_SUMS = len(fields(DeltaSums))


@dataclass(frozen=True)
class EdgeRows:
    """One pass over an edge: `sums` float64 [R, N_SUMS], `abs_delta` float64 [N], `starts` [R].

    `abs_delta` is NaN where a token was dropped.
    """

    sums: FloatArray
    abs_delta: FloatArray
    starts: IntArray


def sum_rows(logp_infer: AnyFloats, logp_train: AnyFloats, row_ids: AnyInts) -> EdgeRows:
    """Per-row sums of an edge, in chunks, so that extra memory is about one float64 per token.

    Args:
        logp_infer: float [N], nats, of tokens the engine sampled.
        logp_train: float [N], nats, of the same tokens.
        row_ids: int [N], ascending.

    Raises:
        ValueError: lengths differ, an array is not [N], or `row_ids` does not ascend.
    """
    check_lengths(logp_infer=logp_infer, logp_train=logp_train, row_ids=row_ids)
    if logp_infer.ndim != 1 or logp_train.ndim != 1:
        raise ValueError(
            f"log-probs must be [N]: logp_infer is {list(logp_infer.shape)}, "
            f"logp_train is {list(logp_train.shape)}"
        )
    starts = row_starts(row_ids)
    sums = np.zeros((len(starts), N_SUMS))
    abs_delta = np.empty(len(logp_infer))
    for part, touched in row_chunks(starts, len(logp_infer)):
        terms = token_terms(logp_infer[part], logp_train[part])
        abs_delta[part] = terms.abs_delta
        if terms.dropped.any():
            abs_delta[part][terms.dropped > 0] = np.nan
        segments = np.maximum(starts[touched] - part.start, 0)
        for column, field in enumerate(fields(terms)):
            sums[touched, column] += np.add.reduceat(getattr(terms, field.name), segments)
    sums[:, N_TOKEN_SUMS:] = _sequence_terms(TokenSums(*sums[:, :N_TOKEN_SUMS].T))
    return EdgeRows(sums, abs_delta, starts)


def token_terms(logp_infer: AnyFloats, logp_train: AnyFloats) -> TokenSums:
    """Each token's contribution to the sums: arrays [N] -> fields [N]."""
    infer = logp_infer.astype(np.float64)
    train = logp_train.astype(np.float64)
    valid = np.isfinite(infer) & np.isfinite(train)
    if not valid.all():
        infer[~valid] = 0.0
        train[~valid] = 0.0
    delta = train - infer
    abs_delta = np.abs(delta)
    # One transcendental per token. expm1, because k3 of a delta of 1e-6 is 5e-13: in exp(delta) - 1
    # - delta it would drown in the rounding of exp(delta).
    mult_minus_1 = np.expm1(np.minimum(abs_delta, MAX_EXPONENT_NATS))
    mult = 1.0 + mult_minus_1
    inverse = 1.0 / mult
    ratio_minus_1 = np.where(delta >= 0, mult_minus_1, -mult_minus_1 * inverse)
    ratio = np.where(delta >= 0, mult, inverse)
    if not valid.all():
        mult[~valid] = 0.0
        ratio[~valid] = 0.0
    return TokenSums(
        tokens=valid.astype(np.float64),
        dropped=(~valid).astype(np.float64),
        delta=delta,
        abs_delta=abs_delta,
        delta_squared=delta * delta,
        ratio=ratio,
        ratio_squared=ratio * ratio,
        mult=mult,
        k3=ratio_minus_1 - delta,
        outside=(abs_delta > OUTSIDE_NATS).astype(np.float64),
        infer=infer,
        train=train,
        infer_squared=infer * infer,
        train_squared=train * train,
        infer_train=infer * train,
    )


def _sequence_terms(rows: TokenSums) -> FloatArray:
    """The sequence fields of `DeltaSums` from each row's token sums: [R, N_SUMS - N_TOKEN_SUMS]."""
    whole = (rows.tokens > 0) & (rows.dropped == 0)
    mean_delta = rows.delta / np.maximum(rows.tokens, 1.0)
    columns = [whole, ~whole, whole * _exp(rows.delta), whole * _exp(mean_delta)]
    return np.stack(columns, axis=1).astype(np.float64)


def _exp(exponent: FloatArray) -> FloatArray:
    clipped: FloatArray = np.exp(np.clip(exponent, -MAX_EXPONENT_NATS, MAX_EXPONENT_NATS))
    return clipped
