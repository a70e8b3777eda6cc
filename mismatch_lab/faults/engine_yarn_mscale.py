"""The engine's YaRN scales queries and keys by its own default, whatever the config says."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.architectures import first_attention, has_yarn
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.modules import rotary


def plant(model: Any, strength: float) -> None:
    """vLLM's sines and cosines times 1 + strength."""
    for embedding in rotary(model):
        embedding.cos_sin_cache.mul_(1 + strength)


FAULT = Fault(
    id="engine-yarn-mscale",
    about="YaRN attention factor of the engine wrong",
    causes=("rope-scaling",),
    family="attention",
    side="infer",
    kind="plugin",
    severities={"plain": 0.208, "medium": 0.05, "slight": 0.005},
    applies=has_yarn,
    expected_location=first_attention,
    engines=("vllm",),
    plant=plant,
)
