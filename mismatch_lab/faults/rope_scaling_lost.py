"""The trainer read the config without its rope scaling."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.architectures import first_attention, has_yarn
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.rope import rebuild_rope, rope_parameters


def plant(model: Any, strength: float) -> None:
    """The factor's part above 1 reduced by this share; at 1 the positions are not scaled."""
    factor = rope_parameters(model)["factor"]
    rebuild_rope(model, factor=1 + (factor - 1) * (1 - strength))


FAULT = Fault(
    id="rope-scaling-lost",
    about="rope scaling of the trainer lost or too small",
    causes=("rope-scaling",),
    family="attention",
    side="train",
    kind="plugin",
    severities={"plain": 1.0, "medium": 0.3, "slight": 0.03},
    applies=has_yarn,
    expected_location=first_attention,
    plant=plant,
)
