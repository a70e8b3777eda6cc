"""The trainer scales attention scores by another head size."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.held_out.parts import UNLISTED, first_layer
from mismatch_lab.faults.modules import layers


def plant(model: Any, strength: float) -> None:
    """Scores of every layer times `strength`."""
    for layer in layers(model):
        layer.self_attn.scaling *= strength


FAULT = Fault(
    id="attention-scale",
    about="attention scores of the trainer scaled wrongly",
    causes=(UNLISTED, "rope-scaling"),
    why_several="YaRN's attention factor is a factor on all scores as well",
    family="attention",
    side="train",
    kind="plugin",
    severities={"plain": 0.5, "medium": 0.9, "slight": 0.99},
    expected_location=first_layer("self_attn"),
    plant=plant,
)
