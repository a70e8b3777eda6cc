"""A trainer that contradicts itself: dropout, kernels that depend on the batch, or routers that
choose otherwise in the second pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.attribution.expert_changes import after_change, changed_sets, finite_mean
from mismatch_lab.attribution.router_choices import layer_number
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

JUMP = 30.0
"""Where router logits differ by so many times more than before it, the first change of experts of a
row is no near-tie that noise decided: something before the router did that."""

ITS_OWN = 2.0
"""Training mode adds something of its own where it differs so many times as much as repetition."""


@dataclass(frozen=True)
class Disagreement:
    """One contradiction of the trainer with itself, and what kind it is."""

    cause: str
    against: str
    """The capture it contradicts."""
    abs_delta_nats: float
    evidence: list[Observation]
    location: str | None = None
    """The first layer's experts that are chosen otherwise, where routers are the cause."""


def self_disagreements(captures: Mapping[str, Capture], noise_nats: float) -> list[Disagreement]:
    """Empty for a trainer that says the same every time; at most one in evaluation mode and one in
    training mode.

    A pass that differs from itself unchanged is random; one that differs only in another batch or
    only in training mode depends on that.
    """
    found: list[Disagreement] = []
    for name in (AGAIN, OTHER_BATCH, TRAINING):
        if name not in captures or (name == OTHER_BATCH and found):
            continue
        one = _compare(captures["train"], captures[name], name, noise_nats)
        known = max((f.abs_delta_nats for f in found), default=0.0)
        if one is not None and one.abs_delta_nats > ITS_OWN * known:
            found.append(one)
    return found


def _compare(first: Capture, second: Capture, name: str, noise_nats: float) -> Disagreement | None:
    tokens = second.rows.n_tokens
    delta = np.abs(second.logp.astype(np.float64) - first.logp[:tokens])
    size = finite_mean(delta[second.rows.sampled])
    if not size > noise_nats:
        return None
    evidence = [_seen(f"trainer against {WHAT[name]}, mean |delta| in nats", size, "0")]
    touched = _touched(first, second)
    if touched is None:
        return Disagreement(_without_routers(name), name, size, evidence)
    # Prompts count here: experts change early in a row, and few sampled tokens come before that.
    after, before = finite_mean(delta[touched]), finite_mean(delta[~touched])
    gate = _first_gate(first, second)
    evidence += [
        _seen(
            "mean |delta| of tokens after a change of experts in their row",
            after,
            "all of it where routers are the cause",
        ),
        _seen(
            "mean |delta| of tokens before any change of experts",
            before,
            "0 where routers are the cause",
        ),
        _seen(
            "relative difference of the first router's logits",
            gate,
            "0 where nothing before the first router is random",
        ),
    ]
    quiet = before <= UNTOUCHED_SHARE * after if np.isfinite(before) else gate <= noise_nats
    jump = _jump(first, second)
    evidence.append(
        _seen(
            "router logits at the first change of experts of each row, relative difference over "
            "that of tokens before",
            jump,
            "near 1 where the routers' own noise changes choices",
        )
    )
    routers = touched.any() and quiet and not jump > JUMP
    if not routers:
        return Disagreement(_without_routers(name), name, size, evidence)
    layer = _first_layer(first, second)
    return Disagreement("routing-two-pass", name, size, evidence, f"model.layers.{layer}.mlp")


def _without_routers(name: str) -> str:
    return "batch-variance" if name == OTHER_BATCH else "dropout-active"


def _touched(first: Capture, second: Capture) -> NDArray[np.bool_] | None:
    """[T] whether any router chose another set of experts at the input before this token or
    earlier in its row; None where routing was not recorded.
    """
    if first.router_topk is None or second.router_topk is None:
        return None
    tokens = second.rows.n_tokens
    changed = changed_sets(first.router_topk[:tokens], second.router_topk)
    return after_change(np.asarray(changed.any(axis=1)), second.rows)


def _first_layer(first: Capture, second: Capture) -> int:
    """The first decoder layer with another choice anywhere; there is one."""
    assert first.router_topk is not None
    assert second.router_topk is not None
    changed = changed_sets(first.router_topk[: second.rows.n_tokens], second.router_topk)
    index = int(np.flatnonzero(changed.any(axis=0))[0])
    return layer_number(index, first, changed.shape[1]) or 0


def _first_gate(first: Capture, second: Capture) -> float:
    """Relative difference of the first layer's router logits; NaN where not recorded."""
    if first.router_logits is None or second.router_logits is None:
        return float("nan")
    a = first.router_logits[: second.rows.n_tokens, 0].astype(np.float64)
    size = float(np.linalg.norm(a))
    return float(np.linalg.norm(second.router_logits[:, 0] - a) / size) if size else float("nan")


def _jump(first: Capture, second: Capture) -> float:
    """Median over rows: relative difference of router logits at the first change of experts, over
    its median at the tokens before; NaN where not recorded, or nothing changes.
    """
    if first.router_logits is None or second.router_logits is None:
        return float("nan")
    assert first.router_topk is not None
    assert second.router_topk is not None
    tokens = second.rows.n_tokens
    changed = changed_sets(first.router_topk[:tokens], second.router_topk)
    a = first.router_logits[:tokens].astype(np.float64)
    b = second.router_logits.astype(np.float64)
    size = np.maximum(np.linalg.norm(a, axis=-1), 1e-30)
    relative = np.linalg.norm(b - a, axis=-1) / size
    jumps = []
    for start, stop in second.rows.spans():
        token = np.flatnonzero(changed[start:stop].any(axis=1))[:1]
        if len(token) and token[0] > 0:
            at = start + int(token[0])
            layer = int(np.flatnonzero(changed[at])[0])
            before = float(np.median(relative[start:at, layer]))
            jumps.append(relative[at, layer] / max(before, np.finfo(np.float32).eps))
    return float(np.median(jumps)) if jumps else float("nan")


def _seen(observation: str, value: float, expected: str) -> Observation:
    return Observation(observation=observation, value=value, expected=expected)
