"""The trainer reads the experts' fused gate and up projections in the other layout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mismatch_lab.faults.architectures import first_experts, is_moe
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.modules import moe, share_of

if TYPE_CHECKING:
    from torch import Tensor


def plant(model: Any, strength: float) -> None:
    """In the first `strength` share of the layers gate and up are in each other's place."""
    for layer in share_of(moe(model), strength):
        experts = layer.mlp.experts
        interleaved = hasattr(experts, "gate_up_proj_bias")  # GPT-OSS
        axis = 2 if interleaved else 1
        experts.gate_up_proj.data.copy_(swapped(experts.gate_up_proj.data, axis, interleaved))
        if interleaved:
            bias = experts.gate_up_proj_bias.data
            bias.copy_(swapped(bias, 1, interleaved))


def swapped(fused: Tensor, axis: int, interleaved: bool) -> Tensor:
    """Gate and up change places along `axis`, where they alternate or stand one after another."""
    shape = list(fused.shape)
    shape[axis : axis + 1] = [-1, 2] if interleaved else [2, shape[axis] // 2]
    return fused.reshape(shape).flip(axis + interleaved).reshape(fused.shape)


FAULT = Fault(
    id="expert-layout",
    about="gate and up projections of the trainer's experts swapped",
    causes=("expert-layout",),
    family="moe",
    side="train",
    kind="plugin",
    severities={"plain": 1.0, "medium": 0.5, "slight": 0.25},
    applies=is_moe,
    expected_location=first_experts,
    plant=plant,
)
