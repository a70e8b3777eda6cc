"""A trainer that contradicts itself: dropout, kernels that depend on the batch, or routers that
choose otherwise in the second pass; when that is the cause, and what is left without it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mismatch_lab.attribution.candidates import Found, build_cause, confirmed_by
from mismatch_lab.attribution.context import Context, where_simulated
from mismatch_lab.attribution.explain import Simulated, simulate
from mismatch_lab.attribution.naming import cause_observed, named_causes
from mismatch_lab.attribution.observed_causes import coarse_module, observed_causes
from mismatch_lab.attribution.repairs import error_of, repair_for, repaired
from mismatch_lab.attribution.routers import after_change, changed_sets, finite_mean, layer_number
from mismatch_lab.attribution.suspects import Suspect
from mismatch_lab.attribution.thresholds import CONFIDENCE, THRESHOLDS
from mismatch_lab.captures.capture import Capture
from mismatch_lab.schema import Cause, Localisation, Observation

AGAIN, OTHER_BATCH, TRAINING = "train_repeat", "train_micro_batch", "train_mode"
WHAT = {
    AGAIN: "the same pass again",
    OTHER_BATCH: "the same rows in another micro-batch",
    TRAINING: "the same pass in training mode",
}


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
        if one is not None and one.abs_delta_nats > THRESHOLDS.training_mode_factor * known:
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
    quiet = (
        before <= THRESHOLDS.untouched_share * after if np.isfinite(before) else gate <= noise_nats
    )
    jump = _jump(first, second)
    evidence.append(
        _seen(
            "router logits at the first change of experts of each row, relative difference over "
            "that of tokens before",
            jump,
            "near 1 where the routers' own noise changes choices",
        )
    )
    routers = touched.any() and quiet and not jump > THRESHOLDS.router_jump
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


def own_cause(own: Disagreement, localisation: Localisation | None) -> Cause:
    """The cause of a trainer that contradicts itself; without a place of its own, where the
    trainer's modules leave their floor first.
    """
    location = own.location
    if location is None and localisation is not None and localisation.side == "train":
        location = localisation.first_divergent_module
    why = (
        f"The trainer disagrees with itself ({own.against.replace('_', ' ')}), whatever the "
        "engine says."
    )
    return build_cause(
        own.cause, "train", CONFIDENCE.own_contradiction, why, own.evidence, location=location
    )


def with_own(
    context: Context, named: list[Cause], simulated: Simulated, own: Sequence[Disagreement]
) -> Found:
    """Causes of the trainer's error, its contradictions of itself among them."""
    suspect, localisation = simulated.suspect, context.measured.localisation
    mine = [o for o in own if o.against != TRAINING]
    best = simulated.outcome.best
    explained = simulated.done or (
        best is not None and best.explained >= THRESHOLDS.own_consequence_explained
    )
    if (
        not mine
        or explained
        or mine[0].abs_delta_nats < THRESHOLDS.own_error_share * suspect.error_nats
    ):
        return Found(tuple(named))
    sure = [cause for cause in named if cause.confidence > THRESHOLDS.mostly_explained]
    if mine[0].against != OTHER_BATCH:
        return _without_dropout(context, mine[0], sure, suspect)
    located = coarse_module(suspect, context.measured.captures, localisation, weights_equal=True)
    if located is not None and located.cause != "router-precision":
        # Coarse rounding falls otherwise in another batch.
        return Found((cause_observed(suspect, located), *named))
    return Found((own_cause(mine[0], localisation), *sure))


def _without_dropout(
    context: Context, own: Disagreement, sure: list[Cause], suspect: Suspect
) -> Found:
    """A random trainer: disable dropout on trial, and look at what is left without it."""
    localisation = context.measured.localisation
    cause = own_cause(own, localisation)
    repair = repair_for("dropout-active", context.run)
    after = None if repair is None else context.trials.rescore(repair.label, repair.spec, "train")
    if repair is None or after is None:
        return Found((cause, *sure))
    left = error_of(after, suspect.expected)
    if left >= suspect.error_nats:
        return Found((cause, *sure))
    cause = confirmed_by(cause, f"trainer with {repair.label}", suspect.error_nats, left)
    rest = simulate(context, repaired(suspect, after, left))
    where = where_simulated(context.measured, suspect.name)
    found = named_causes(rest, where) or _against_own_logits(context, suspect)
    return Found((cause, *found), rest.formats)


def _against_own_logits(context: Context, suspect: Suspect) -> list[Cause]:
    """Routers that choose against their own logits are wrong, whatever is random beside."""
    found = observed_causes(suspect, context.measured.captures, None, weights_equal=True)
    exact = ("routing-flips", "router-bias")
    return [cause_observed(suspect, o) for o in found if o.cause in exact]


def in_training_mode(
    context: Context, own: Sequence[Disagreement], known: Collection[str]
) -> list[Cause]:
    """RL takes its gradients in training mode: what happens there alone counts too, beside the
    causes that are known already.
    """
    found = [o for o in own if o.against == TRAINING and o.cause not in known]
    return [_confirmed(context, o) for o in found]


def _confirmed(context: Context, own: Disagreement) -> Cause:
    """Put the suspected part back, and compare the passes of both modes again."""
    cause = own_cause(own, None)
    repair = repair_for(cause.id, context.run)
    if repair is None:
        return cause
    scored = context.trials.rescore(repair.label, repair.spec, "train")
    trained = (
        None
        if scored is None
        else context.trials.rescore(repair.label, repair.spec, "train", train_mode=True)
    )
    if scored is None or trained is None:
        return cause
    left = error_of(trained, scored.logp.astype(np.float64))
    experiment = f"trainer with {repair.label}, training against evaluation mode"
    return confirmed_by(cause, experiment, own.abs_delta_nats, left)
