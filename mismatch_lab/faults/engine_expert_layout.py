"""The engine's loader stores the experts' fused gate and up projections in the other layout."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.architectures import first_experts, is_moe
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.expert_layout import swapped
from mismatch_lab.faults.modules import moe, share_of


def plant(model: Any, strength: float) -> None:
    """vLLM: in the first `strength` share of the layers gate and up change places."""
    for layer in share_of(moe(model), strength):
        experts = layer.mlp.experts.routed_experts
        interleaved = hasattr(experts, "w13_bias")  # GPT-OSS
        for name in ("w13_weight", "w13_bias") if interleaved else ("w13_weight",):
            fused = getattr(experts, name).data
            fused.copy_(swapped(fused, 1, interleaved))


FAULT = Fault(
    id="engine-expert-layout",
    about="gate and up projections of the engine's experts swapped",
    causes=("expert-layout",),
    family="moe",
    side="infer",
    kind="plugin",
    severities={"plain": 1.0, "medium": 0.5, "slight": 0.25},
    applies=is_moe,
    expected_location=first_experts,
    engines=("vllm",),
    plant=plant,
)
