"""Whose code is wrong, where the trainer's is the reference's too.

An engine that differs from transformers is wrong only if something apart from both says so; and a
trainer that differs from the model's definition may do so in code that is not its own.
"""

from __future__ import annotations

from mismatch_lab.attribution.build_cause import build_cause
from mismatch_lab.attribution.suspects import Charge
from mismatch_lab.attribution.unlisted import UNLISTED
from mismatch_lab.schema import Cause, Observation, ReferenceCheck

BY_ITSELF = ("stale-tensor", "stale-weights", "untied-head", "weight-quantisation")
"""Causes that weights show which are not the checkpoint's: no reference is needed for those."""

LOCATED = 0.6
"""Confidence in a place in transformers' code that the model's definition contradicts, where no
cause predicts what that code computes."""


def on_whose_side(
    causes: list[Cause], charge: Charge, reference: ReferenceCheck | None
) -> list[Cause]:
    """The causes of one suspect with what the check of the reference says of its side.

    Args:
        causes: after experiments.
        charge: the suspect.
        reference: the check, where it was due.
    """
    if reference is None:
        return causes
    if charge.suspect == "infer" and reference.is_open:
        return [_left_open(cause, reference) for cause in causes]
    if charge.suspect == "train" and reference.outcome == "contradicts":
        named = [_shared(cause, reference) for cause in causes]
        placed = any(
            cause.confidence > LOCATED
            or (cause.id == UNLISTED and cause.location == reference.location)
            for cause in named
        )
        return named if placed else [*_located(reference), *named]
    return causes


def _left_open(cause: Cause, reference: ReferenceCheck) -> Cause:
    """Undecided, unless the engine itself showed it."""
    tried = [seen for seen in cause.confirmed_by if seen.by == "side"]
    on_the_engine = any(seen.after < seen.before for seen in tried)
    if cause.side != "infer" or cause.id in BY_ITSELF or on_the_engine:
        return cause
    return cause.model_copy(
        update={"side": "undecided", "why": f"{cause.why} {reference.why}".strip()}
    )


def _shared(cause: Cause, reference: ReferenceCheck) -> Cause:
    told: dict[str, object] = {"why": f"{cause.why} {_where(reference)}".strip()}
    if cause.id == UNLISTED and cause.location == reference.location:
        told |= {"confidence": max(cause.confidence, LOCATED)}
        told |= {"evidence": [*cause.evidence, _apart(reference)]}
    return cause.model_copy(update=told)


def _located(reference: ReferenceCheck) -> list[Cause]:
    if reference.location is None:
        return []
    place, why = reference.location, _where(reference)
    return [build_cause(UNLISTED, "train", LOCATED, why, [_apart(reference)], location=place)]


def _apart(reference: ReferenceCheck) -> Observation:
    return Observation(
        observation="transformers against the model's definition, mean |delta| in nats",
        value=reference.definition_ref_nats,
        expected="1e-6 or less in float32",
    )


def _where(reference: ReferenceCheck) -> str:
    place = f" in {reference.location}" if reference.location else ""
    return (
        f"It is transformers' own code that differs from the model's definition{place}, shared "
        "with the usual reference."
    )
