"""The trainer's kernel counts the sliding window without the token itself."""

from __future__ import annotations

from typing import Any

from mismatch_lab.faults.architectures import first_window, has_window
from mismatch_lab.faults.base import Fault


def plant(model: Any, strength: float) -> None:
    """A window of so many more keys, in the masks and for kernels that build none."""
    model.config.sliding_window += int(strength)
    for module in model.modules():
        if getattr(module, "sliding_window", None):
            module.sliding_window += int(strength)


FAULT = Fault(
    id="window-off-by-one",
    about="sliding window of the trainer a few keys too wide",
    causes=("sliding-window",),
    family="attention",
    side="train",
    kind="plugin",
    severities={"plain": 16, "medium": 4, "slight": 1},
    applies=has_window,
    expected_location=first_window,
    plant=plant,
)
