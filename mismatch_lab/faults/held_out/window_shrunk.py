"""The trainer has the sliding window of another release of the model."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.base import Config, Fault


def plant(model: Any, strength: float) -> None:
    """The window is shorter by a share of `strength`."""
    window = round(model.config.sliding_window * (1 - strength))
    model.config.sliding_window = window
    for module in model.modules():
        if getattr(module, "sliding_window", None):
            module.sliding_window = window


def has_any_window(model_type: str, config: Config) -> bool:
    """On some layers, or, without `layer_types`, on all."""
    del model_type
    kinds = config.get("layer_types") or ["sliding_attention"]
    return bool(config.get("sliding_window")) and "sliding_attention" in kinds


def _first(config: Config) -> str:
    kinds = config.get("layer_types") or ["sliding_attention"]
    return f"model.layers.{kinds.index('sliding_attention')}.self_attn"


FAULT = Fault(
    id="window-shrunk",
    about="sliding window of the trainer too short",
    causes=("sliding-window",),
    family="attention",
    side="train",
    kind="plugin",
    severities={"plain": 0.5, "medium": 0.25, "slight": 0.0625},
    applies=has_any_window,
    expected_location=_first,
    plant=plant,
)
