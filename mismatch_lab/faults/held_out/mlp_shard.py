"""One rank's part of an MLP is missing from the engine's sum."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.architectures import middle
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.held_out.parts import UNLISTED, middle_of
from mismatch_lab.faults.modules import is_vllm


def plant(model: Any, strength: float) -> None:
    """The last `strength` share of the inner dimensions of the middle layer adds nothing."""
    mlp = middle_of(model).mlp
    if not hasattr(mlp, "experts"):
        down = mlp.down_proj.weight.data
    elif is_vllm(model):
        down = mlp.experts.routed_experts.w2_weight.data
    else:
        down = mlp.experts.down_proj.data
        if hasattr(mlp.experts, "down_proj_bias"):  # GPT-OSS: [E, I, D]
            down = down.transpose(1, 2)
    missing = max(1, round(strength * down.shape[-1]))
    down[..., -missing:] = 0.0


FAULT = Fault(
    id="mlp-shard",
    about="one shard of an MLP of the engine missing",
    causes=("stale-tensor", UNLISTED),
    why_several="the shard holds other numbers, or is never added",
    family="weights",
    side="infer",
    kind="plugin",
    severities={"plain": 0.5, "medium": 0.125, "slight": 0.03125},
    expected_location=middle("mlp"),
    plant=plant,
)
