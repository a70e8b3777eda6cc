"""Where no known cause explains a side: the module that is wrong, and how it is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mismatch_lab.attribution.build_cause import Side, build_cause
from mismatch_lab.attribution.causes import Family
from mismatch_lab.attribution.fit import Fit
from mismatch_lab.attribution.hypotheses import Hypothesis
from mismatch_lab.attribution.pursuit import MOSTLY
from mismatch_lab.attribution.suspects import Charge
from mismatch_lab.captures.capture import Capture
from mismatch_lab.captures.names import HEAD
from mismatch_lab.findings.module_error import module_pair
from mismatch_lab.findings.modules import execution_order
from mismatch_lab.schema import Cause, Localisation, ModuleError, Observation

UNLISTED = "unlisted"

CONVINCING = 0.6
"""A cause that is named with more confidence than this leaves nothing unlisted."""

PARTS: dict[str, Family] = {"self_attn": "attention", "norm": "precision"}
"""Part of a module's name -> family of what goes wrong there."""


def contradicted(found: Fit, charge: Charge, localisation: Localisation | None) -> bool:
    """Whether the side is wrong before anything that the explanation changes, and much is left.

    Modules are compared on equal inputs: a defect of the head alone leaves every layer exact.
    """
    first = _first_wrong(charge, localisation)
    if first is None or found.explained >= MOSTLY:
        return False
    return all(_acts_after(hypothesis, first.name) for hypothesis in found.explanation)


def unlisted_cause(
    charge: Charge,
    captures: Mapping[str, Capture],
    localisation: Localisation | None,
    config: dict[str, Any],
) -> Cause | None:
    """The first wrong module as a cause of its own; None where modules were not compared, or none
    of them is wrong on this side.
    """
    first = _first_wrong(charge, localisation)
    if first is None:
        return None
    train = charge.suspect == "train"
    error = first.train_error if train else first.infer_error
    shape = _shape(captures["train_on_infer" if train else "prefill"], captures, first.name)
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
    found = build_cause(UNLISTED, side, CONVINCING, why, evidence, location=first.name)
    return found.model_copy(update={"family": _family(first.name, config)})


def _first_wrong(charge: Charge, localisation: Localisation | None) -> ModuleError | None:
    if localisation is None or localisation.side != charge.suspect:
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


def _shape(wrong: Capture, captures: Mapping[str, Capture], module: str) -> list[Observation]:
    """How the module's output is wrong: longer or shorter, or turned."""
    left, right = module_pair(wrong, captures["ref_on_infer"], module)
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
