"""The trainer's experts drop the tokens beyond their capacity."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from mismatch_lab.faults.architectures import first_experts, is_moe
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.held_out.parts import UNLISTED
from mismatch_lab.faults.modules import routers


def plant(model: Any, strength: float) -> None:
    """Each expert takes `strength` times its even share of the batch, first come first served."""
    for router in routers(model):
        router.register_forward_hook(partial(_drop, strength))


def _drop(factor: float, router: Any, _args: Any, output: Any) -> Any:
    from torch.nn import functional

    logits, weights, chosen = output
    capacity = math.ceil(factor * chosen.numel() / logits.shape[-1])
    asked = functional.one_hot(chosen.flatten(), logits.shape[-1])  # [N * K, E]
    place = (asked.cumsum(0) * asked).sum(-1).view_as(chosen)
    return logits, weights.masked_fill(place > capacity, 0.0), chosen


FAULT = Fault(
    id="expert-capacity",
    about="tokens over the capacity of an expert dropped in the trainer",
    causes=(UNLISTED, "batch-variance"),
    why_several="who is dropped depends on the micro-batch",
    family="moe",
    side="train",
    kind="plugin",
    severities={"plain": 1.0, "medium": 1.5, "slight": 2.0},
    applies=is_moe,
    expected_location=first_experts,
    plant=plant,
)
