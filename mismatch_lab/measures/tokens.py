"""Where the mismatch sits: delta by position and probability, its histogram, the worst tokens."""

from dataclasses import dataclass

import numpy as np

from mismatch_lab.measures.rows import (
    AnyFloats,
    AnyInts,
    FloatArray,
    IntArray,
    check_lengths,
    row_chunks,
    row_indices,
    row_starts,
)
from mismatch_lab.measures.stats import Estimate, ratio_estimates

POSITION_EDGES: tuple[float, ...] = (0, 1, 4, 16, 64, 256, 1024, 4096, 16384, np.inf)
"""The first sampled token alone (shifts and boundaries show there), then powers of four."""

PROBABILITY_EDGES: tuple[float, ...] = (0, 1e-3, 1e-2, 0.1, 0.5, 0.9, 0.99, np.inf)
"""Bins of exp(logp_infer). The last takes everything from 0.99 on, rounding above 1 included."""

_LARGE = 10.0 ** np.linspace(-7, 2, 37)  # a quarter of a decade each
DELTA_EDGES: FloatArray = np.concatenate([-_LARGE[::-1], _LARGE])
"""Log-spaced to both sides, so that fp32 noise (1e-6) and real bugs (1) show in one picture."""


@dataclass(frozen=True, slots=True)
class Stratum:
    """Tokens with `low <= x < high`; both means in nats, NaN with n = 0 if there are none."""

    low: float
    high: float
    mean_delta: Estimate
    abs_delta_mean: Estimate


@dataclass(frozen=True)
class DeltaHistogram:
    """Counts of delta (nats): `counts` int64 [B] between `edges` float64 [B + 1].

    `below` and `above` count what lies outside the edges, `n_dropped` what is not finite.
    """

    edges: FloatArray
    counts: IntArray
    below: int
    above: int
    n_dropped: int


def by_position(
    delta: AnyFloats,
    positions: AnyInts,
    row_ids: AnyInts,
    edges: tuple[float, ...] = POSITION_EDGES,
) -> tuple[Stratum, ...]:
    """Delta by position in the response.

    Args:
        delta: float [N], nats.
        positions: int [N], 0 for a sequence's first sampled token.
        row_ids: int [N], ascending.
        edges: ascending; a token outside them is in no stratum.

    Raises:
        ValueError: lengths differ, or `edges` or `row_ids` do not ascend.
    """
    check_lengths(delta=delta, positions=positions, row_ids=row_ids)
    return _stratify(delta, positions, row_ids, edges)


def by_probability(
    delta: AnyFloats,
    logp_infer: AnyFloats,
    row_ids: AnyInts,
    edges: tuple[float, ...] = PROBABILITY_EDGES,
) -> tuple[Stratum, ...]:
    """Delta by the probability the engine gave the token, exp(logp_infer).

    Args:
        delta: float [N], nats.
        logp_infer: float [N], nats.
        row_ids: int [N], ascending.
        edges: of probabilities, ascending.

    Raises:
        ValueError: lengths differ, or `edges` or `row_ids` do not ascend.
    """
    check_lengths(delta=delta, logp_infer=logp_infer, row_ids=row_ids)
    # A finite delta implies a finite logp_infer; clipping keeps a sentinel from overflowing exp.
    return _stratify(delta, np.exp(np.minimum(logp_infer, 80.0)), row_ids, edges)


def delta_histogram(delta: AnyFloats, edges: FloatArray = DELTA_EDGES) -> DeltaHistogram:
    """Histogram of delta, in which no token vanishes.

    Args:
        delta: float [N], nats.
        edges: float64 [B + 1], ascending; a bin holds its lower edge, the last one both.
    """
    finite = delta[np.isfinite(delta)]
    counts, _ = np.histogram(finite, bins=edges)
    below, above = int((finite < edges[0]).sum()), int((finite > edges[-1]).sum())
    return DeltaHistogram(edges, counts, below, above, delta.size - finite.size)


def worst_tokens(delta: AnyFloats, k: int) -> IntArray:
    """Indices of the k tokens with the largest |delta|, largest first, the earlier one on ties.

    Args:
        delta: float [N], nats; non-finite entries are never among the worst.
        k: how many; fewer come back if there are fewer finite tokens.

    Returns:
        int64 [min(k, finite tokens)].
    """
    candidates = np.flatnonzero(np.isfinite(delta))
    size = np.abs(delta[candidates])
    if 0 < k < len(candidates):
        threshold = np.partition(size, len(size) - k)[len(size) - k]
        candidates, size = candidates[size >= threshold], size[size >= threshold]
    return candidates[np.argsort(-size, kind="stable")][: max(k, 0)]


def _stratify(
    delta: AnyFloats, keys: AnyFloats | AnyInts, row_ids: AnyInts, edges: tuple[float, ...]
) -> tuple[Stratum, ...]:
    """Means by bins of `keys` [N], all strata over one set of bootstrap draws."""
    if list(edges) != sorted(set(edges)) or len(edges) < 2:
        raise ValueError(f"edges must ascend and be at least two, got {list(edges)}")
    n_strata = len(edges) - 1
    sums, counts, dropped = _sum_by_row_and_stratum(delta, keys, row_ids, np.asarray(edges))
    estimates = ratio_estimates(
        sums.reshape(-1, 2 * n_strata), np.tile(counts, 2), dropped.tolist() * 2
    )
    return tuple(
        Stratum(edges[i], edges[i + 1], estimates[i], estimates[n_strata + i])
        for i in range(n_strata)
    )


def _sum_by_row_and_stratum(
    delta: AnyFloats, keys: AnyFloats | AnyInts, row_ids: AnyInts, edges: FloatArray
) -> tuple[FloatArray, FloatArray, IntArray]:
    """Sums of delta and |delta| [R, 2, S], counts [R, S], and dropped tokens [S]; in chunks."""
    starts = row_starts(row_ids)
    n_strata = len(edges) - 1
    sums = np.zeros((len(starts), 2, n_strata))
    counts = np.zeros((len(starts), n_strata))
    dropped = np.zeros(n_strata, dtype=np.int64)
    for part, rows in row_chunks(starts, len(delta)):
        stratum = np.searchsorted(edges, keys[part], side="right") - 1
        values = delta[part].astype(np.float64)
        inside = (stratum >= 0) & (stratum < n_strata)
        finite = np.isfinite(values)
        dropped += np.bincount(stratum[inside & ~finite], minlength=n_strata)
        kept = inside & finite
        shape = (rows.stop - rows.start, n_strata)
        cell = (row_indices(starts[rows], part) * n_strata + stratum)[kept]
        values = values[kept]
        n_cells = shape[0] * n_strata
        sums[rows, 0] += np.bincount(cell, values, n_cells).reshape(shape)
        sums[rows, 1] += np.bincount(cell, np.abs(values), n_cells).reshape(shape)
        counts[rows] += np.bincount(cell, minlength=n_cells).reshape(shape)
    return sums, counts, dropped
