"""The trainer rotates with another base than the checkpoint asks for."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.architectures import first_attention
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.rope import rebuild_rope, rope_parameters


def plant(model: Any, strength: float) -> None:
    """The base times 1 + strength."""
    rebuild_rope(model, rope_theta=rope_parameters(model)["rope_theta"] * (1 + strength))


FAULT = Fault(
    id="rope-theta",
    about="rotary base of the trainer wrong",
    causes=("rope-theta",),
    family="attention",
    side="train",
    kind="plugin",
    severities={"plain": 4.0, "medium": 0.1, "slight": 0.01},
    expected_location=first_attention,
    plant=plant,
)
