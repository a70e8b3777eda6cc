"""The engine lost the rotary base between two config schemas."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.architectures import first_attention
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.modules import rotary


def plant(model: Any, strength: float) -> None:
    """vLLM's base times 1 + strength."""
    for embedding in rotary(model):
        embedding.base *= 1 + strength
        embedding.cos_sin_cache.copy_(embedding._compute_cos_sin_cache())


FAULT = Fault(
    id="engine-rope-theta",
    about="rotary base of the engine wrong",
    causes=("rope-theta",),
    family="attention",
    side="infer",
    kind="plugin",
    severities={"plain": 4.0, "medium": 0.1, "slight": 0.01},
    expected_location=first_attention,
    engines=("vllm",),
    plant=plant,
)
