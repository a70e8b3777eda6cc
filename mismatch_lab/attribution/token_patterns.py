"""Errors of single tokens: the same constant over and over, or only where rows end.

Whatever the rest of a row says, such tokens are judged first and then left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.attribution.token_changes import Float64
from mismatch_lab.captures.capture import Rows

REPEATED = 2
"""Wrong tokens that carry exactly one whole number: by chance float32 log-probs are none."""

IMPOSSIBLE = (-50.0, 0.0)
"""Outside of this a whole number is a sentinel even if it occurs once: nobody samples a token of
probability e**-50, and log-probs are not above 0."""

MANY = 0.2
"""Another number is a constant if this share of wrong tokens carries it; on a coarse grid, or near
certainty, a few tokens share a value by chance."""

NEARLY_ALL = 0.8
"""Share of wrong tokens that must carry a neighbour's log-prob; by chance few do."""

FEW = 0.5
"""Where more of all tokens are wrong, it is no matter of single ones."""

CLEAR = 20.0
"""A token is wrong by itself when it is off by this many times the noise."""


@dataclass(frozen=True)
class TokenPattern:
    """Tokens that are wrong for one reason."""

    cause: str
    tokens: NDArray[np.bool_]
    """[T]"""
    value: float
    """The constant they carry; NaN where they differ."""
    abs_delta_nats: float
    """mean |suspect - sound| over them."""


def token_patterns(
    observed: Float64, sound: Float64, rows: Rows, noise_nats: float
) -> list[TokenPattern]:
    """Patterns in what a suspect says of sampled tokens.

    Args:
        rows: of the run.
        observed: [T] the suspect's log-probs.
        sound: [T] what they should be.
        noise_nats: mean |error| of a sound program.
    """
    error = np.abs(observed - sound)
    limit = CLEAR * noise_nats
    wrong = rows.sampled & (error > limit)
    last = _last_sampled(rows)
    found = []
    constant = _constants(observed, wrong)
    for value in sorted(set(observed[constant].tolist())):
        tokens = constant & (observed == value)
        cause = "terminal-token" if not (tokens & ~last).any() else "sentinel-values"
        found.append(TokenPattern(cause, tokens, value, float(error[tokens].mean())))
    rest = wrong & ~constant
    neighbours = _of_neighbour(observed, sound, rest, limit)
    if rest.sum() > REPEATED and neighbours.sum() >= NEARLY_ALL * rest.sum():
        if rest.sum() < FEW * rows.sampled.sum():
            found.append(TokenPattern("shift-by-one", rest, np.nan, float(error[rest].mean())))
        return found
    inside = rows.sampled & ~last & np.isfinite(error)
    clean_inside = inside.any() and float(np.mean(error[inside & ~constant])) <= limit / CLEAR
    if rest.sum() > REPEATED and not (rest & ~last).any() and clean_inside:
        found.append(TokenPattern("packing-boundary", rest, np.nan, float(error[rest].mean())))
    return found


def _constants(observed: Float64, wrong: NDArray[np.bool_]) -> NDArray[np.bool_]:
    values, counts = np.unique(observed[wrong], return_counts=True)
    whole = (values == np.round(values)) & (counts >= REPEATED)
    low, high = IMPOSSIBLE
    whole |= (values == np.round(values)) & ((values <= low) | (values > high))
    many = (counts >= max(REPEATED + 1, MANY * counts.sum())) & (counts > 1)
    return np.asarray(wrong & np.isin(observed, values[whole | many]))


def _of_neighbour(
    observed: Float64, sound: Float64, tokens: NDArray[np.bool_], limit: float
) -> NDArray[np.bool_]:
    """[T] whether a token carries what belongs to the token before or after it."""
    before, after = np.roll(sound, 1), np.roll(sound, -1)
    near = np.fmin(np.abs(observed - before), np.abs(observed - after))
    return np.asarray(tokens & (near <= limit))


def _last_sampled(rows: Rows) -> NDArray[np.bool_]:
    """[T] the last sampled token of each row."""
    last = np.zeros(rows.n_tokens, bool)
    for start, stop in rows.spans():
        sampled = np.flatnonzero(rows.sampled[start:stop])
        if len(sampled):
            last[start + sampled[-1]] = True
    return last
