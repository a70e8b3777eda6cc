"""Weights that are not those of the checkpoint."""

from __future__ import annotations

from mismatch_lab.attribution.clues import Clues
from mismatch_lab.attribution.hypotheses import Hypothesis
from mismatch_lab.schema import Alteration
from mismatch_lab.tensor_patterns import only_projections

SINGLE_TENSORS = 60
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
    """All weights those before the update; in sampling alone, a graph that still holds them."""
    if clues.weights_before is None or not clues.changed:
        return []
    if clues.suspect == "decode":
        return [
            _old(clues, "stale-graph", "sampling runs with the weights before the update", None)
        ]
    if adapted(clues) == clues.changed:
        return []
    return [_old(clues, "stale-weights", "all weights are those before the last update", None)]


def adapter(clues: Clues) -> list[Hypothesis]:
    """What an adapter changed is as it was before."""
    tensors = adapted(clues)
    if not tensors or clues.suspect == "decode":
        return []
    label = "the adapter's change is missing in every tensor that it changed"
    return [_old(clues, "adapter-not-delivered", label, tensors)]


def adapted(clues: Clues) -> tuple[str, ...]:
    """Tensors that an adapter changed: by a low rank, or, where stored values are too coarse to
    tell the rank, projections alone while all else stayed.
    """
    if clues.low_rank:
        return clues.low_rank
    return clues.changed if only_projections(clues.changed) else ()


def stale_tensor(clues: Clues) -> list[Hypothesis]:
    """One tensor that of before the update."""
    tied = bool(clues.config.get("tie_word_embeddings"))
    few = len(clues.changed) <= SINGLE_TENSORS
    if clues.weights_before is None or clues.suspect == "decode" or not few:
        return []
    return [
        _old(
            clues,
            "untied-head" if name.startswith("lm_head") and tied else "stale-tensor",
            f"{name} is that of before the last update",
            (name,),
        )
        for name in (*clues.changed, *(("lm_head.weight",) if tied else ()))
    ]


def _old(clues: Clues, cause: str, label: str, tensors: tuple[str, ...] | None) -> Hypothesis:
    change = Alteration(name="weights_from", value=clues.weights_before, tensors=tensors)
    location = None if tensors is None else tensors[0]
    return Hypothesis(cause, label, model=(change,), location=location)
