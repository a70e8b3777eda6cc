"""The trainer takes every layer for a full-attention one."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.architectures import first_window, has_window, windowed_layers
from mismatch_lab.faults.base import Fault
from mismatch_lab.faults.modules import share_of


def plant(model: Any, strength: float) -> None:
    """The first `strength` share of the windowed layers sees all keys."""
    ignore_window(model, share_of(windowed_layers(model.config.to_dict()), strength))


def ignore_window(model: Any, chosen: list[int]) -> None:
    """Those layers get the mask of full attention."""
    kinds = list(model.config.layer_types)
    for layer in chosen:
        kinds[layer] = "full_attention"
        model.model.layers[layer].self_attn.sliding_window = None
    model.config.layer_types = kinds


FAULT = Fault(
    id="window-ignored",
    about="sliding window ignored by the trainer",
    causes=("sliding-window",),
    family="attention",
    side="train",
    kind="plugin",
    severities={"plain": 1.0, "medium": 0.5, "slight": 0.01},
    applies=has_window,
    expected_location=first_window,
    plant=plant,
)
