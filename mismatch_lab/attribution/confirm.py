"""Experiments on the side itself: which of the causes in question goes away with which."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from mismatch_lab.attribution.candidates import Found, confirmed_by
from mismatch_lab.attribution.context import Context
from mismatch_lab.attribution.experiments import Choice, choices, next_choice
from mismatch_lab.attribution.experiments.base import DEFAULT, Experiment
from mismatch_lab.attribution.experiments.trainer import stock_module
from mismatch_lab.attribution.repairs import error_of
from mismatch_lab.attribution.suspects import Suspect
from mismatch_lab.attribution.thresholds import CONFIDENCE, THRESHOLDS
from mismatch_lab.attribution.trials import SCORED, Captures
from mismatch_lab.attribution.unlisted import UNLISTED
from mismatch_lab.schema import Cause, RuledOut


def confirmed(context: Context, suspect: Suspect, causes: Sequence[Cause]) -> Found:
    """The causes of one suspect after experiments on its side: ties broken where one could, and
    what is sure confirmed.

    Args:
        context: the run.
        suspect: the suspect and its error.
        causes: named so far, the surest first.
    """
    available = choices(context.run, suspect.name)
    tied = [cause for cause in causes if cause.decides]
    settled, ruled_out = _break_tie(context, suspect, tied, available) if tied else ([], [])
    others = [cause for cause in causes if cause not in tied]
    several = len(others) + bool(tied) > 1
    settled += [
        _confirm(context, suspect, cause, available, several)
        if cause.id != UNLISTED
        else _put_back(context, suspect, cause, others)
        for cause in others
    ]
    surest = sorted(settled, key=lambda cause: -cause.confidence)
    return Found(tuple(surest), ruled_out=tuple(ruled_out))


def tested(context: Context, suspect: Suspect, causes: Sequence[Cause]) -> Found:
    """Causes after experiments on the side itself; without any, at least what takes it away."""
    if causes:
        return confirmed(context, suspect, causes)
    gone = without_cause(context, suspect) if suspect.error_nats > suspect.noise_nats else None
    return Found(notes=() if gone is None else (gone,))


def without_cause(context: Context, suspect: Suspect) -> str | None:
    """Where no cause is known: what takes the error away, in a sentence; None if nothing does."""
    available = choices(context.run, suspect.name)
    available.sort(key=lambda choice: (choice.prepared.likely, choice.prepared.slower))
    for choice in available[: THRESHOLDS.experiments_without_cause]:
        left = _error_with(context, suspect, choice)
        if left is not None and _gone(suspect, left):
            return (
                f"No known cause explains the error of the {suspect.name}; with "
                f"{choice.experiment.changes} it is gone "
                f"({suspect.error_nats:.2g} -> {left:.2g} nats)."
            )
    return None


def _break_tie(
    context: Context, suspect: Suspect, tied: list[Cause], available: list[Choice]
) -> tuple[list[Cause], list[RuledOut]]:
    """Experiments of which the causes predict different things: what is left of them, and what is
    ruled out.
    """
    left_over, ruled_out = list(available), list[RuledOut]()
    for _ in range(THRESHOLDS.experiments_per_cause):
        choice = next_choice(left_over, {cause.id for cause in tied})
        if choice is None or len(tied) == 1:
            break
        left_over.remove(choice)
        left = _error_with(context, suspect, choice)
        if left is not None:
            kept = _after(tied, choice.experiment, suspect, left)
            because = f"the error {_becomes(suspect, left)} with {choice.experiment.changes}"
            staying = {cause.id for cause in kept}
            ruled_out += [RuledOut(id=c.id, because=because) for c in tied if c.id not in staying]
            tied = kept
    return tied, ruled_out


def _confirm(
    context: Context, suspect: Suspect, cause: Cause, available: list[Choice], several: bool
) -> Cause:
    """Put the suspected thing right alone, and see whether the effect goes."""
    if cause.confidence < THRESHOLDS.named_explained or any(
        seen.by == "side" for seen in cause.confirmed_by
    ):
        return cause
    left_over = list(available)
    for _ in range(THRESHOLDS.experiments_per_cause):
        choice = next_choice(left_over, {cause.id})
        if choice is None:
            break
        left_over = [c for c in left_over if c is not choice and c.prepared.likely < DEFAULT]
        left, before = _error_with(context, suspect, choice), suspect.error_nats
        if left is None:
            continue
        label = f"{suspect.name} with {choice.experiment.changes}"
        if _gone(
            suspect, left, THRESHOLDS.one_of_several_share if several else THRESHOLDS.gone_share
        ):
            return confirmed_by(cause, label, before, left)
        if (
            cause.id in choice.experiment.clears
            and left >= THRESHOLDS.stays_share * before
            and not several
        ):
            doubted = {"confidence": min(cause.confidence, CONFIDENCE.effect_stayed)}
            return confirmed_by(cause, label, before, left).model_copy(update=doubted)
    return cause


def _put_back(context: Context, suspect: Suspect, cause: Cause, others: list[Cause]) -> Cause:
    """A defect without a name, with its module put back; sure where that takes the error away."""
    assert cause.location is not None
    experiment = stock_module(cause.location)
    prepared = experiment.prepared(context.run) if cause.side == "train" else None
    left = None if prepared is None else _error_with(context, suspect, Choice(experiment, prepared))
    if left is None or not _gone(suspect, left, THRESHOLDS.one_of_several_share):
        return cause
    label = f"{suspect.name} with {experiment.changes}"
    cause = confirmed_by(cause, label, suspect.error_nats, left)
    if not _gone(suspect, left):
        return cause  # something else is wrong as well
    same = [c for c in others if c.location == cause.location and c.id != UNLISTED]
    named = max((c.confidence for c in same), default=0.0)
    return cause.model_copy(
        update={"confidence": round(min(CONFIDENCE.place_put_back, 1 - named), 3)}
    )


def _error_with(context: Context, suspect: Suspect, choice: Choice) -> float | None:
    """mean |error| in nats in the experiment; None where that could not be run."""
    trial = choice.prepared.trial
    if suspect.name == "decode" and trial.sampling is None:
        trial = replace(trial, sampling=context.run.probe.sampling)
    captures = context.trials.attempt(
        choice.experiment.changes, trial, suspect.name, choice.prepared.slower
    )
    if captures is None:
        return None
    left = _error(captures, suspect)
    outcome = f"mean |delta| {suspect.error_nats:.2g} -> {left:.2g} nats"
    context.trials.found(choice.experiment.changes, suspect.name, outcome)
    return left


def _error(captures: Captures, suspect: Suspect) -> float:
    if SCORED in captures:
        return error_of(captures[SCORED], suspect.expected)
    return error_of(captures["decode"], captures["prefill"].logp.astype(np.float64))


def _gone(suspect: Suspect, left: float, share: float = THRESHOLDS.gone_share) -> bool:
    """Whether what is left of the error is noise, or at most this share of it."""
    return left <= max(suspect.noise_nats, share * suspect.error_nats)


def _becomes(suspect: Suspect, left: float) -> str:
    return "is gone" if _gone(suspect, left) else "stays"


def _after(tied: list[Cause], experiment: Experiment, suspect: Suspect, left: float) -> list[Cause]:
    """What an experiment leaves of tied causes."""
    before = suspect.error_nats
    if _gone(suspect, left):
        label = f"{suspect.name} with {experiment.changes}"
        return [
            confirmed_by(cause, label, before, left) if cause.id in experiment.cures else cause
            for cause in _without(tied, experiment.leaves)
        ]
    return tied if left < THRESHOLDS.stays_share * before else _without(tied, experiment.clears)


def _without(tied: list[Cause], causes: Collection[str]) -> list[Cause]:
    """The tied causes without some; those that are left share the confidence of all."""
    kept = [cause for cause in tied if cause.id not in causes]
    if not kept or len(kept) == len(tied):
        return tied
    confidence = round(min(1.0, tied[0].confidence * len(tied) / len(kept)), 3)
    decides = kept[0].decides if len(kept) > 1 else ""
    return [c.model_copy(update={"confidence": confidence, "decides": decides}) for c in kept]
