"""The trainer puts the sliding window on the odd layers instead of the even ones."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.architectures import has_window, layer_types
from mismatch_lab.faults.base import Config, Fault
from mismatch_lab.faults.held_out.parts import first_layer


def plant(model: Any, strength: float) -> None:
    """The first `strength` share of the layers has the other kind of attention."""
    kinds = list(model.config.layer_types)
    for layer in range(max(1, round(strength * len(kinds)))):
        windowed = kinds[layer] == "full_attention"
        kinds[layer] = "sliding_attention" if windowed else "full_attention"
        window = model.config.sliding_window if windowed else None
        model.model.layers[layer].self_attn.sliding_window = window
    model.config.layer_types = kinds


def has_both(model_type: str, config: Config) -> bool:
    """Windowed layers among others."""
    return has_window(model_type, config) and "full_attention" in layer_types(config)


FAULT = Fault(
    id="window-on-other-layers",
    about="sliding window on the wrong layers of the trainer",
    causes=("sliding-window",),
    family="attention",
    side="train",
    kind="plugin",
    severities={"plain": 1.0, "medium": 0.5, "slight": 0.25},
    applies=has_both,
    expected_location=first_layer("self_attn"),
    plant=plant,
)
