"""A trainer that contradicts itself: dropout, kernels that depend on the batch, or routers that
choose otherwise in the second pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.captures.capture import Capture
from mismatch_lab.schema import Observation

AGAIN, OTHER_BATCH, TRAINING = "train_repeat", "train_micro_batch", "train_mode"
WHAT = {
    AGAIN: "the same pass again",
    OTHER_BATCH: "the same rows in another micro-batch",
    TRAINING: "the same pass in training mode",
}
UNTOUCHED_SHARE = 0.1
"""Where tokens before any change of experts differ by less than this share of those after it, the
routers are what differs."""


@dataclass(frozen=True)
class Disagreement:
    """The trainer's first contradiction of itself, and what kind it is."""

    cause: str
    against: str
    """The capture it contradicts."""
    abs_delta_nats: float
    evidence: list[Observation]


def self_disagreement(
    captures: Mapping[str, Capture], noise_nats: float
) -> Disagreement | None:
    """None for a trainer that says the same every time.

    A pass that differs from itself unchanged is random; one that differs only in another batch or
    only in training mode depends on that.
    """
    for name in (AGAIN, OTHER_BATCH, TRAINING):
        if name not in captures:
            continue
        found = _compare(captures["train"], captures[name], name, noise_nats)
        if found is not None:
            return found
    return None


def _compare(
    first: Capture, second: Capture, name: str, noise_nats: float
) -> Disagreement | None:
    tokens = second.rows.n_tokens
    sampled = second.rows.sampled
    delta = np.abs(second.logp.astype(np.float64) - first.logp[:tokens])
    size = float(np.nanmean(delta[sampled]))
    if not size > noise_nats:
        return None
    evidence = [_seen(f"trainer against {WHAT[name]}, mean |delta| in nats", size, "0")]
    touched = _touched(first, second)
    if touched is None:
        return Disagreement(_without_routers(name), name, size, evidence)
    after, before = delta[sampled & touched], delta[sampled & ~touched]
    carried, untouched = _mean(after), _mean(before)
    evidence += [
        _seen(
            "mean |delta| of tokens after a change of experts in their row",
            carried,
            "all of it where routers are the cause",
        ),
        _seen(
            "mean |delta| of tokens before any change of experts",
            untouched,
            "0 where routers are the cause",
        ),
    ]
    routers = touched[sampled].any() and (
        not len(before) or untouched <= max(UNTOUCHED_SHARE * carried, 0.0)
    )
    if routers and len(before):
        return Disagreement("routing-two-pass", name, size, evidence)
    return Disagreement(_without_routers(name), name, size, evidence)


def _without_routers(name: str) -> str:
    return "batch-variance" if name == OTHER_BATCH else "dropout-active"


def _touched(first: Capture, second: Capture) -> NDArray[np.bool_] | None:
    """[T] whether any router chose another set of experts at this token's input or before it in
    its row; None where routing was not recorded."""
    if first.router_topk is None or second.router_topk is None:
        return None
    tokens = second.rows.n_tokens
    a = np.sort(first.router_topk[:tokens], axis=-1)
    b = np.sort(second.router_topk, axis=-1)
    changed = (a != b).any(axis=(1, 2))
    touched = np.zeros(tokens, bool)
    for start, stop in second.rows.spans():
        # A log-prob at t comes from the forward position before it.
        so_far = np.logical_or.accumulate(changed[start:stop])
        touched[start + 1 : stop] = so_far[:-1]
    return touched


def _mean(values: NDArray[np.float64]) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")


def _seen(observation: str, value: float, expected: str) -> Observation:
    return Observation(observation=observation, value=value, expected=expected)
