"""The trainer's expert kernel adds no biases."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.architectures import first_experts, is_gpt_oss
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.modules import moe, share_of


def plant(model: Any, strength: float) -> None:
    """Neither bias in the first `strength` share of the layers."""
    for layer in share_of(moe(model), strength):
        experts = layer.mlp.experts
        experts.gate_up_proj_bias.data.zero_()
        experts.down_proj_bias.data.zero_()


FAULT = Fault(
    id="expert-bias",
    about="expert biases missing in the trainer",
    causes=("expert-bias",),
    family="moe",
    side="train",
    kind="plugin",
    severities={"plain": 1.0, "medium": 0.5, "slight": 0.25},
    applies=is_gpt_oss,
    expected_location=first_experts,
    plant=plant,
)
