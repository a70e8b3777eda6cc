"""Experiments on the side itself: which of the causes in question goes away with which knob."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from mismatch_lab.attribution.inquest import Inquest
from mismatch_lab.attribution.knobs.base import DEFAULT, Knob
from mismatch_lab.attribution.knobs.choose import Choice, choices, next_choice
from mismatch_lab.attribution.knobs.modules import stock_module
from mismatch_lab.attribution.naming import NAMED
from mismatch_lab.attribution.repairs import error_of
from mismatch_lab.attribution.suspects import Charge
from mismatch_lab.attribution.trials import SCORED, Captures, confirmed_by
from mismatch_lab.attribution.unlisted import UNLISTED
from mismatch_lab.schema import Cause, RuledOut

GONE, STAYS = 0.2, 0.5
"""Shares of the error up to which it is gone, and from which it stays. Nothing is concluded
between them."""

LESS = 0.9
"""Share of the error that is left at most where one of several causes is put right."""

MOST_TURNS = 2
"""Knobs turned for one cause, or for one tie."""

MOST_TURNS_BLIND = 3
"""Knobs turned where no cause is known."""

LOCATED = 0.9
"""Confidence in a place without a name, where putting it back takes the error away. A cause that
acts in the same place has a share of it."""

DOUBTED = 0.5
"""Confidence in a cause whose effect stayed where it had to go."""


def confirmed(inquest: Inquest, charge: Charge, causes: list[Cause]) -> list[Cause]:
    """The causes of one suspect after experiments on its side: ties broken where a knob could, and
    what is sure confirmed.

    Args:
        inquest: the run.
        charge: the suspect and its error.
        causes: named so far, the surest first.
    """
    available = choices(inquest.run, charge.suspect)
    tied = [cause for cause in causes if cause.decides]
    settled = _break_tie(inquest, charge, tied, available) if tied else []
    others = [cause for cause in causes if cause not in tied]
    several = len(others) + bool(tied) > 1
    settled += [
        _confirm(inquest, charge, cause, available, several)
        if cause.id != UNLISTED
        else _put_back(inquest, charge, cause, others)
        for cause in others
    ]
    return sorted(settled, key=lambda cause: -cause.confidence)


def without_cause(inquest: Inquest, charge: Charge) -> str | None:
    """Where no cause is known: the knob that takes the error away, in a sentence; None if none."""
    available = choices(inquest.run, charge.suspect)
    available.sort(key=lambda choice: (choice.turn.likely, choice.turn.slower))
    for choice in available[:MOST_TURNS_BLIND]:
        left = _error_with(inquest, charge, choice)
        if left is not None and _gone(charge, left):
            return (
                f"No known cause explains the error of the {charge.suspect}; with "
                f"{choice.knob.does} it is gone ({charge.error_nats:.2g} -> {left:.2g} nats)."
            )
    return None


def _break_tie(
    inquest: Inquest, charge: Charge, tied: list[Cause], available: list[Choice]
) -> list[Cause]:
    """Turn knobs of which the causes predict different things."""
    left_over = list(available)
    for _ in range(MOST_TURNS):
        choice = next_choice(left_over, {cause.id for cause in tied})
        if choice is None or len(tied) == 1:
            break
        left_over.remove(choice)
        left = _error_with(inquest, charge, choice)
        if left is not None:
            tied = _after(inquest, tied, choice.knob, charge, left)
    return tied


def _confirm(
    inquest: Inquest, charge: Charge, cause: Cause, available: list[Choice], several: bool
) -> Cause:
    """Put the suspected thing right alone, and see whether the effect goes."""
    if cause.confidence < NAMED or any(seen.by == "side" for seen in cause.confirmed_by):
        return cause
    left_over = list(available)
    for _ in range(MOST_TURNS):
        choice = next_choice(left_over, {cause.id})
        if choice is None:
            break
        left_over = [c for c in left_over if c is not choice and c.turn.likely < DEFAULT]
        left, before = _error_with(inquest, charge, choice), charge.error_nats
        if left is None:
            continue
        experiment = f"{charge.suspect} with {choice.knob.does}"
        if _gone(charge, left, LESS if several else GONE):
            return confirmed_by(cause, experiment, before, left)
        if cause.id in choice.knob.clears and left >= STAYS * before and not several:
            doubted = {"confidence": min(cause.confidence, DOUBTED)}
            return confirmed_by(cause, experiment, before, left).model_copy(update=doubted)
    return cause


def _put_back(inquest: Inquest, charge: Charge, cause: Cause, others: list[Cause]) -> Cause:
    """A defect without a name, with its module put back; sure where that takes the error away."""
    assert cause.location is not None
    knob = stock_module(cause.location)
    turn = knob.turn(inquest.run) if cause.side == "train" else None
    left = None if turn is None else _error_with(inquest, charge, Choice(knob, turn))
    if left is None or not _gone(charge, left, LESS):
        return cause
    experiment = f"{charge.suspect} with {knob.does}"
    cause = confirmed_by(cause, experiment, charge.error_nats, left)
    if not _gone(charge, left):
        return cause  # something else is wrong as well
    same = [c for c in others if c.location == cause.location and c.id != UNLISTED]
    named = max((c.confidence for c in same), default=0.0)
    return cause.model_copy(update={"confidence": round(min(LOCATED, 1 - named), 3)})


def _error_with(inquest: Inquest, charge: Charge, choice: Choice) -> float | None:
    """mean |error| in nats with the knob turned; None where that could not be run."""
    trial = choice.turn.trial
    if charge.suspect == "decode" and trial.sampling is None:
        trial = replace(trial, sampling=inquest.run.probe.sampling)
    captures = inquest.trials.attempt(choice.knob.does, trial, charge.suspect, choice.turn.slower)
    if captures is None:
        return None
    left = _error(captures, charge)
    outcome = f"mean |delta| {charge.error_nats:.2g} -> {left:.2g} nats"
    inquest.trials.found(choice.knob.does, charge.suspect, outcome)
    return left


def _error(captures: Captures, charge: Charge) -> float:
    if SCORED in captures:
        return error_of(captures[SCORED], charge.sound)
    return error_of(captures["decode"], captures["prefill"].logp.astype(np.float64))


def _gone(charge: Charge, left: float, share: float = GONE) -> bool:
    """Whether what is left of the error is noise, or at most this share of it."""
    return left <= max(charge.noise_nats, share * charge.error_nats)


def _after(
    inquest: Inquest, tied: list[Cause], knob: Knob, charge: Charge, left: float
) -> list[Cause]:
    """What an experiment leaves of tied causes."""
    before = charge.error_nats
    if _gone(charge, left):
        kept = _drop(inquest, tied, knob.keeps, f"the error is gone with {knob.does}")
        experiment = f"{charge.suspect} with {knob.does}"
        return [
            confirmed_by(cause, experiment, before, left) if cause.id in knob.cures else cause
            for cause in kept
        ]
    if left < STAYS * before:
        return tied
    return _drop(inquest, tied, knob.clears, f"the error stays with {knob.does}")


def _drop(
    inquest: Inquest, tied: list[Cause], causes: Collection[str], because: str
) -> list[Cause]:
    """The tied causes without some; those that are left share the confidence of all."""
    kept = [cause for cause in tied if cause.id not in causes]
    if not kept or len(kept) == len(tied):
        return tied
    inquest.outcome.ruled_out += [
        RuledOut(id=cause.id, because=because) for cause in tied if cause not in kept
    ]
    confidence = round(min(1.0, tied[0].confidence * len(tied) / len(kept)), 3)
    decides = kept[0].decides if len(kept) > 1 else ""
    return [c.model_copy(update={"confidence": confidence, "decides": decides}) for c in kept]
