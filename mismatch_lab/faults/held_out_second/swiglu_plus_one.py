"""The trainer's experts run a kernel for common gated MLPs, without the 1 that GPT-OSS adds."""

from __future__ import annotations

from functools import partial
from typing import Any

from mismatch_lab.faults.architectures import first_experts, is_gpt_oss
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.held_out.parts import UNLISTED
from mismatch_lab.faults.modules import moe


def plant(model: Any, strength: float) -> None:
    """`strength` of the 1 is missing."""
    for layer in moe(model):
        experts = layer.mlp.experts
        experts._apply_gate = partial(_gate, experts, 1 - strength)


def _gate(experts: Any, added: float, gate_up: Any) -> Any:
    """As transformers' GPT-OSS, with another number added to `up`."""
    gate = gate_up[..., ::2].clamp(max=experts.limit)
    up = gate_up[..., 1::2].clamp(-experts.limit, experts.limit)
    return (up + added) * gate * (gate * experts.alpha).sigmoid()


FAULT = Fault(
    id="swiglu-plus-one",
    about="gate of the trainer's experts without the 1 that GPT-OSS adds",
    causes=(UNLISTED,),
    family="moe",
    side="train",
    kind="plugin",
    severities={"plain": 1.0, "medium": 0.1, "slight": 0.01},
    applies=is_gpt_oss,
    expected_location=first_experts,
    plant=plant,
)
