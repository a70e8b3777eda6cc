"""Log-probs at a temperature, from those at temperature 1 of the likeliest tokens.

A server scores at temperature 1. Where it returns the whole vocabulary, any other temperature is
arithmetic. Of the k likeliest tokens and the token itself the rest of the normaliser is bounded:
with mass m left, b = 1 / T and r tokens, sum p^b lies, by Jensen, on one side of r (m / r)^b, and
for b > 1 below m q^(b - 1), q the least of the k. Where both bounds agree the value is taken; where
they do not there is none.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.captures.capture import Float32
from mismatch_lab.engines.http.server import Scored

TOLERANCE_NATS = {"float32": 5e-6}
HALF_TOLERANCE_NATS = 2e-4
"""Half of the distance between both bounds up to which a value is taken; half precision is coarser
by far."""
SUM_ERROR = 2e-6
"""By which a sum of float32 probabilities may miss 1."""


def own_logp(
    scored: Scored, ids: list[int], temperature: float, vocabulary: int, dtype: str
) -> Float32:
    """[n] log-probs of the tokens themselves; NaN where they cannot be told closely enough."""
    if temperature == 1:
        return scored.logp
    b = 1 / temperature
    own = scored.logp.astype(np.float64)
    kept = scored.top_logp.astype(np.float64)
    known = np.isfinite(kept) | np.isneginf(kept)
    beside = ~(scored.top_ids == np.array(ids)[:, None]).any(1)
    extra = np.where(beside, own, -np.inf)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        mass = np.exp(np.where(known, kept, -np.inf)).sum(1) + np.exp(extra)
        scaled = np.exp(b * np.where(known, kept, -np.inf)).sum(1) + np.exp(b * extra)
        low, high = _rest(mass, known.sum(1) + beside, kept, b, vocabulary)
        width = 0.5 * (np.log(scaled + high) - np.log(scaled + low))
        middle = 0.5 * (np.log(scaled + high) + np.log(scaled + low))
    tolerance = TOLERANCE_NATS.get(dtype, HALF_TOLERANCE_NATS)
    found = np.where(width <= tolerance, b * own - middle, np.nan)
    found[0] = np.nan
    return found.astype(np.float32)


def _rest(
    mass: NDArray[np.float64],
    count: NDArray[np.int64],
    kept: NDArray[np.float64],
    b: float,
    vocabulary: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[n] bounds of sum p^b over the tokens that were not returned."""
    others = np.maximum(vocabulary - count, 0)
    least, most = (np.clip(1 - mass + sign * SUM_ERROR, 0, 1) for sign in (-1, 1))
    even = [others * (m / np.maximum(others, 1)) ** b for m in (least, most)]
    if b < 1:
        low = np.where(others > 0, least**b, 0.0)  # all of it on one token
        return low, np.where(others > 0, even[1], 0.0)
    smallest = np.exp(np.min(np.where(np.isnan(kept), np.inf, kept), axis=1, initial=0.0))
    high = most * smallest ** (b - 1)
    return np.where(others > 0, even[0], 0.0), np.where(others > 0, high, 0.0)


def whole_logp(steps: list[dict[int, float]], temperature: float, width: int) -> Float32:
    """[p, V] distributions, from the log-probs of all tokens at temperature 1."""
    found = np.full((len(steps), width), -np.inf, np.float64)
    for row, step in enumerate(steps):
        ids = np.fromiter(step.keys(), np.int64, len(step))
        found[row, ids] = np.fromiter(step.values(), np.float64, len(step))
    if temperature != 1:
        found /= temperature
        peak = found.max(1, keepdims=True)
        found -= peak + np.log(np.exp(found - peak).sum(1, keepdims=True))
    return found.astype(np.float32)
