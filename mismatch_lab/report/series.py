"""The data behind the token figures: bins chosen so that both 1e-6 and 1 nat can be read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mismatch_lab.captures.align import Aligned
from mismatch_lab.measures.rows import FloatArray
from mismatch_lab.measures.tokens import (
    DeltaHistogram,
    Stratum,
    by_position,
    by_probability,
    delta_histogram,
)

N_BINS = 41  # odd, so that one bin is centred on 0
UNIT_POSITIONS = 24
POSITION_BINS = 20
PROBABILITY_EDGES = (0.0, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, np.inf)


@dataclass(frozen=True)
class TokenSeries:
    """Delta of all sampled tokens, binned three ways.

    `scale_nats` is where the histogram's axis turns from linear to logarithmic (asinh); None if
    there is no finite delta.
    """

    histogram: DeltaHistogram | None
    scale_nats: float
    positions: list[Stratum]
    probabilities: list[Stratum]


def token_series(pair: Aligned) -> TokenSeries:
    """Bin the aligned tokens of two captures; empty bins are left out."""
    delta = pair.logp_b.astype(np.float64) - pair.logp_a
    finite = delta[np.isfinite(delta)]
    scale = _scale(finite)
    histogram = delta_histogram(delta, _edges(finite, scale)) if len(finite) else None
    positions = by_position(delta, pair.positions, pair.row_ids, _position_edges(pair))
    probabilities = by_probability(delta, pair.logp_a, pair.row_ids, PROBABILITY_EDGES)
    return TokenSeries(histogram, scale, _filled(positions), _filled(probabilities))


def _filled(strata: tuple[Stratum, ...]) -> list[Stratum]:
    return [stratum for stratum in strata if stratum.abs_delta_mean.n > 0]


def _scale(finite: FloatArray) -> float:
    """Linear up to the typical |delta|; all linear where the largest is not far above it."""
    size = np.abs(finite[finite != 0])
    if len(size) == 0:
        return 1.0
    typical, largest = float(np.median(size)), float(size.max())
    return largest if largest < 12 * typical else max(typical, largest * 1e-5)


def _edges(finite: FloatArray, scale: float) -> FloatArray:
    """Evenly spaced in asinh(delta / scale), symmetric around 0."""
    reach = float(np.arcsinh((np.abs(finite).max() or 1.0) / scale)) * (1 + 1e-9)
    edges: FloatArray = np.sinh(np.linspace(-reach, reach, N_BINS + 1)) * scale
    return edges


def _position_edges(pair: Aligned) -> tuple[float, ...]:
    """One bin per position in short responses, else bins that grow from one position on."""
    length = int(pair.positions.max()) + 1 if len(pair.positions) else 1
    if length <= UNIT_POSITIONS:
        return tuple(float(edge) for edge in range(length + 1))
    grown = np.unique(np.round(np.geomspace(1, length, POSITION_BINS)))
    return (0.0, *(float(edge) for edge in grown))
