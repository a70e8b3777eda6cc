"""The engine's attention backend takes no sinks."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.architectures import first_attention, is_gpt_oss
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.modules import share_of, vllm_attention


def plant(model: Any, strength: float) -> None:
    """vLLM, the first `strength` share of the layers."""
    for attention in share_of(vllm_attention(model), strength):
        attention.impl.sinks = None


FAULT = Fault(
    id="engine-sinks-dropped",
    about="attention sinks ignored by the engine's backend",
    causes=("attention-sinks-dropped",),
    family="attention",
    side="infer",
    kind="plugin",
    severities={"plain": 1.0, "medium": 0.5, "slight": 0.25},
    applies=is_gpt_oss,
    expected_location=first_attention,
    engines=("vllm",),
    plant=plant,
)
