"""What defects of sampling and of the log-softmax do to whole distributions.

Each function takes what a sound program has, log-probs over the vocabulary as [P, V] with the
log-sum-exp that normalised them, and returns what the defective one reports. Pure numpy, float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.attribution.hypotheses import RowChange, Spans
from mismatch_lab.captures.capture import Capture, Int64
from mismatch_lab.measures.grids import to_bfloat16

Float64 = NDArray[np.float64]


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


def raw_temperature(sound: Distributions, _value: float) -> Float64:
    """Log-probs of the logits as the model gave them, not divided by the temperature."""
    return log_softmax(sound.logp * sound.temperature)


def temperature_on_logprobs(sound: Distributions, _value: float) -> Float64:
    """The temperature divides the log-probs, after the softmax: they no longer sum to one."""
    return log_softmax(sound.logp * sound.temperature) / sound.temperature


def scale(sound: Distributions, value: float) -> Float64:
    """Logits times a constant."""
    return log_softmax(sound.logp * value)


def softcap(sound: Distributions, value: float) -> Float64:
    """A tanh cap on the logits where none belongs."""
    return log_softmax(value * np.tanh(sound.logits / value) / sound.temperature)


def top_p(sound: Distributions, value: float) -> Float64:
    """Renormalised over the fewest tokens whose probabilities reach `value`."""
    kept = np.zeros(sound.logp.shape, bool)
    np.put_along_axis(kept, sound.by_rank, sound.mass_before < value, axis=1)
    return _renormalised(sound.logp, kept)


def top_k(sound: Distributions, value: float) -> Float64:
    """Renormalised over the `value` likeliest tokens."""
    k = max(1, min(int(value), sound.logp.shape[1]))
    threshold = np.take_along_axis(sound.logp, sound.by_rank[:, k - 1 : k], axis=1)
    return _renormalised(sound.logp, sound.logp >= threshold)


def min_p(sound: Distributions, value: float) -> Float64:
    """Renormalised over tokens of at least `value` times the likeliest one's probability."""
    threshold = sound.logp.max(axis=1) + np.log(value)
    return _renormalised(sound.logp, sound.logp >= threshold[:, None])


def never_drawn(sound: Distributions, value: float) -> Float64:
    """Without tokens that were drawn nowhere, though `value` of them or more were expected."""
    expected = np.exp(sound.logp).sum(axis=0)
    suppressed = expected >= value
    suppressed[sound.drawn] = False
    return _renormalised(sound.logp, np.broadcast_to(~suppressed, sound.logp.shape))


def _renormalised(logp: Float64, kept: NDArray[np.bool_]) -> Float64:
    return log_softmax(np.where(kept, logp, -np.inf))


def repetition_penalty(sound: Distributions, value: float) -> Float64:
    """Logits of tokens seen before divided by `value` if positive, else times it (CTRL)."""
    logits = sound.logits
    for p, ids in enumerate(sound.seen_tokens):
        row = logits[p, ids]
        logits[p, ids] = np.where(row > 0, row / value, row * value)
    return log_softmax(logits / sound.temperature)


def presence_penalty(sound: Distributions, value: float) -> Float64:
    """Logits of tokens that the answer holds already, less `value`."""
    return _generated_less(sound, value, counted=False)


def frequency_penalty(sound: Distributions, value: float) -> Float64:
    """Logits of tokens that the answer holds already, less `value` for each time."""
    return _generated_less(sound, value, counted=True)


def _generated_less(sound: Distributions, value: float, *, counted: bool) -> Float64:
    logits = sound.logp * sound.temperature
    for p, (ids, counts) in enumerate(sound.generated_counts):
        logits[p, ids] -= value * (counts if counted else 1.0)
    return log_softmax(logits / sound.temperature)


def phantom_rows(sound: Distributions, value: float) -> Float64:
    """`value` more logits of exactly 0 in the normaliser."""
    return np.asarray(sound.logp - np.log1p(value * np.exp(-sound.lse))[:, None])


def own_shard(sound: Distributions, value: float) -> Float64:
    """Every shard of so many tokens is normalised by itself: nothing is summed over ranks."""
    width, changed = max(1, int(value)), np.empty_like(sound.logp)
    for start in range(0, sound.logp.shape[1], width):
        changed[:, start : start + width] = log_softmax(sound.logp[:, start : start + width])
    return changed


def uncounted(sound: Distributions, ids: Spans) -> Float64:
    """The log-sum-exp misses these tokens; they keep their logits, so that it is no softmax."""
    return np.asarray(sound.logp - _log_mass_without(sound, ids)[:, None])


def masked(sound: Distributions, ids: Spans) -> Float64:
    """These tokens have probability 0, the others what is left."""
    changed = uncounted(sound, ids)
    for start, stop in ids:
        changed[:, start:stop] = -np.inf
    return changed


def _log_mass_without(sound: Distributions, ids: Spans) -> Float64:
    """[P], summed from what is kept: a difference from 1 would lose small masses."""
    width, at = sound.logp.shape[1], 0
    kept = np.zeros(len(sound.logp))
    for start, stop in sorted(ids):
        kept += sound.mass_up_to[:, min(start, width)] - sound.mass_up_to[:, at]
        at = min(stop, width)
    kept += sound.mass_up_to[:, width] - sound.mass_up_to[:, at]
    with np.errstate(divide="ignore"):  # nothing kept at all: -inf
        return np.asarray(np.log(np.maximum(kept, 0.0)))


def bfloat16_log_softmax(sound: Distributions, _value: float) -> Float64:
    """Logits, normaliser and result all rounded to bfloat16."""
    logits = to_bfloat16(sound.logits / sound.temperature)
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
}
"""name -> function; another one is one function and one row."""

ID_CHANGES: dict[str, Callable[[Distributions, Spans], Float64]] = {
    "uncounted": uncounted,
    "masked": masked,
}
"""The same of functions that concern some entries of the vocabulary."""


def change_rows(sound: Distributions, change: RowChange) -> Float64:
    """[P, V] what a program with the change reports."""
    if change.name in ID_CHANGES:
        return ID_CHANGES[change.name](sound, change.ids)
    return ROW_CHANGES[change.name](sound, change.value)
