"""The trainer leaves YaRN's attention factor out."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.architectures import first_attention, has_yarn
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.modules import rotary


def plant(model: Any, strength: float) -> None:
    """The part of the factor above 1 reduced by this share; 1 leaves it out."""
    for embedding in rotary(model):
        scaling = embedding.attention_scaling
        embedding.attention_scaling = 1 + (scaling - 1) * (1 - strength)


FAULT = Fault(
    id="yarn-mscale",
    about="YaRN attention factor of the trainer left out",
    causes=("rope-scaling",),
    family="attention",
    side="train",
    kind="plugin",
    severities={"plain": 1.0, "medium": 0.25, "slight": 0.03},
    applies=has_yarn,
    expected_location=first_attention,
    plant=plant,
)
