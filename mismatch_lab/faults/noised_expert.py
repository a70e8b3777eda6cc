"""One expert of the engine is corrupt after a reload in pieces."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.architectures import is_moe, middle, middle_layer
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.modules import is_vllm, layers

EXPERT = 1


def plant(model: Any, strength: float) -> None:
    """Noise of `strength` deviations on the second matrix of one expert of the middle layer."""
    import torch

    config = model.config.to_dict()
    experts = layers(model)[middle_layer(config)].mlp.experts
    weight = experts.routed_experts.w2_weight if is_vllm(model) else experts.down_proj
    one = weight.data[EXPERT]
    noise = torch.randn(one.shape, generator=torch.Generator().manual_seed(0))
    one.add_(strength * one.float().std() * noise.to(one))


FAULT = Fault(
    id="noised-expert",
    about="one expert of the engine holds other numbers",
    causes=("stale-tensor",),
    family="weights",
    side="infer",
    kind="plugin",
    severities={"plain": 1.0, "medium": 0.2, "slight": 0.05},
    applies=is_moe,
    expected_location=middle("mlp.experts"),
    plant=plant,
)
