"""What single tokens show: the same constant over and over, errors only where rows end, or another
token read than was given.

Whatever the rest of a row says, such tokens are judged first and then left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.attribution.changes import Float64
from mismatch_lab.attribution.thresholds import THRESHOLDS
from mismatch_lab.captures.capture import Capture, Rows

FILL = 0.0
"""What a place without a log-prob is filled with where nobody chose a number; any other constant
was chosen, and is a sentinel."""


@dataclass(frozen=True)
class TokenPattern:
    """Tokens that are wrong for one reason."""

    cause: str
    tokens: NDArray[np.bool_]
    """[T]"""
    value: float
    """The constant they carry; NaN where they differ."""
    abs_delta_nats: float
    """mean |suspect - expected| over them."""


def token_patterns(
    observed: Float64, expected: Float64, rows: Rows, noise_nats: float
) -> list[TokenPattern]:
    """Patterns in what a suspect says of sampled tokens.

    Args:
        rows: of the run.
        observed: [T] the suspect's log-probs.
        expected: [T] what they should be.
        noise_nats: mean |error| of a sound program.
    """
    error = np.abs(observed - expected)
    limit = THRESHOLDS.wrong_token * noise_nats
    wrong = rows.sampled & (error > limit)
    last = _last_sampled(rows)
    found = []
    constant = _constants(observed, wrong)
    if _is_cut(observed, expected, constant, rows):
        constant &= observed != FILL
    for value in sorted(set(observed[constant].tolist())):
        tokens = constant & (observed == value)
        everywhere = "missing-logprobs" if value == FILL else "sentinel-values"
        cause = everywhere if (tokens & ~last).any() else "terminal-token"
        found.append(TokenPattern(cause, tokens, value, float(error[tokens].mean())))
    rest = wrong & ~constant
    neighbours = _of_neighbour(observed, expected, rest, limit)
    if (
        rest.sum() > THRESHOLDS.repeated_constant
        and neighbours.sum() >= THRESHOLDS.neighbours_share * rest.sum()
    ):
        if rest.sum() < THRESHOLDS.single_tokens_share * rows.sampled.sum():
            found.append(TokenPattern("shift-by-one", rest, np.nan, float(error[rest].mean())))
        return found
    inside = rows.sampled & ~last & np.isfinite(error)
    clean_inside = (
        inside.any() and float(np.mean(error[inside & ~constant])) <= limit / THRESHOLDS.wrong_token
    )
    if rest.sum() > THRESHOLDS.repeated_constant and not (rest & ~last).any() and clean_inside:
        found.append(TokenPattern("packing-boundary", rest, np.nan, float(error[rest].mean())))
    return found


def _constants(observed: Float64, wrong: NDArray[np.bool_]) -> NDArray[np.bool_]:
    values, counts = np.unique(observed[wrong], return_counts=True)
    whole = (values == np.round(values)) & (counts >= THRESHOLDS.repeated_constant)
    low, high = THRESHOLDS.possible_nats
    whole |= (values == np.round(values)) & ((values <= low) | (values > high))
    many = (
        counts >= max(THRESHOLDS.repeated_constant + 1, THRESHOLDS.constant_share * counts.sum())
    ) & (counts > 1)
    return np.asarray(wrong & np.isin(observed, values[whole | many]))


def _is_cut(observed: Float64, expected: Float64, constant: NDArray[np.bool_], rows: Rows) -> bool:
    """Whether exactly 0 is what top-p or min-p leave of a likely token: the only one that is kept
    has probability 1. All that are as likely are then there too; of a fill they are few.
    """
    wrong = constant & (observed == FILL) & np.isfinite(expected)
    if not wrong.any():
        return False
    least = float(expected[wrong].min())
    as_likely = rows.sampled & (expected >= least)
    share = float(np.mean(observed[as_likely] == FILL))
    return least >= THRESHOLDS.cut_to_one_nats and share >= THRESHOLDS.cut_to_one_share


def is_fill(observed: Float64, expected: Float64) -> bool:
    """Whether exactly 0 is a fill: the other side contradicts it at much of these tokens, or far
    more often than where a token is certain and not exactly 0. Else certainty rounds to it.
    """
    contradicted = expected < -THRESHOLDS.near_certain_nats
    filled = observed == FILL
    near = (observed < FILL) & (observed > -THRESHOLDS.near_certain_nats)
    against = int((filled & contradicted).sum())
    if against < THRESHOLDS.repeated_constant:
        return False
    share = against / int(filled.sum())
    # At most: two more of four more, which Agresti and Coull add for an upper end.
    usual = (int((near & contradicted).sum()) + 2) / (int(near.sum()) + 4)
    return share >= THRESHOLDS.contradicted_share or share > THRESHOLDS.fill_over_near * usual


def _of_neighbour(
    observed: Float64, expected: Float64, tokens: NDArray[np.bool_], limit: float
) -> NDArray[np.bool_]:
    """[T] whether a token carries what belongs to the token before or after it."""
    before, after = np.roll(expected, 1), np.roll(expected, -1)
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


FIRST_INPUT = "model.layers.0:in"


@dataclass(frozen=True)
class MisreadTokens:
    """Positions of tapped rows at which a side read another token."""

    flat: NDArray[np.int64]
    """[M] flat token indices."""
    in_prompt: float
    """Share of them that are of the prompt."""
    seen: int
    """Positions that were looked at."""


def misread_tokens(side: Capture, reference: Capture) -> MisreadTokens | None:
    """None where hidden states were not recorded, or every token was read as it is."""
    a, b = side.hidden.get(FIRST_INPUT), reference.hidden.get(FIRST_INPUT)
    if a is None or b is None or a.shape != b.shape:
        return None
    size = np.linalg.norm(b.astype(np.float64), axis=1)
    error = np.linalg.norm(a.astype(np.float64) - b, axis=1) / np.maximum(size, 1e-30)
    seen = np.isfinite(error)
    wrong = seen & (error > THRESHOLDS.misread_error)
    if not wrong.any() or wrong.sum() > THRESHOLDS.misread_share * seen.sum():
        return None
    # A hidden state at probe p is of the forward position one token earlier.
    flat = side.probe_positions[wrong] - 1
    rows = side.rows
    row = rows.row_ids()[flat]
    in_prompt = flat - rows.row_offsets[row] < rows.prompt_lengths[row]
    return MisreadTokens(flat, float(in_prompt.mean()), int(seen.sum()))
