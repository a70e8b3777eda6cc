"""A trainer that contradicts itself: when that is the cause, and what is left without it."""

from __future__ import annotations

import numpy as np

from mismatch_lab.attribution.inquest import Inquest
from mismatch_lab.attribution.investigate import Inquiry
from mismatch_lab.attribution.naming import cause_observed, named_causes, own_cause
from mismatch_lab.attribution.observed_causes import coarse_module, observed_causes
from mismatch_lab.attribution.pursuit import MOSTLY
from mismatch_lab.attribution.repairs import error_of, repair_for
from mismatch_lab.attribution.self_disagreement import OTHER_BATCH, TRAINING, Disagreement
from mismatch_lab.attribution.suspects import Charge
from mismatch_lab.attribution.trials import confirmed_by
from mismatch_lab.schema import Cause

MATTERS = 0.05
"""The trainer's contradiction of itself counts as a cause of its error from this share on."""

HALF = 0.5
"""One simple defect that explains as much makes the trainer's contradiction its consequence:
coarse rounding falls otherwise in another batch."""


def with_own(
    inquest: Inquest, named: list[Cause], inquiry: Inquiry, own: list[Disagreement]
) -> list[Cause]:
    """Causes of the trainer's error, its contradictions of itself among them."""
    charge, localisation = inquiry.charge, inquest.found.localisation
    mine = [o for o in own if o.against != TRAINING]
    best = inquiry.pursuit.best
    explained = inquiry.done or (best is not None and best.explained >= HALF)
    if not mine or explained or mine[0].abs_delta_nats < MATTERS * charge.error_nats:
        return named
    sure = [cause for cause in named if cause.confidence > MOSTLY]
    if mine[0].against != OTHER_BATCH:
        return _without_dropout(inquest, mine[0], sure, charge)
    located = coarse_module(charge, inquest.found.captures, localisation, weights_equal=True)
    if located is not None and located.cause != "router-precision":
        # Coarse rounding falls otherwise in another batch.
        return [cause_observed(charge, located), *named]
    return [own_cause(mine[0], localisation), *sure]


def _without_dropout(
    inquest: Inquest, own: Disagreement, sure: list[Cause], charge: Charge
) -> list[Cause]:
    """A random trainer: disable dropout on trial, and look at what is left without it."""
    cause = own_cause(own, inquest.found.localisation)
    repair = repair_for("dropout-active", inquest.run)
    after = None if repair is None else inquest.trials.rescore(repair.label, repair.spec, "train")
    if repair is None or after is None:
        return [cause, *sure]
    left = error_of(after, charge.sound)
    if left >= charge.error_nats:
        return [cause, *sure]
    cause = confirmed_by(cause, f"trainer with {repair.label}", charge.error_nats, left)
    rest = inquest.search(inquest.repaired(charge, after, left))
    found = named_causes(rest, inquest.found.localisation)
    return [cause, *(found or _against_own_logits(inquest, charge))]


def _against_own_logits(inquest: Inquest, charge: Charge) -> list[Cause]:
    """Routers that choose against their own logits are wrong, whatever is random beside."""
    found = observed_causes(charge, inquest.found.captures, None, weights_equal=True)
    exact = ("routing-flips", "router-bias")
    return [cause_observed(charge, o) for o in found if o.cause in exact]


def in_training_mode(inquest: Inquest, own: list[Disagreement]) -> list[Cause]:
    """RL takes its gradients in training mode: what happens there alone counts too."""
    known = {cause.id for cause in inquest.outcome.causes}
    found = [o for o in own if o.against == TRAINING and o.cause not in known]
    return [_confirmed(inquest, o) for o in found]


def _confirmed(inquest: Inquest, own: Disagreement) -> Cause:
    """Put the suspected part back, and compare the passes of both modes again."""
    cause = own_cause(own, None)
    repair = repair_for(cause.id, inquest.run)
    if repair is None:
        return cause
    scored = inquest.trials.rescore(repair.label, repair.spec, "train")
    trained = (
        None
        if scored is None
        else inquest.trials.rescore(repair.label, repair.spec, "train", train_mode=True)
    )
    if scored is None or trained is None:
        return cause
    left = error_of(trained, scored.logp.astype(np.float64))
    experiment = f"trainer with {repair.label}, training against evaluation mode"
    return confirmed_by(cause, experiment, own.abs_delta_nats, left)
