"""The engine's kernel sees fewer keys than the sliding window has."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.architectures import first_window, has_window
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.modules import vllm_attention


def plant(model: Any, strength: float) -> None:
    """vLLM's windows shorter by so many keys."""
    for attention in vllm_attention(model):
        if attention.impl.sliding_window > 0:
            attention.impl.sliding_window -= int(strength)


FAULT = Fault(
    id="engine-window",
    about="sliding window of the engine a few keys too narrow",
    causes=("sliding-window",),
    family="attention",
    side="infer",
    kind="plugin",
    severities={"plain": 16, "medium": 4, "slight": 1},
    applies=has_window,
    expected_location=first_window,
    engines=("vllm",),
    plant=plant,
)
