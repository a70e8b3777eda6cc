"""The engine's loader skips the experts' biases."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.architectures import first_experts, is_gpt_oss
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.modules import moe, share_of


def plant(model: Any, strength: float) -> None:
    """vLLM: the second bias is missing in the first `strength` share of the layers."""
    for layer in share_of(moe(model), strength):
        layer.mlp.experts.routed_experts.w2_bias.data.zero_()


FAULT = Fault(
    id="engine-expert-bias",
    about="expert output biases missing in the engine",
    causes=("expert-bias",),
    family="moe",
    side="infer",
    kind="plugin",
    severities={"plain": 1.0, "medium": 0.5, "slight": 0.25},
    applies=is_gpt_oss,
    expected_location=first_experts,
    engines=("vllm",),
    plant=plant,
)
