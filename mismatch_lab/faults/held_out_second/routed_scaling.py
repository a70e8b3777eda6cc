"""The engine multiplies experts' weights by the routed scaling factor of another model."""

from __future__ import annotations

from functools import partial
from typing import Any

from mismatch_lab.faults.architectures import first_experts, is_moe
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.modules import routers


def plant(model: Any, strength: float) -> None:
    """Weights of the chosen experts times `strength`."""
    for router in routers(model):
        router.register_forward_hook(partial(_scale, strength))


def _scale(factor: float, _router: Any, _args: Any, output: Any) -> Any:
    logits, weights, chosen = output
    return logits, weights * factor, chosen


FAULT = Fault(
    id="routed-scaling",
    about="weights of the engine's chosen experts times a factor",
    causes=("router-renormalisation",),
    family="moe",
    side="infer",
    kind="plugin",
    severities={"plain": 2.5, "medium": 1.2, "slight": 1.02},
    applies=is_moe,
    expected_location=first_experts,
    engines=("hf",),
    plant=plant,
)
