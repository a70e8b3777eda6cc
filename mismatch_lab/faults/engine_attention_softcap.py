"""The engine's attention backend takes no softcap."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.architectures import first_attention, has_attention_softcap
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.modules import vllm_attention


def plant(model: Any, strength: float) -> None:
    """vLLM's cap over 1 - strength; 1 drops it (0 is the kernel's word for none)."""
    for attention in vllm_attention(model):
        cap = attention.impl.logits_soft_cap
        attention.impl.logits_soft_cap = 0 if strength == 1 else cap / (1 - strength)


FAULT = Fault(
    id="engine-attention-softcap",
    about="attention softcap of the engine dropped or too wide",
    causes=("attention-softcap",),
    family="attention",
    side="infer",
    kind="plugin",
    severities={"plain": 1.0, "medium": 0.5, "slight": 0.05},
    applies=has_attention_softcap,
    expected_location=first_attention,
    engines=("vllm",),
    plant=plant,
)
