"""What defects do to log-probs without any change to the model, in numpy alone.

Between a program and its consumer: each function takes the sound log-probs [T] of whole rows and
returns those that arrive. In sampling and in the log-softmax: each takes what a sound program has,
log-probs over the vocabulary as [P, V] with the log-sum-exp that normalised them, and returns what
the defective one reports, in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.attribution.hypotheses import RowChange, Spans
from mismatch_lab.captures.capture import Capture, Int64, Rows
from mismatch_lab.measures.grids import to_bfloat16, to_float16

Float64 = NDArray[np.float64]


def shift(logp: Float64, rows: Rows, value: float) -> Float64:
    """Each token carries the log-prob of the token `value` places later; NaN beyond the row."""
    moved = np.full_like(logp, np.nan)
    by = int(value)
    for start, stop in rows.spans():
        inside = np.arange(start, stop) + by
        valid = (inside >= start) & (inside < stop)
        moved[start:stop][valid] = logp[inside[valid]]
    return moved


def through_bfloat16(logp: Float64, _rows: Rows, _value: float) -> Float64:
    """Sent or stored as bfloat16."""
    return to_bfloat16(logp)


def through_float16(logp: Float64, _rows: Rows, _value: float) -> Float64:
    """Sent or stored as float16."""
    return to_float16(logp)


def decimals(logp: Float64, _rows: Rows, value: float) -> Float64:
    """Written with so many decimals."""
    return np.round(logp, int(value))


TOKEN_CHANGES: dict[str, Callable[[Float64, Rows, float], Float64]] = {
    "shift": shift,
    "through_bfloat16": through_bfloat16,
    "through_float16": through_float16,
    "decimals": decimals,
}
"""name -> function; another one is one function and one row."""


@dataclass(frozen=True)
class Distributions:
    """P distributions of a sound program and where they stand."""

    logp: Float64
    """[P, V]"""
    lse: Float64
    """[P] so that `logp + lse` are the logits over the temperature; NaN where unknown."""
    seen: list[Int64]
    """For each, the token ids before it in its row, prompt included."""
    generated_from: Int64
    """[P] how many of these the answer does not hold: vLLM's presence and frequency penalties count
    the current request's output, and in a later turn all before it is that request's prompt."""
    temperature: float
    drawn: Int64 = field(default_factory=lambda: np.zeros(0, np.int64))
    """[P] the token that was sampled from each."""

    @property
    def logits(self) -> Float64:
        """[P, V], temperature taken out again."""
        return (self.logp + self.lse[:, None]) * self.temperature

    # Computed once: whoever searches for a number tries many.

    @cached_property
    def by_rank(self) -> Int64:
        """[P, V] tokens, the likeliest first."""
        return np.argsort(-self.logp, axis=1, kind="stable")

    @cached_property
    def mass_before(self) -> Float64:
        """[P, V] probability of all tokens that are likelier than the one of this rank."""
        ranked = np.exp(np.take_along_axis(self.logp, self.by_rank, axis=1))
        return np.asarray(np.cumsum(ranked, axis=1) - ranked)

    @cached_property
    def mass_up_to(self) -> Float64:
        """[P, V + 1] probability of all tokens with a smaller id."""
        return np.pad(np.cumsum(np.exp(self.logp), axis=1), ((0, 0), (1, 0)))

    @cached_property
    def seen_tokens(self) -> list[Int64]:
        """For each, the tokens before it, each once."""
        return [np.unique(seen) for seen in self.seen]

    @cached_property
    def generated_counts(self) -> list[tuple[Int64, Int64]]:
        """For each, the tokens generated before it, and how often each was."""
        pairs = zip(self.seen, self.generated_from, strict=True)
        return [np.unique(seen[start:], return_counts=True) for seen, start in pairs]


def distributions_of(capture: Capture, probes: Int64, temperature: float) -> Distributions:
    """Distributions at some probes of a capture (indices into its probe arrays)."""
    assert capture.probe_logp is not None
    positions = capture.probe_positions[probes]
    rows = capture.rows
    row_ids = rows.row_ids()[positions]
    starts = rows.row_offsets[row_ids]
    lse = capture.probe_lse
    return Distributions(
        capture.probe_logp[probes].astype(np.float64),
        np.full(len(probes), np.nan) if lse is None else lse[probes].astype(np.float64),
        [rows.token_ids[a:p].astype(np.int64) for a, p in zip(starts, positions, strict=True)],
        rows.turn_starts()[positions] - starts,
        temperature,
        rows.token_ids[positions].astype(np.int64),
    )


def log_softmax(logits: Float64) -> Float64:
    """Along the last axis; -inf stays -inf."""
    peak = logits.max(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore"):  # a row of -inf alone stays NaN: nothing is left of it
        shifted = logits - peak
        return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def raw_temperature(expected: Distributions, _value: float) -> Float64:
    """Log-probs of the logits as the model gave them, not divided by the temperature."""
    return log_softmax(expected.logp * expected.temperature)


def temperature_on_logprobs(expected: Distributions, _value: float) -> Float64:
    """The temperature divides the log-probs, after the softmax: they no longer sum to one."""
    return log_softmax(expected.logp * expected.temperature) / expected.temperature


def scale(expected: Distributions, value: float) -> Float64:
    """Logits times a constant."""
    return log_softmax(expected.logp * value)


def softcap(expected: Distributions, value: float) -> Float64:
    """A tanh cap on the logits where none belongs."""
    return log_softmax(value * np.tanh(expected.logits / value) / expected.temperature)


def top_p(expected: Distributions, value: float) -> Float64:
    """Renormalised over the fewest tokens whose probabilities reach `value`."""
    kept = np.zeros(expected.logp.shape, bool)
    np.put_along_axis(kept, expected.by_rank, expected.mass_before < value, axis=1)
    return _renormalised(expected.logp, kept)


def top_k(expected: Distributions, value: float) -> Float64:
    """Renormalised over the `value` likeliest tokens."""
    k = max(1, min(int(value), expected.logp.shape[1]))
    threshold = np.take_along_axis(expected.logp, expected.by_rank[:, k - 1 : k], axis=1)
    return _renormalised(expected.logp, expected.logp >= threshold)


def min_p(expected: Distributions, value: float) -> Float64:
    """Renormalised over tokens of at least `value` times the likeliest one's probability."""
    threshold = expected.logp.max(axis=1) + np.log(value)
    return _renormalised(expected.logp, expected.logp >= threshold[:, None])


