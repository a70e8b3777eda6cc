"""Where no known cause explains a side: the module that is wrong, and how it is wrong; and whose
code that is.

An engine that differs from transformers is wrong only if something apart from both says so; and a
trainer that differs from the model's definition may do so in code that is not its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from mismatch_lab.attribution.candidates import Side, build_cause
from mismatch_lab.attribution.causes import Family
from mismatch_lab.attribution.fit import Fit
from mismatch_lab.attribution.hypotheses import Hypothesis
from mismatch_lab.attribution.suspects import SIDE, Suspect
from mismatch_lab.attribution.thresholds import CONFIDENCE, THRESHOLDS
from mismatch_lab.captures.capture import Capture
from mismatch_lab.captures.names import HEAD
from mismatch_lab.findings.held_against import held_against
from mismatch_lab.findings.module_error import execution_order, module_pair
from mismatch_lab.schema import Cause, Localisation, ModuleError, Observation, ReferenceCheck

UNLISTED = "unlisted"


PARTS: dict[str, Family] = {"self_attn": "attention", "norm": "precision"}
"""Part of a module's name -> family of what goes wrong there."""


def contradicted(found: Fit, suspect: Suspect, localisation: Localisation | None) -> bool:
    """Whether the side is wrong before anything that the explanation changes, and much is left.

    Modules are compared on equal inputs: a defect of the head alone leaves every layer exact.
    """
    first = _first_wrong(suspect, localisation)
    if first is None or found.explained >= THRESHOLDS.mostly_explained:
        return False
    return all(_acts_after(hypothesis, first.name) for hypothesis in found.explanation)


def unlisted_cause(
    suspect: Suspect,
    captures: Mapping[str, Capture],
    localisation: Localisation | None,
    config: dict[str, Any],
) -> Cause | None:
    """The first wrong module as a cause of its own; None where modules were not compared, or none
    of them is wrong on this side.
    """
    first = _first_wrong(suspect, localisation)
    if first is None:
        return None
    train = suspect.name == "train"
    error = first.train_error if train else first.infer_error
    shape = _shape(captures, SIDE[suspect.name], first.name)
    evidence = [
        Observation(
            observation=f"relative error of {first.name} on equal inputs",
            value=error,
            expected=f"about {first.floor:.2g}",
        ),
        *shape,
    ]
    looks = " ".join(f"{seen.observation.capitalize()}: {seen.value:.3g}." for seen in shape)
    side: Side = "train" if train else "infer"
    why = (
        f"{first.name} is the first module that is wrong on equal inputs, "
        f"{error / first.floor:.2g} times its floor, and no known cause predicts what it does."
    )
    why = f"{why} {looks}".rstrip()
    found = build_cause(UNLISTED, side, CONFIDENCE.unlisted, why, evidence, location=first.name)
    return found.model_copy(update={"family": _family(first.name, config)})


def _first_wrong(suspect: Suspect, localisation: Localisation | None) -> ModuleError | None:
    if localisation is None or localisation.side != suspect.name:
        return None
    first = localisation.first_divergent_module
    return next((module for module in localisation.per_module if module.name == first), None)


def _acts_after(hypothesis: Hypothesis, module: str) -> bool:
    if hypothesis.location is None and hypothesis.model:
        return False  # anywhere
    if hypothesis.packing is not None:
        return False
    return _block(module) < _block(hypothesis.location or HEAD)


def _block(name: str) -> tuple[int, int]:
    """When the part of the layer that a module or tensor belongs to has run."""
    parts = name.split(".")
    return execution_order(".".join(parts[:4]) if "layers" in parts else name)


def _shape(
    captures: Mapping[str, Capture], side: Literal["infer", "train"], module: str
) -> list[Observation]:
    """How the module's output is wrong: longer or shorter, or turned."""
    wrong, expected = held_against(captures, side)
    left, right = module_pair(captures[wrong], captures[expected], module)
    if left is None or right is None:
        return []
    rows = np.isfinite(left).all(axis=1) & np.isfinite(right).all(axis=1)
    a, b = left[rows].astype(np.float64), right[rows].astype(np.float64)
    lengths = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    some = (lengths[0] > 0) & (lengths[1] > 0)
    if not some.any():
        return []
    ratio = np.median(lengths[0][some] / lengths[1][some])
    turned = np.median((a * b).sum(axis=1)[some] / (lengths[0] * lengths[1])[some])
    return [
        Observation(
            observation="length of its output over the reference's, median",
            value=float(ratio),
            expected="1",
        ),
        Observation(
            observation="cosine between its output and the reference's, median",
            value=float(turned),
            expected="1; with another length, a wrong scale",
        ),
    ]


def _family(module: str, config: dict[str, Any]) -> Family:
    for part, family in PARTS.items():
        if part in module:
            return family
    experts = any("expert" in key for key in config)
    return "moe" if ".mlp" in module and experts else "semantics"


BY_ITSELF = ("stale-tensor", "stale-weights", "untied-head", "weight-quantisation")
"""Causes that weights show which are not the checkpoint's: no reference is needed for those."""


def on_whose_side(
    causes: list[Cause], suspect: Suspect, reference: ReferenceCheck | None
) -> list[Cause]:
    """The causes of one suspect with what the check of the reference says of its side.

    Args:
        causes: after experiments.
        suspect: the suspect.
        reference: the check, where it was due.
    """
    if reference is None:
        return causes
    if suspect.name == "infer" and reference.is_open:
        return [_left_open(cause, reference) for cause in causes]
    if suspect.name == "train" and reference.outcome == "contradicts":
        named = [_shared(cause, reference) for cause in causes]
        placed = any(
            cause.confidence > CONFIDENCE.contradicted_by_definition
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
        told |= {"confidence": max(cause.confidence, CONFIDENCE.contradicted_by_definition)}
        told |= {"evidence": [*cause.evidence, _apart(reference)]}
    return cause.model_copy(update=told)


def _located(reference: ReferenceCheck) -> list[Cause]:
    if reference.location is None:
        return []
    place, why = reference.location, _where(reference)
    return [
        build_cause(
            UNLISTED,
            "train",
            CONFIDENCE.contradicted_by_definition,
            why,
            [_apart(reference)],
            location=place,
        )
    ]


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
