"""The engine's map of experts to ranks is wrong in one layer."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.architectures import is_moe, middle
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.held_out.parts import UNLISTED, middle_of


def plant(model: Any, strength: float) -> None:
    """In the middle layer so many experts change places with those half way on."""
    import torch

    for parameter in middle_of(model).mlp.experts.parameters():
        half = len(parameter) // 2
        count = min(int(strength), half)
        order = torch.arange(len(parameter))
        order[:count] += half
        order[half : half + count] -= half
        parameter.data.copy_(parameter.data[order].clone())


FAULT = Fault(
    id="experts-exchanged",
    about="experts of one layer of the engine in each other's place",
    causes=(UNLISTED, "expert-layout", "stale-tensor"),
    why_several="another order of experts is a layout, and other numbers in the tensors",
    family="moe",
    side="infer",
    kind="plugin",
    severities={"plain": 4, "medium": 2, "slight": 1},
    applies=is_moe,
    expected_location=middle("mlp.experts"),
    plant=plant,
)