def never_drawn(expected: Distributions, value: float) -> Float64:
    """Without tokens that were drawn nowhere, though `value` of them or more were expected."""
    expected_draws = np.exp(expected.logp).sum(axis=0)
    suppressed = expected_draws >= value
    suppressed[expected.drawn] = False
    return _renormalised(expected.logp, np.broadcast_to(~suppressed, expected.logp.shape))


def _renormalised(logp: Float64, kept: NDArray[np.bool_]) -> Float64:
    return log_softmax(np.where(kept, logp, -np.inf))


def repetition_penalty(expected: Distributions, value: float) -> Float64:
    """Logits of tokens seen before divided by `value` if positive, else times it (CTRL)."""
    logits = expected.logits
    for p, ids in enumerate(expected.seen_tokens):
        row = logits[p, ids]
        logits[p, ids] = np.where(row > 0, row / value, row * value)
    return log_softmax(logits / expected.temperature)


def presence_penalty(expected: Distributions, value: float) -> Float64:
    """Logits of tokens that the answer holds already, less `value`."""
    return _generated_less(expected, value, counted=False)


def frequency_penalty(expected: Distributions, value: float) -> Float64:
    """Logits of tokens that the answer holds already, less `value` for each time."""
    return _generated_less(expected, value, counted=True)


