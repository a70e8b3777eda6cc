"""Weights that are not those of the checkpoint."""

from __future__ import annotations

from dataclasses import replace

from mismatch_lab.attribution.hypotheses import Features, Hypothesis
from mismatch_lab.attribution.thresholds import THRESHOLDS
from mismatch_lab.checkpoints.tensor_patterns import only_projections
from mismatch_lab.schema import Alteration


def quantised(features: Features) -> list[Hypothesis]:
    """Matrices rounded through a coarse format."""
    return [
        Hypothesis(
            "weight-quantisation",
            f"weights rounded through {kind}",
            model=(Alteration(name="weight_dtype", value=kind),),
        )
        for kind in ("float8_e4m3fn", "int8", "int4", "bfloat16")
    ]


def stale(features: Features) -> list[Hypothesis]:
    """All weights those before the update; in sampling alone, a graph that still holds them."""
    if features.weights_before is None or not features.changed:
        return []
    if features.suspect == "decode":
        return [
            _old(features, "stale-graph", "sampling runs with the weights before the update", None)
        ]
    if adapted(features) == features.changed:
        return []
    old = _old(features, "stale-weights", "all weights are those before the last update", None)
    if features.suspect == "infer" and features.of_sampling and features.replays_graphs:
        # A graph that still holds them samples with the same weights; only a re-scoring is right.
        old = replace(old, same_in_record=("stale-graph",))
    return [old]


def adapter(features: Features) -> list[Hypothesis]:
    """What an adapter changed is as it was before."""
    tensors = adapted(features)
    if not tensors or features.suspect == "decode":
        return []
    label = "the adapter's change is missing in every tensor that it changed"
    return [_old(features, "adapter-not-delivered", label, tensors)]


def adapted(features: Features) -> tuple[str, ...]:
    """Tensors that an adapter changed: by a low rank, or, where stored values are too coarse to
    tell the rank, projections alone while all else stayed.
    """
    if features.low_rank:
        return features.low_rank
    return features.changed if only_projections(features.changed) else ()


def stale_tensor(features: Features) -> list[Hypothesis]:
    """One tensor that of before the update."""
    tied = bool(features.config.get("tie_word_embeddings"))
    few = len(features.changed) <= THRESHOLDS.single_tensors
    if features.weights_before is None or features.suspect == "decode" or not few:
        return []
    return [
        _old(
            features,
            "untied-head" if name.startswith("lm_head") and tied else "stale-tensor",
            f"{name} is that of before the last update",
            (name,),
        )
        for name in (*features.changed, *(("lm_head.weight",) if tied else ()))
    ]


def _old(features: Features, cause: str, label: str, tensors: tuple[str, ...] | None) -> Hypothesis:
    change = Alteration(name="weights_from", value=features.weights_before, tensors=tensors)
    location = None if tensors is None else tensors[0]
    delivered = cause in ("stale-weights", "stale-tensor", "adapter-not-delivered")
    return Hypothesis(cause, label, (change,), location=location, of_delivery=delivered)
