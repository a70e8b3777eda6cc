"""What a model's experts need, whichever way they are run: where a layer grows to 180 GiB."""

from __future__ import annotations

from dataclasses import dataclass

from mismatch_lab.remedies.grouped_experts.memory import GIB, KEPT, kept_bytes, largest_bytes
from mismatch_lab.trainer.planner.activations import Pass

ABOUT = {"repeat": " (transformers 4.55 to 4.57, eval)"}
"""Of ways that not every transformers has."""


@dataclass(frozen=True)
class ExpertWay:
    """One way to run the experts of a micro-batch, by formula."""

    way: str
    largest_gib: float
    """The largest tensor of one layer's forward pass."""
    kept_gib: float
    """From forward to backward, of all layers, without checkpointed activations."""
    used: bool
    """By this run."""


def expert_ways(run: Pass) -> tuple[ExpertWay, ...]:
    """Of GPT-OSS, whose gate the formulas count; empty for other models."""
    if run.shape.family != "gpt_oss":
        return ()
    layer = run.expert_layers
    return tuple(
        ExpertWay(
            way,
            largest_bytes(way, layer, run.tokens) / GIB,
            kept_bytes(way, layer, run.tokens) * layer.layers / GIB,
            way == run.experts,
        )
        for way in KEPT
    )
