"""The trainer's attention is handed another scale than the config's."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.architectures import first_attention, has_yarn
from mismatch_lab.faults.base import Config, Fault


def plant(model: Any, strength: float) -> None:
    """Scores times this number, in every layer."""
    for module in model.modules():
        if hasattr(module, "scaling") and hasattr(module, "o_proj"):
            module.scaling = module.scaling * strength


def _applies(model_type: str, config: Config) -> bool:
    """A YaRN attention factor is a scale too: nothing tells them apart."""
    return not has_yarn(model_type, config)


FAULT = Fault(
    id="scores-scaled",
    about="attention scores of the trainer times a constant",
    causes=("attention-scale",),
    family="attention",
    side="train",
    kind="plugin",
    severities={"plain": 0.8, "medium": 0.95, "slight": 0.99},
    applies=_applies,
    expected_location=first_attention,
    plant=plant,
)
