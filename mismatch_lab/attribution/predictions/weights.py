"""Weights that are not those of the checkpoint."""

from __future__ import annotations

from mismatch_lab.attribution.clues import Clues
from mismatch_lab.attribution.hypotheses import Hypothesis
from mismatch_lab.schema import Alteration

SINGLE_TENSORS = 400
"""With more changed tensors than this, single ones are not tried one by one."""


def quantised(clues: Clues) -> list[Hypothesis]:
    """Matrices rounded through a coarse format."""
    return [
        Hypothesis(
            "weight-quantisation",
            f"weights rounded through {kind}",
            model=(Alteration(name="weight_dtype", value=kind),),
        )
        for kind in ("float8_e4m3fn", "int8", "int4", "bfloat16")
    ]


def stale(clues: Clues) -> list[Hypothesis]:
    """All weights those before the update."""
    if clues.weights_before is None:
        return []
    change = Alteration(name="weights_from", value=clues.weights_before)
    return [
        Hypothesis(
            "stale-weights", "all weights are those before the last update", model=(change,)
        )
    ]


def stale_tensor(clues: Clues) -> list[Hypothesis]:
    """One tensor that of before the update."""
    if clues.weights_before is None or len(clues.changed) > SINGLE_TENSORS:
        return []
    return [
        Hypothesis(
            "stale-tensor",
            f"{name} is that of before the last update",
            model=(
                Alteration(name="weights_from", value=clues.weights_before, tensors=(name,)),
            ),
            location=name,
        )
        for name in clues.changed
    ]
