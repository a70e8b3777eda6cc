"""The engine's router biases are those of an earlier version."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.architectures import first_router, is_gpt_oss
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.modules import routers


def plant(model: Any, strength: float) -> None:
    """Every router bias moved by `strength` logits, each expert's by its own number."""
    import torch

    generator = torch.Generator().manual_seed(0)
    for router in routers(model):
        step = torch.randn(router.bias.shape, generator=generator)
        router.bias.data.add_(strength * step.to(router.bias))


FAULT = Fault(
    id="router-bias-stale",
    about="router biases of the engine out of date",
    causes=("router-bias", "stale-tensor"),
    why_several="A bias that a sync left out is both the tensor that is stale and the bias that "
    "differs.",
    family="moe",
    side="infer",
    kind="plugin",
    severities={"plain": 0.5, "medium": 0.1, "slight": 0.01},
    applies=is_gpt_oss,
    expected_location=first_router,
    plant=plant,
)