def _generated_less(expected: Distributions, value: float, *, counted: bool) -> Float64:
    logits = expected.logp * expected.temperature
    for p, (ids, counts) in enumerate(expected.generated_counts):
        logits[p, ids] -= value * (counts if counted else 1.0)
    return log_softmax(logits / expected.temperature)


def phantom_rows(expected: Distributions, value: float) -> Float64:
    """`value` more logits of exactly 0 in the normaliser."""
    return np.asarray(expected.logp - np.log1p(value * np.exp(-expected.lse))[:, None])


def own_shard(expected: Distributions, value: float) -> Float64:
    """Every shard of so many tokens is normalised by itself: nothing is summed over ranks."""
    width, changed = max(1, int(value)), np.empty_like(expected.logp)
    for start in range(0, expected.logp.shape[1], width):
        changed[:, start : start + width] = log_softmax(expected.logp[:, start : start + width])
    return changed


def uncounted(expected: Distributions, ids: Spans) -> Float64:
    """The log-sum-exp misses these tokens; they keep their logits, so that it is no softmax."""
    return np.asarray(expected.logp - _log_mass_without(expected, ids)[:, None])


def masked(expected: Distributions, ids: Spans) -> Float64:
    """These tokens have probability 0, the others what is left."""
    changed = uncounted(expected, ids)
    for start, stop in ids:
        changed[:, start:stop] = -np.inf
    return changed


def _log_mass_without(expected: Distributions, ids: Spans) -> Float64:
    """[P], summed from what is kept: a difference from 1 would lose small masses."""
    width, at = expected.logp.shape[1], 0
    kept = np.zeros(len(expected.logp))
    for start, stop in sorted(ids):
        kept += expected.mass_up_to[:, min(start, width)] - expected.mass_up_to[:, at]
        at = min(stop, width)
    kept += expected.mass_up_to[:, width] - expected.mass_up_to[:, at]
    with np.errstate(divide="ignore"):  # nothing kept at all: -inf
        return np.asarray(np.log(np.maximum(kept, 0.0)))


def likeliest(expected: Distributions, _value: float) -> Float64:
    """The sampled token carries the log-prob of the likeliest one."""
    changed = expected.logp.copy()
    changed[np.arange(len(changed)), expected.drawn] = expected.logp.max(axis=1)
    return changed


def bfloat16_log_softmax(expected: Distributions, _value: float) -> Float64:
    """Logits, normaliser and result all rounded to bfloat16."""
    logits = to_bfloat16(expected.logits / expected.temperature)
    peak = logits.max(axis=1, keepdims=True)
    shifted = to_bfloat16(logits - peak)
    return to_bfloat16(shifted - to_bfloat16(np.log(np.exp(shifted).sum(1, keepdims=True))))


ROW_CHANGES: dict[str, Callable[[Distributions, float], Float64]] = {
    "raw_temperature": raw_temperature,
    "temperature_on_logprobs": temperature_on_logprobs,
    "scale": scale,
    "softcap": softcap,
    "top_p": top_p,
    "top_k": top_k,
    "min_p": min_p,
    "never_drawn": never_drawn,
    "repetition_penalty": repetition_penalty,
    "presence_penalty": presence_penalty,
    "frequency_penalty": frequency_penalty,
    "phantom_rows": phantom_rows,
    "own_shard": own_shard,
    "bfloat16_log_softmax": bfloat16_log_softmax,
    "likeliest": likeliest,
}
"""name -> function; another one is one function and one row."""

ID_CHANGES: dict[str, Callable[[Distributions, Spans], Float64]] = {
    "uncounted": uncounted,
    "masked": masked,
}
"""The same of functions that concern some entries of the vocabulary."""


def change_rows(expected: Distributions, change: RowChange) -> Float64:
    """[P, V] what a program with the change reports."""
    if change.name in ID_CHANGES:
        return ID_CHANGES[change.name](expected, change.ids)
    return ROW_CHANGES[change.name](expected, change.value)
